"""voc_annotation.py: splits, lists, what is printed, several years, other formats."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from voc_folder import (SPLITS, Folder, no_search, save_image, twenty, voc,  # noqa: F401 (fixtures)
                        xml_object)

from train import TrainSettings
from utils.cli import UserError
from voc_annotation import AnnotationSettings, specs_to_examine


def test_splits_cover_all_images_once_and_are_kept(twenty, capsys):
    voc, keys = twenty
    voc.run(test_share=0.2, val_share=0.1)
    before = [voc.keys(name) for name in SPLITS]
    assert [len(members) for members in before] == [14, 2, 4] and sorted(sum(before, [])) == keys
    assert [voc.listed(name) for name in SPLITS] == before
    voc.run(seed=7, test_share=0.5)
    assert [voc.keys(name) for name in SPLITS] == before
    assert "20 images kept, 0 new" in capsys.readouterr().out
    voc.run(seed=7, test_share=0.5, overwrite_splits=True)
    assert len(voc.listed("test")) == 10


def test_vocs_own_splits_are_read_and_overwritten_ones_put_aside(twenty, capsys):
    voc, keys = twenty
    voc.split(train=[f"{key} -1" for key in keys[:8]], val=[f"{key}  1" for key in keys[8:12]],
              test=keys[12:])
    before = (voc.main_dir / "val.txt").read_bytes()
    voc.run()
    assert [voc.listed(name) for name in SPLITS] == [keys[:8], keys[8:12], keys[12:]]
    assert {path.name for path in voc.main_dir.iterdir()} == {"train.txt", "val.txt", "test.txt"}
    voc.run(overwrite_splits=True)
    assert (voc.main_dir / "val.txt.old").read_bytes() == before
    assert "val.txt is now val.txt.old" in capsys.readouterr().out


def test_lists_hold_edges_labels_and_classes(voc):
    voc.fill(["b", "c"])
    voc.image("a b")
    voc.xml("a b", ("dog", 3, 4, 12, 14), ("cat", 41, 31, 60, 45))
    voc.split(train=["a b"], val=["b"], test=["c"])
    voc.run()
    record, = voc.list("train")
    # The second box reaches beyond the 50x40 image.
    assert record.boxes_px.tolist() == [[2, 3, 12, 14], [40, 30, 50, 40]]
    assert record.labels.tolist() == [1, 0] and not record.difficult.any()
    assert record.path == voc.root / "JPEGImages" / "a b.jpg" and record.path.is_file()


def test_unknown_classes_name_the_nearest(twenty, capsys):
    voc, keys = twenty
    voc.xml(keys[0], ("cat", 1, 1, 5, 5), ("Dgo", 1, 1, 5, 5), ("Dgo", 1, 1, 9, 9))
    voc.xml(keys[1], ("cat", 1, 1, 5, 5), ("xylophone", 1, 1, 5, 5))
    voc.run()
    first, second = [line for line in capsys.readouterr().out.splitlines()
                     if line.startswith("not in")]
    assert "'Dgo', 2 objects" in first and "did you mean 'dog'" in first
    assert "'xylophone', 1 objects" in second and "did you mean" not in second


def test_every_decision_is_listed_with_file_and_object(voc, capsys):
    voc.fill("bad bent broken cut garbage gone lonely many size stray turned".split())
    images, xmls = voc.root / "JPEGImages", voc.root / "Annotations"
    for name in ("copy", "again"):
        (images / f"{name}.jpg").write_bytes((images / "many.jpg").read_bytes())
        voc.xml(name, ("cat", 1, 1, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 3
    voc.image("turned", exif=exif)
    (images / "gone.jpg").unlink()
    (xmls / "lonely.xml").unlink()
    (xmls / "broken.xml").write_text("<annotation>")
    (images / "garbage.jpg").write_bytes(b"garbage")
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:-200])
    voc.xml("bad", ("cat", 1, 1, "x", 20), ("cat", 1, 1, 10, 10))
    voc.xml("size", ("cat", 1, 1, 10, 10),
            extra="<size><width>100</width><height>80</height></size>")
    voc.xml("many", ("bird", 1, 1, 9, 9), ("cat", "nan", 1, 9, 9), ("cat", 20, 20, 1, 1),
            ("cat", 1, 1, 500, 20), ("cat", 200, 1, 250, 20), ("cat", 1, 1, 30, 30),
            ("cat", 1, 1, 30, 30), ("cat", 30, 30, 30, 30))
    voc.split(train="bad bent broken cut garbage gone many size turned again nothing".split(),
              val=["copy"])
    with pytest.raises(UserError, match="^19 problems and strict = True"):
        voc.run(strict=True)
    assert not list(voc.path.glob("2007_*.txt"))
    capsys.readouterr()
    voc.run()
    expected = {
        "unreadable annotation": "broken.xml", "bad object": "bad.xml, object 1 (cat)",
        "image missing": "gone.xml", "image unreadable": "garbage.jpg",
        "image truncated": "cut.jpg", "no annotation": "lonely.jpg",
        "split names nothing": "ImageSets/Main: nothing", "in no split": "stray.xml",
        "size disagrees": "size.xml", "orientation unclear": "turned.xml",
        "unknown class": "many.xml, object 1 (bird)",
        "coordinate not a number": "many.xml, object 2 (cat)",
        "corners swapped": "many.xml, object 3 (cat)",
        "outside the image": "many.xml, object 4 (cat)", "no area": "many.xml, object 5 (cat)",
        "duplicate": "many.xml, object 7 (cat)", "tiny": "many.xml, object 8 (cat)",
        "same image in two splits": "copy.jpg", "same image twice": "again.jpg"}
    out = capsys.readouterr().out
    lines = out[out.index("Problems\n"):].splitlines()
    found = {match[1]: lines[k + 1] for k, line in enumerate(lines)
             if (match := re.match(r"\d+ x (.*) \(", line))}
    assert set(found) == set(expected)
    for kind, where in expected.items():
        assert where in found[kind]
    assert voc.listed("train") == "bad bent many size turned again".split()
    report = (voc.path / "dataset_report.html").read_text(encoding="utf-8")
    assert "many.xml, object 5 (cat)" in report


@pytest.mark.parametrize("changes, words", [
    ({"test_share": -0.1}, "test_share"), ({"val_share": 1.5}, "val_share"), ({"seed": -1}, "seed"),
    ({"input_shape": (300, 200)}, "input_shape must be square"),
    ({"anchors_size": (1.0, 2.0)}, "anchors_size"), ({"years": ("2012",)}, "no XML files"),
    ({"VOCdevkit_path": "none"}, "VOC2007/Annotations: no XML files"),
    ({"classes_path": "none.txt"}, "none.txt"), ({"annotation_format": "coco"}, "annotation_path"),
    ({"annotation_format": "csv", "annotation_path": "none"}, "none: no such file or folder")])
def test_settings_that_cannot_work_are_refused(twenty, changes, words):
    with pytest.raises(UserError, match=words):
        twenty[0].run(**changes)


def test_lists_without_objects_are_refused(twenty):
    voc, keys = twenty
    voc.split(train=["nothing"], val=keys)
    with pytest.raises(UserError, match="train split has no object of a known class"):
        voc.run()
    (voc.path / "classes.txt").write_text("horse\ncow\n")
    with pytest.raises(UserError, match="no object of a known class: no list"):
        voc.run()
    assert not list(voc.path.glob("2007_*.txt"))


def test_a_split_that_became_empty_leaves_no_older_list(twenty, capsys):
    voc, keys = twenty
    voc.split(train=keys[:12], val=keys[12:17], test=keys[17:])
    voc.run()
    for key in keys[17:]:
        (voc.root / "JPEGImages" / f"{key}.jpg").write_text("broken")
    voc.run()
    out = capsys.readouterr().out
    assert "2007_test.txt: 0 of 3 images usable" in out
    assert "2007_test.txt is now 2007_test.txt.old" in out
    assert not (voc.path / "2007_test.txt").exists()


def test_an_annotation_that_is_broken_for_a_while_keeps_its_split(twenty):
    voc, _ = twenty
    voc.run()
    key = voc.keys("test")[0]
    path = voc.root / "Annotations" / f"{key}.xml"
    text = path.read_bytes()
    path.write_text("broken")
    voc.run()
    assert key not in voc.listed("test")
    path.write_bytes(text)
    voc.run()
    assert key in voc.listed("test")


def test_small_objects_in_large_images_get_the_advice_to_set_tile(voc, capsys, monkeypatch):
    for k in range(6):
        path = voc.root / "JPEGImages" / f"{k}.png"
        Image.new("RGB", (1600, 1200), (k, 0, 0)).save(path)
        voc.xml(path.stem, *(("cat", x, 11 + 190 * k, x + 27, 38 + 190 * k)
                             for x in range(3 + k, 1500, 250)))
    voc.run(test_share=0.2, val_share=0.2)
    out = capsys.readouterr().out
    tile, = re.findall(r"tiles cover (?:9\d\.\d|100\.0)% of them .*:\n  tile = (\d+)\n", out)
    assert "36 x tiny" in out
    voc.run(tile=int(tile))
    out = capsys.readouterr().out
    assert "  tile = " not in out and "x tiny" not in out
    assert re.search(r"\nall +36 +(9\d|100)\.\d%", out)


def test_the_report_examines_the_network_of_train_py():
    spec, paper = specs_to_examine(AnnotationSettings())
    assert spec == paper and spec.anchors_size[0] == 30
    sizes = (10.0, 20.0, 40.0, 80.0, 120.0, 160.0, 200.0)
    spec, paper = specs_to_examine(AnnotationSettings(
        anchors_size=sizes, aspect_ratios=(4,), letterbox_image=True))
    assert (spec.anchors_size, spec.aspect_ratios, spec.letterbox) == (sizes, ((4,),) * 6, True)
    assert (paper.anchors_size[0], paper.aspect_ratios[1], paper.letterbox) == (30, (2, 3), True)
    for name in ("tile", "anchors_size", "aspect_ratios", "letterbox_image", "input_shape",
                 "backbone"):
        assert getattr(AnnotationSettings(), name) == getattr(TrainSettings(), name)


# VOC's own counts by 400, mixed as VOC's are; VOC2012 has six annotated images in no split.
YEAR_07 = {"train": range(0, 12, 2), "val": range(1, 12, 2), "trainval": range(12),
           "test": range(12, 24)}
YEAR_12 = {"train": range(100, 128, 2), "val": [*range(101, 128, 2), 128],
           "trainval": range(100, 129)}


@pytest.fixture
def official(tmp_path):
    """Return a folder with small copies of VOC2007, all cats, and VOC2012, all dogs."""
    folders = {}
    for year, label, keys, splits in (("2012", "dog", range(100, 135), YEAR_12),
                                      ("2007", "cat", range(24), YEAR_07)):
        folders[year] = Folder(tmp_path / year, year)
        folders[year].fill([f"{key:03d}" for key in keys], label)
        folders[year].split(**{name: [f"{key:03d}" for key in members]
                               for name, members in splits.items()})
    folders["2012"].root.rename(tmp_path / "2007" / "VOCdevkit" / "VOC2012")
    return folders["2007"]


def numbers(voc, name):
    return [int(key) for key in voc.listed(name)]


@pytest.mark.parametrize("val_share", [0, 0.1])
def test_trainval_of_both_years_and_the_test_of_2007(official, val_share, capsys):
    for _ in range(2):  # the same again
        official.run(years=("2007", "2012"), train_on="trainval", val_share=val_share)
        val = numbers(official, "val") if val_share else []
        assert sorted(numbers(official, "train") + val) == [*range(12), *range(100, 129)]
        assert numbers(official, "test") == [*range(12, 24)]
        assert len(val) == (1 + 3 if val_share else 0)
    assert "6 x in no split" in capsys.readouterr().out
    assert not list(official.path.rglob("*drawn*"))


def test_both_years_keep_their_official_splits(official):
    official.run(years=("2007", "2012"))
    for name in SPLITS:
        assert numbers(official, name) == [*YEAR_07[name], *YEAR_12.get(name, [])]
    for record in official.list("train"):
        assert record.labels.tolist() == [int("VOC2012" in str(record.path))]


def test_lists_of_one_other_year_are_named_by_it(official):
    official.run(years=("2012",))
    assert {path.name for path in official.path.glob("20*_*.txt")} == {
        "2012_train.txt", "2012_val.txt"}


def write_source(folder, form, names):
    """Write images with one cat each, at edges (10, 10, 30, 30), in one of the formats."""
    for name in names:
        save_image(folder / f"{name}.jpg")
    if form == "coco":
        (folder / "a.json").write_text(json.dumps({
            "images": [{"id": k, "file_name": f"{name}.jpg", "width": 50, "height": 40}
                       for k, name in enumerate(names)],
            "categories": [{"id": 4, "name": "cat"}],
            "annotations": [{"image_id": k, "category_id": 4, "bbox": [10, 10, 20, 20]}
                            for k in range(len(names))]}))
    elif form == "csv":
        rows = [f"{name}.jpg,cat,10,10,30,30\n" for name in names]
        (folder / "a.csv").write_text("filename,class,xmin,ymin,xmax,ymax\n" + "".join(rows))
    else:
        (folder / "data.yaml").write_text("names: [dog, cat]")
        for name in names:
            (folder / f"{name}.txt").write_text("1 0.4 0.5 0.4 0.5")


@pytest.mark.parametrize("form", ["coco", "yolo", "csv"])
def test_other_formats_are_drawn_from(voc, form):
    source, names = voc.path / "source", [f"p {k}" for k in range(20)]
    write_source(source, form, names)
    voc.run(annotation_format=form, annotation_path=str(source))
    lists = [voc.list(name) for name in SPLITS]
    assert [len(records) for records in lists] == [16, 2, 2]
    assert sorted(record.path.stem for record in sum(lists, [])) == sorted(names)
    for record in sum(lists, []):
        np.testing.assert_allclose(record.boxes_px, [[10, 10, 30, 30]], atol=1e-3)
        assert record.labels.tolist() == [0] and record.path.is_file()
    before = [voc.listed(name) for name in SPLITS]
    write_source(source, form, names + [f"q {k}" for k in range(20)])
    voc.run(annotation_format=form, annotation_path=str(source))
    assert all(set(old) < set(voc.listed(name)) for name, old in zip(SPLITS, before))
