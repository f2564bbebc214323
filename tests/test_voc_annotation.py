"""voc_annotation.py: lists, what is printed, several years, other formats."""
# ruff: noqa: F811 (fixtures of pytest)

import json

import numpy as np
import pytest
from tiny_detector import tiny_detector
from voc_folder import (SPLITS, Folder, no_search, twenty, voc,  # noqa: F401 (fixtures)
                        save_image, write_text, xml_object)

from train import TrainSettings
from utils.cli import UserError
from voc_annotation import AnnotationSettings, specs_to_examine

CAT = xml_object("cat", 1, 1, 9, 9)


def test_splits_cover_all_images_once_and_are_kept(twenty, capsys):
    voc, keys = twenty
    voc.run(test_share=0.2, val_share=0.1)
    before = [voc.listed(name) for name in SPLITS]
    assert [len(members) for members in before] == [14, 2, 4] and sorted(sum(before, [])) == keys
    voc.run(seed=7, test_share=0.5)
    assert [voc.listed(name) for name in SPLITS] == before
    assert "20 images kept, 0 new" in capsys.readouterr().out
    voc.run(seed=7, test_share=0.5, overwrite_splits=True)
    assert len(voc.listed("test")) == 10


def test_lists_hold_edges_labels_and_classes(voc):
    voc.fill(["a b", "b", "c"])
    voc.xml("a b", ("dog", 3, 4, 12, 14), ("cat", 41, 31, 60, 45))
    voc.split(train=["a b -1"], val=["b  1"], test=["c"])
    voc.run()
    record, = voc.list("train")
    # The second box reaches beyond the 50x40 image.
    assert record.boxes_px.tolist() == [[2, 3, 12, 14], [40, 30, 50, 40]]
    assert record.labels.tolist() == [1, 0] and not record.difficult.any()
    assert record.path == voc.root / "JPEGImages" / "a b.jpg" and record.path.is_file()
    assert not list(voc.path.rglob("*drawn*"))


def test_problems_are_listed_with_file_and_object(voc, capsys):
    voc.fill(["broken", "gone", "many", "stray", "lonely"])
    voc.xml("many", ("dog", 1, 1, 9, 9), ("Dgo", 1, 1, 9, 9), ("xylophone", 1, 1, 9, 9))
    (voc.root / "Annotations" / "lonely.xml").unlink()
    (voc.root / "Annotations" / "broken.xml").write_text("<annotation>")
    (voc.root / "JPEGImages" / "gone.jpg").unlink()
    voc.split(train=["broken", "gone", "many", "nothing"], val=["many"])
    voc.run()
    out = capsys.readouterr().out
    report = (voc.path / "dataset_report.html").read_text(encoding="utf-8")
    for kind, where in (("unreadable annotation", "broken.xml"), ("image missing", "gone.xml"),
                        ("no annotation", "lonely.jpg"), ("in no split", "stray.xml"),
                        ("unknown class", "many.xml, object 2 (Dgo)")):
        assert f"x {kind} (" in out and where in out and where in report
    assert "'Dgo', 1 objects left out" in out and "'xylophone', 1 objects left out\n" in out
    assert voc.listed("train") == ["many"]


@pytest.mark.parametrize("changes, words", [
    ({"test_share": -0.1}, "test_share"), ({"val_share": 1.5}, "val_share"), ({"seed": -1}, "seed"),
    ({"input_shape": (300, 200)}, "input_shape must be square"),
    ({"anchors_size": (1.0, 2.0)}, "anchors_size"),
    ({"years": ("2012",)}, "VOC2012: no such file"),
    ({"VOCdevkit_path": "none"}, "VOC2007: no such file or folder.*annotation_path"),
    ({"classes_path": "none.txt"}, "none.txt"), ({"annotation_format": "coco"}, "no annotations"),
    ({"annotation_path": "tests", "VOCdevkit_path": "x"}, "set one of them"),
    ({"annotation_path": "none"}, "none: no such file")])
def test_settings_that_cannot_work_are_refused(twenty, changes, words):
    with pytest.raises(UserError, match=words):
        twenty[0].run(**changes)


def test_lists_without_objects_are_refused(twenty):
    (twenty[0].path / "classes.txt").write_text("horse\ncow\n")
    with pytest.raises(UserError, match="train split has no usable object .20 are of"):
        twenty[0].run()
    assert not list(twenty[0].path.glob("2007_*.txt"))


def test_the_report_examines_the_network_of_train_py(tmp_path):
    sizes = (10.0, 20.0, 40.0, 80.0, 120.0, 160.0, 200.0)
    spec, paper, large = specs_to_examine(AnnotationSettings(
        anchors_size=sizes, aspect_ratios=(4,), letterbox_image=True))
    assert (spec.anchors_size, spec.aspect_ratios, spec.letterbox) == (sizes, ((4,),) * 6, True)
    assert (paper.anchors_size[0], paper.aspect_ratios[1], paper.letterbox) == (30, (2, 3), True)
    assert large.letterbox and large.size == 512
    tiny_detector().save(tmp_path / "best.pth")
    spec, *others = specs_to_examine(AnnotationSettings(
        model_path=str(tmp_path / "best.pth"), tile=128))
    assert (spec.size, spec.tile, others) == (260, 128, [None, None])
    for name in ("tile", "anchors_size", "aspect_ratios", "letterbox_image", "input_shape",
                 "backbone", "augmentation"):
        assert getattr(AnnotationSettings(), name) == getattr(TrainSettings(), name)


# VOC's own counts by 400; VOC2012 has six annotated images in no split.
OFFICIAL = {"2007": {"train": range(0, 12, 2), "val": range(1, 12, 2), "trainval": range(12),
                     "test": range(12, 24)},
            "2012": {"train": range(100, 128, 2), "val": [*range(101, 128, 2), 128],
                     "trainval": range(100, 129)}}


@pytest.fixture
def official(tmp_path):
    """Return a folder with small copies of VOC2007, all cats, and VOC2012, all dogs."""
    folders = []
    for year, label, keys in (("2007", "cat", range(24)), ("2012", "dog", range(100, 135))):
        folders.append(Folder(tmp_path / year, year))
        folders[-1].fill(map(str, keys), label)
        folders[-1].split(**{name: map(str, keys) for name, keys in OFFICIAL[year].items()})
    folders[1].root.rename(folders[0].root.with_name("VOC2012"))
    return folders[0]


def numbers(voc, name):
    return [int(key) for key in voc.listed(name)]


@pytest.mark.parametrize("val_share", [0, 0.1])
def test_trainval_of_both_years_and_the_test_of_2007(official, val_share, capsys):
    official.run(years=("2007", "2012"), train_on="trainval", val_share=val_share)
    val = numbers(official, "val") if val_share else []
    assert sorted(numbers(official, "train") + val) == [*range(12), *range(100, 129)]
    assert sorted(numbers(official, "test")) == [*range(12, 24)]
    assert len(val) == (1 + 3 if val_share else 0)
    assert "6 x in no split" in capsys.readouterr().out


def test_years_keep_their_official_splits(official):
    official.run(years=("2012",))
    assert {path.name for path in official.path.glob("20*_*.txt")} == {
        "2012_train.txt", "2012_val.txt"}
    official.run(years=("2007", "2012"))
    for name in SPLITS:
        assert sorted(numbers(official, name)) == [*OFFICIAL["2007"][name],
                                                   *OFFICIAL["2012"].get(name, [])]
    for record in official.list("train"):
        assert record.labels.tolist() == [int("VOC2012" in str(record.path))]


def test_a_list_to_measure_on_holds_what_cocos_tools_read(voc):
    beyond = {"bbox": [40.07, 30.33, 38.65, 20.1], "area": 412.0257049999998}
    rows = [{"image_id": 1, "category_id": 1, "iscrowd": k % 2, **row} for k, row in enumerate(
        [beyond, beyond, {"bbox": [0, 0.1, 0.5, 30], "area": 9}])]
    for split in SPLITS:
        save_image(voc.path / "coco" / split / "a.jpg")  # 50x40 pixels
        write_text(voc.path / f"coco/annotations/instances_{split}.json", json.dumps({
            "images": [{"id": 1, "file_name": "a.jpg"}],
            "categories": [{"id": 1, "name": "cat"}], "annotations": rows}))
    voc.run(annotation_path=str(voc.path / "coco"), box_format="xywh")
    for split in ("val", "test"):
        [record] = voc.list(split)
        np.testing.assert_allclose(record.boxes_px, [[40.07, 30.33, 78.72, 50.43]] * 2 + [
            [0, 0.1, 0.5, 30.1]], rtol=0, atol=1e-6)
        assert record.areas.tolist() == [412.0257049999998] * 2 + [9]
        assert record.difficult.tolist() == [False, True, False]
    [record] = voc.list("train")  # inside the image, once, and learnable
    np.testing.assert_allclose(record.boxes_px, [[40.07, 30.33, 50, 40]])


def test_one_path_is_enough(voc, capsys):
    for name in ("Dog", "cat", "__ignore__"):
        voc.xml(f"sub/{name}", (name, 1, 1, 9, 9))
        save_image(voc.root / "JPEGImages" / "sub" / f"{name}.jpg")
    voc.run(annotation_path=str(voc.path), classes_path="",
            test_share=0, val_share=0)
    assert "classes: Dog, cat\n" in capsys.readouterr().out
    assert (voc.path / "2007_classes.txt").read_text() == "Dog\ncat\n"
    assert voc.listed("train") == ["Dog", "cat"]


@pytest.mark.parametrize("names, words", [
    ("cats\ndog", "'cats' has no object; did you mean 'cat', which has 1"), ("dog\nbird", None)])
def test_a_class_list_that_is_spelt_otherwise_is_refused(twenty, names, words):
    voc, _ = twenty
    voc.fill(["dog"], "dog")
    voc.split(train=["dog", "000"])
    (voc.path / "classes.txt").write_text(names)
    if words:
        with pytest.raises(UserError, match=f"classes.txt: {words}"):
            voc.run(test_share=0, val_share=0)
        assert not list(voc.path.glob("2007_*.txt"))
    else:  # an image of other classes alone is no background
        voc.run(test_share=0, val_share=0)
        assert voc.listed("train") == ["dog"]
