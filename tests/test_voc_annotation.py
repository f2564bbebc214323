"""voc_annotation.py on small VOC folders: splits, lists, what is printed."""

import os
import re

import pytest
from PIL import Image
from voc_folder import SPLITS, no_search, twenty, voc  # noqa: F401 (fixtures)

import voc_annotation
from train import TrainSettings
from utils.cli import UserError
from voc_annotation import AnnotationSettings, specs_to_examine


def test_splits_cover_all_images_once(twenty):
    voc, ids = twenty
    voc.run(test_share=0.2, val_share=0.1)
    assert [len(voc.ids(name)) for name in SPLITS] == [14, 2, 4]
    assert sorted(sum((voc.ids(name) for name in SPLITS), [])) == ids
    assert voc.ids("trainval") == sorted(voc.ids("train") + voc.ids("val"))
    for name in SPLITS:
        assert voc.listed(name) == voc.ids(name)


def test_splits_depend_on_the_seed_alone(twenty):
    voc, _ = twenty
    found = []
    for seed in (0, 0, 1):
        voc.run(seed=seed, overwrite_splits=True)
        found.append([voc.ids(name) for name in SPLITS])
    assert found[0] == found[1] != found[2]


def test_splits_are_kept_unless_overwritten(twenty, capsys):
    voc, _ = twenty
    voc.run()
    before = [voc.ids(name) for name in SPLITS]
    voc.run(seed=7, test_share=0.5)
    assert [voc.ids(name) for name in SPLITS] == before
    assert "kept" in capsys.readouterr().out
    voc.run(seed=7, test_share=0.5, overwrite_splits=True)
    assert len(voc.ids("test")) == 10


def test_vocs_own_splits_are_read(twenty):
    voc, ids = twenty
    voc.split("train", [f"{k} -1" for k in ids[:8]])
    voc.split("val", [f"{k}  1" for k in ids[8:12]])
    voc.split("test", ids[12:])
    voc.run()
    assert [voc.listed(name) for name in SPLITS] == [ids[:8], ids[8:12], ids[12:]]
    assert {path.name for path in voc.main_dir.iterdir()} == {"train.txt", "val.txt", "test.txt"}


def test_trainval_alone_is_divided(twenty, capsys):
    voc, ids = twenty
    voc.split("trainval", ids[:15])
    voc.run(test_share=0.1, val_share=0.2)
    train, val = voc.ids("train"), voc.ids("val")
    assert sorted(train + val) == ids[:15] and len(val) == 3
    # Who says what is for training leaves nothing to draw for testing.
    assert not (voc.main_dir / "test.txt").exists()
    assert "5 x in no split" in capsys.readouterr().out
    assert voc.ids("trainval") == ids[:15]


def test_a_kept_test_split_stays_out_of_training(twenty):
    voc, ids = twenty
    voc.split("test", ids[:5])
    voc.run()
    assert voc.ids("test") == ids[:5]
    assert sorted(voc.ids("train") + voc.ids("val")) == ids[5:]


def test_lists_hold_edges_labels_and_classes(voc):
    voc.fill(["b", "c"])
    voc.image("a b")
    voc.xml("a b", ("dog", 3, 4, 12, 14), ("cat", 41, 31, 60, 45))
    for name, ids in zip(SPLITS, (["a b"], ["b"], ["c"])):
        voc.split(name, ids)
    voc.run()
    record, = voc.list("train")
    # The second box reaches beyond the 50x40 image.
    assert record.boxes_px.tolist() == [[2, 3, 12, 14], [40, 30, 50, 40]]
    assert record.labels.tolist() == [1, 0] and not record.difficult.any()
    assert record.path == voc.root / "JPEGImages" / "a b.jpg" and record.path.is_file()
    assert not (voc.path / "2007_classes.txt").exists()  # each list names its classes itself


@pytest.mark.parametrize("suffix", [".JPG", ".png", ".jpeg", ".bmp"])
def test_usual_image_endings(voc, suffix):
    voc.fill(["b", "c"])
    voc.image("a", suffix)
    voc.xml("a", ("cat", 1, 1, 5, 5), size=False)
    for name, member in zip(SPLITS, "abc"):
        voc.split(name, [member])
    voc.run()
    assert voc.list("train")[0].path.name == f"a{suffix}"


def test_missing_size_is_taken_from_the_image(voc):
    voc.fill(["b", "c"])
    voc.image("a")
    voc.xml("a", ("cat", 41, 31, 600, 600), size=False)
    voc.xml("b", ("cat", 1, 1, 20, 20), size=False)
    for name, member in zip(SPLITS, "abc"):
        voc.split(name, [member])
    voc.run()
    assert voc.list("train")[0].boxes_px.tolist() == [[40, 30, 50, 40]]


def test_unknown_class_names_the_nearest(twenty, capsys):
    voc, ids = twenty
    voc.xml(ids[0], ("cat", 1, 1, 5, 5), ("Dgo", 1, 1, 5, 5), ("Dgo", 1, 1, 9, 9))
    voc.xml(ids[1], ("cat", 1, 1, 5, 5), ("xylophone", 1, 1, 5, 5))
    voc.run()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not in")]
    assert len(lines) == 2
    assert "'Dgo', 2 objects" in lines[0] and "did you mean 'dog'" in lines[0]
    assert "'xylophone', 1 objects" in lines[1] and "did you mean" not in lines[1]


def test_gaps_are_reported_and_left_out(twenty, capsys):
    voc, ids = twenty
    voc.image("no_xml")
    voc.xml("no_image", ("cat", 1, 1, 5, 5))
    voc.xml(ids[0], ("cat", 1, 1, 30, 30), ("dog", 60, 1, 70, 9), ("dog", 1, 1, 30, 30))
    voc.split("train", [*ids[:12], "no_xml", "no_image"])
    voc.run()
    out = capsys.readouterr().out
    problems = out[out.index("Problems\n"):].splitlines()[1:]
    found = {line.partition(" (")[0]: problems[k + 1] for k, line in enumerate(problems)
             if line[:1].isdigit()}
    assert list(found) == ["1 x image missing", "1 x no annotation", "1 x split names nothing",
                           "4 x in no split", "1 x no area"]
    assert "no_image.xml" in found["1 x image missing"]
    assert "no_xml.jpg" in found["1 x no annotation"]
    assert "train.txt: 'no_xml'" in found["1 x split names nothing"]
    assert f"{ids[0]}.xml, object 2 (dog)" in found["1 x no area"]
    assert voc.listed("train") == ids[:12] and voc.list("train")[0].labels.tolist() == [0, 1]


def test_counts_and_background_are_printed(twenty, capsys):
    voc, ids = twenty
    voc.xml(ids[0])
    voc.split("train", ids[:12])
    voc.split("val", ids[12:15])
    voc.split("test", ids[15:])
    voc.run()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["cat", "11", "11", "3", "3", "5", "5"] in rows
    assert ["all", "12", "11", "3", "3", "5", "5"] in rows
    assert ["without", "objects", "1", "-", "0", "-", "0", "-"] in rows
    assert voc.listed("train")[0] == ids[0]


def test_a_list_without_objects_is_refused(twenty):
    voc, _ = twenty
    voc.classes("horse", "cow")
    with pytest.raises(UserError, match="train split has no object of a known class"):
        voc.run()
    assert not list(voc.path.glob("2007_*.txt"))


@pytest.mark.parametrize("folder", ["Annotations", "JPEGImages"])
def test_missing_folders_are_named(twenty, folder):
    voc, _ = twenty
    (voc.root / folder).rename(voc.root / "elsewhere")
    with pytest.raises(UserError, match=f"VOC2007/{folder}.*VOCdevkit_path"):
        voc.run()


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.2), (-0.1, 0.1), (1.0, 0.0), (0.0, 1.5)])
def test_shares_must_leave_something_to_train_on(twenty, shares):
    with pytest.raises(UserError, match="val_share and test_share must be at least 0"):
        twenty[0].run(test_share=shares[0], val_share=shares[1])


def test_no_test_share_gives_no_test_list(twenty, capsys):
    voc, ids = twenty
    voc.run(test_share=0.0)
    assert "no images for the test split" in capsys.readouterr().out
    assert len(voc.listed("train")) + len(voc.listed("val")) == len(ids)


def test_broken_xml_is_named(twenty, capsys):
    voc, ids = twenty
    (voc.root / "Annotations" / f"{ids[3]}.xml").write_text("<annotation>")
    voc.run()
    assert "1 x unreadable annotation" in (out := capsys.readouterr().out)
    assert f"{ids[3]}.xml: not a readable XML file" in out
    assert all(ids[3] not in voc.listed(name) for name in SPLITS)


def test_names_that_end_in_a_number_survive_a_second_run(voc):
    voc.fill([f"photo {k}" for k in range(12)])
    voc.run()
    before = [voc.listed(name) for name in SPLITS]
    voc.run()
    assert [voc.listed(name) for name in SPLITS] == before


@pytest.mark.parametrize("kind", ["a folder", "a full disk"])
def test_a_report_that_cannot_be_written_loses_no_list(twenty, capsys, monkeypatch, kind):
    voc, _ = twenty
    path = voc.path / "dataset_report.html"
    if kind == "a folder":
        path.mkdir()
    elif os.path.exists("/dev/full"):
        path.symlink_to("/dev/full")
    voc.run()
    assert "no report:" in (out := capsys.readouterr().out) and "dataset_report.html" in out
    assert len(voc.listed("train")) == 16


def test_an_image_that_vanishes_before_the_report_costs_a_sample_only(twenty, capsys, monkeypatch):
    voc, _ = twenty

    def vanish(lists, *rest):
        for record in lists["train"]:
            record.path.unlink()
        sheet = contact_sheet(lists, *rest)
        assert len(sheet) == 4 and not any(name.startswith("train") for name, _ in sheet)
        return sheet

    contact_sheet = voc_annotation.contact_sheet
    monkeypatch.setattr(voc_annotation, "contact_sheet", vanish)
    voc.run()
    assert len((voc.path / "2007_train.txt").read_text().splitlines()) == 1 + 16  # with the classes


def test_the_report_examines_the_network_of_train_py():
    spec, paper = specs_to_examine(AnnotationSettings())
    assert spec == paper and spec.anchors_size[0] == 30
    sizes = (10.0, 20.0, 40.0, 80.0, 120.0, 160.0, 200.0)
    spec, paper = specs_to_examine(AnnotationSettings(
        anchors_size=sizes, aspect_ratios=(4,), letterbox_image=True))
    assert (spec.anchors_size, spec.aspect_ratios, spec.letterbox) == (sizes, ((4,),) * 6, True)
    assert (paper.anchors_size[0], paper.aspect_ratios[1], paper.letterbox) == (30, (2, 3), True)
    ours, its = AnnotationSettings(), TrainSettings()
    for name in ("tile", "anchors_size", "aspect_ratios", "letterbox_image", "input_shape", "backbone"):
        assert getattr(ours, name) == getattr(its, name)


def test_impossible_priors_are_a_users_mistake(twenty):
    with pytest.raises(UserError, match="anchors_size"):
        twenty[0].run(anchors_size=(1.0, 2.0))


@pytest.mark.parametrize("spoil", ["JPEGImages/{}.jpg", "Annotations/{}.xml"])
@pytest.mark.parametrize("older", [False, True])
def test_a_split_of_unusable_images_says_so(twenty, capsys, spoil, older):
    voc, ids = twenty
    for name, members in zip(SPLITS, (ids[:12], ids[12:17], ids[17:])):
        voc.split(name, members)
    if older:
        voc.run()
    for name in ids[17:]:
        (voc.root / spoil.format(name)).write_text("broken")
    voc.run()
    line, = [line for line in capsys.readouterr().out.splitlines() if "no images for the" in line]
    assert "test split (3 unusable, see the problems above)" in line
    assert ("2007_test.txt.old" in line) == older and not (voc.path / "2007_test.txt").exists()


def test_images_that_a_hand_edited_train_txt_leaves_out(twenty, capsys):
    voc, ids = twenty
    voc.run()
    voc.split("train", voc.ids("train")[1:])
    voc.split("val", voc.ids("val")[1:])
    voc.run()
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "in no split file" in line)
    assert "add it to train.txt" in line


def test_split_files_that_are_drawn_anew_are_kept_as_old(twenty, capsys):
    voc, ids = twenty
    voc.split("train", ids[:15])
    voc.split("val", ids[15:])
    before = (voc.main_dir / "val.txt").read_bytes()
    voc.run(overwrite_splits=True)
    assert (voc.main_dir / "val.txt.old").read_bytes() == before
    assert (voc.main_dir / "val.txt").read_bytes() != before
    assert "val.txt was not drawn here: it is now val.txt.old" in capsys.readouterr().out


def test_an_annotation_that_is_broken_for_a_while_keeps_its_split(twenty):
    voc, ids = twenty
    voc.run()
    name = voc.ids("test")[0]
    path = voc.root / "Annotations" / f"{name}.xml"
    text = path.read_bytes()
    path.write_text("broken")
    voc.run()
    path.write_bytes(text)
    voc.run()
    assert name in voc.ids("test")


def test_small_objects_in_large_images_get_the_advice_to_set_tile(voc, capsys):
    for k in range(6):
        path = voc.root / "JPEGImages" / f"{k}.png"
        Image.new("RGB", (1600, 1200), (k, 0, 0)).save(path)
        voc.xml(path.stem, *(("cat", x, 11 + 190 * k, x + 27, 38 + 190 * k)
                             for x in range(3 + k, 1500, 250)), size=False)
    voc.run(test_share=0.2, val_share=0.2)
    said = capsys.readouterr().out
    assert "36 x tiny" in said
    [tile] = re.findall(r"windows cover (?:9\d\.\d|100\.0)% of the objects instead of 50.0%, for "
                        r"train.py:\n  tile = (\d+)\n", said)
    assert f"tile = {tile}" in (voc.path / "dataset_report.html").read_text(encoding="utf-8")
    voc.run(tile=int(tile))
    said = capsys.readouterr().out
    assert "  tile = " not in said and "x tiny" not in said
    assert re.search(r"\nall +36 +(9\d|100)\.\d%", said)
