"""A VOC folder with every kind of problem that the dataset doctor knows."""

import numpy as np
import pytest
from PIL import Image
from voc_folder import no_search  # noqa: F401 (a fixture)

import voc_annotation
from utils.cli import UserError
from utils.data.doctor import Doctor, check_classes, check_splits
from utils.data.image_check import inspect_images
from utils.data.sources import ProblemKind
from utils.data.voc import read_voc
from voc_annotation import AnnotationSettings, main, read_source

CLASSES = ("cat", "dog")


def voc_object(name, *box):
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box)
    return (f"<object><name>{name}</name><bndbox>"
            + "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags) + "</bndbox></object>")


# Kind -> what stands in (file, object) of the message, for the folder below.
EXPECTED = {
    "unreadable annotation": ("broken.xml", ""), "bad object": ("bad.xml", "object 1"),
    "image missing": ("gone.xml", ""), "image unreadable": ("garbage.jpg", ""),
    "image truncated": ("cut.jpg", ""), "image damaged": ("holed.jpg", ""),
    "orientation unclear": ("turned.xml", ""), "no annotation": ("lonely.jpg", ""),
    "split names nothing": ("train.txt", ""), "in no split": ("stray.xml", ""),
    "size disagrees": ("size.xml", ""),
    "unknown class": ("many.xml", "object 1 (bird)"),
    "coordinate not a number": ("many.xml", "object 2 (cat)"),
    "corners swapped": ("many.xml", "object 3 (cat)"),
    "outside the image": ("many.xml", "object 4 (cat)"),
    "no area": ("many.xml", "object 5 (cat)"), "duplicate": ("many.xml", "object 7 (cat)"),
    "tiny": ("many.xml", "object 8 (cat)"), "same image in two splits": ("copy.jpg", ""),
    "same image twice": ("again.jpg", ""), "unused class": ("dog", "")}
MANY = [("bird", 1, 1, 50, 50), ("cat", "nan", 1, 50, 50), ("cat", 50, 50, 1, 1),
        ("cat", 1, 1, 500, 50), ("cat", 200, 1, 250, 50), ("cat", 1, 1, 40, 40),
        ("cat", 1, 1, 40, 40), ("cat", 30, 30, 31, 31)]


@pytest.fixture
def everything(tmp_path):
    """Make a VOC folder with a problem of every kind; return its parent."""
    root = tmp_path / "VOC2007"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    names = "broken bad garbage cut lonely size many copy again holed turned stray".split()
    for shade, name in enumerate(names):
        pixels = np.random.default_rng(shade % 7).integers(0, 256, (80, 100, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 3 if name == "turned" else 1
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", exif=exif)
    for name, origin in (("copy", "many"), ("again", "many")):
        (root / f"JPEGImages/{name}.jpg").write_bytes(
            (root / f"JPEGImages/{origin}.jpg").read_bytes())
    (root / "JPEGImages/garbage.jpg").write_bytes(b"garbage")
    data = (root / "JPEGImages/cut.jpg").read_bytes()
    (root / "JPEGImages/cut.jpg").write_bytes(data[:-200])
    data = (root / "JPEGImages/holed.jpg").read_bytes()
    (root / "JPEGImages/holed.jpg").write_bytes(data[:-900] + data[-300:])
    contents = dict.fromkeys([*names, "gone"], voc_object("cat", 1, 1, 50, 50))
    contents["bad"] = voc_object("cat", 1, 1, "x", 50) + contents["bad"]
    contents["many"] = "".join(voc_object(*row) for row in MANY)
    contents["size"] = "<size><width>200</width><height>160</height></size>" + contents["size"]
    for name in set(contents) - {"lonely"}:
        end = "" if name == "broken" else "</annotation>"
        (root / f"Annotations/{name}.xml").write_text(f"<annotation>{contents[name]}{end}")
    splits = {"train": "bad garbage cut holed turned size many again gone nothing",
              "val": "copy", "test": ""}
    for split, members in splits.items():
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(members.split()))
    return tmp_path


def test_every_kind_is_found_and_placed(everything):
    # The last two come with COCO and CSV, and with YOLO.
    found = {*EXPECTED, "one image, two spellings", "no label file"}
    assert found == set(ProblemKind), "a kind without a case here, or a case without a kind"
    annotations, splits, faults, *_ = read_source(
        AnnotationSettings(VOCdevkit_path=str(everything)))
    paths = [item.image for item in annotations.values() if item.image]
    doctor = Doctor(CLASSES, inspect_images(paths, num_threads=1))
    doctor.problems += faults
    lists = {split: [record for key in keys if key in annotations
                     and (record := doctor.record(annotations[key]))]
             for split, keys in splits.items()}
    check_splits(doctor, lists)
    check_classes(doctor, lists, CLASSES)
    for kind, (file, number) in EXPECTED.items():
        where = [problem.where for problem in doctor.problems if problem.kind == kind]
        assert any(file in text and number in text for text in where), (kind, where)


def test_strict_raises_and_writes_no_lists(everything, capsys, monkeypatch):
    for slow in ("plot_boxes", "contact_sheet"):
        monkeypatch.setattr(voc_annotation, slow, lambda *_: [])
    (everything / "classes.txt").write_text("\n".join(CLASSES))
    settings = AnnotationSettings(
        classes_path=str(everything / "classes.txt"), VOCdevkit_path=str(everything),
        lists_dir=str(everything), strict=True, backbone="mobilenetv2", input_shape=(260, 260))
    with pytest.raises(UserError, match="problems and strict = True"):
        main(settings)
    assert not list(everything.glob("2007_*"))
    out = capsys.readouterr().out
    assert all(kind in out for kind in EXPECTED)


def from_voc(tmp_path, *objects):
    """Return (record, problems) of VOC objects on a 100x80 image."""
    root = tmp_path / "VOC"
    for name in ("Annotations", "JPEGImages"):
        (root / name).mkdir(parents=True)
    path = root / "JPEGImages" / "a.jpg"
    Image.new("RGB", (100, 80)).save(path)
    (root / "Annotations/a.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
    (annotation,), problems = read_voc(root)
    doctor = Doctor(CLASSES, inspect_images([path], num_threads=1))
    return doctor.record(annotation), problems + doctor.problems


def test_numbers_are_those_of_the_file(tmp_path):
    _, problems = from_voc(tmp_path, voc_object("cat", 1, 1, "x", 9),
                           voc_object("cat", 1, 1, 50, 50), voc_object("bird", 1, 1, 50, 50))
    assert [problem.where for problem in problems] == [
        "a.xml, object 1 (cat)", "a.xml, object 3 (bird)"]


def test_swapped_voc_corners_keep_their_pixels(tmp_path):
    # Pixels 11..30 and 21..60, whichever comes first.
    record, _ = from_voc(tmp_path, voc_object("cat", 30, 60, 11, 21))
    assert record.boxes_px.tolist() == [[10, 20, 30, 60]]
