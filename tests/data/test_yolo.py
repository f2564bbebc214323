"""YOLO text files."""

import numpy as np
import pytest
from source_files import kinds, plain, read, read_by_key
from voc_folder import save_image, write_text

from utils.cli import UserError
from utils.data.yolo import NO_NAME, yolo_names

WHOLE = "0 0.5 0.5 1 1"


def test_fractions_become_pixels(tmp_path):
    write_text(tmp_path / "classes.txt", "cat\ntraffic light\n")
    path = save_image(tmp_path / "a.jpg", (200, 100))
    write_text(tmp_path / "a.txt", "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.9 0.2 0.2 0.97\r\n")
    items, problems = read_by_key(tmp_path)
    assert not problems and items["a"].image == path and items["a"].size is None
    first, second = items["a"].objects
    # A quarter of 200 is 50 columns around column 100; half of 100 is 50 rows around row 50.
    assert first[0] == "traffic light" and first.box_px == pytest.approx((75, 25, 125, 75))
    assert second[0] == "cat" and second.box_px == pytest.approx((0, 80, 40, 100))


@pytest.mark.parametrize("image, labels", [
    ("images/a.jpg", "labels/a.txt"), ("images/train/a.jpg", "labels/train/a.txt"),
    ("train/images/a.b.PNG", "train/labels/a.b.txt"), ("deep/a b.jpg", "deep/a b.txt"),
    ("my_images/a.jpg", "my_images/a.txt"), ("Images/train/a.jpg", "LABELS/Train/A.TXT")])
def test_where_labels_lie(tmp_path, image, labels):
    write_text(tmp_path / "classes.txt", "cat")
    path = save_image(tmp_path / image)
    write_text(tmp_path / labels, WHOLE)
    (item,), problems = read(tmp_path)
    assert item.image == path and plain(item.objects) == [("cat", (0, 0, 50, 40), False)]
    assert not problems and item.origin.endswith(labels)


def test_files_without_their_other_half(tmp_path):
    write_text(tmp_path / "classes.txt", "cat")
    for name in ("train/a", "train/b", "val/c"):
        save_image(tmp_path / "images" / f"{name}.jpg")
    write_text(tmp_path / "labels" / "train" / "b.txt", "")
    write_text(tmp_path / "labels" / "d.txt", WHOLE)
    items, problems = read_by_key(tmp_path)
    # Background where the others have labels; those not labelled yet would be that too.
    assert {key: item.objects for key, item in items.items()} == {
        "train/images/train/b": [], "train/images/train/a": [],
        "labels/d": items["labels/d"].objects}
    assert items["labels/d"].image is None
    assert kinds(problems) == ["no label file", "no annotation"]
    assert problems[1].where.endswith("images/val/c.jpg")


@pytest.mark.parametrize("line, name, box", [
    ("2 0.5 0.5 1 1", NO_NAME, (0, 0, 50, 40)), ("0.5 0.5 0.5 1 1", NO_NAME, (0, 0, 50, 40)),
    ("cat 0.5 0.5 1 1", "cat", (0, 0, 50, 40)), ("0 0.5 0.5 1", "cat", None),
    ("0 0,5 0,5 0,5 0,5", "cat", (12.5, 10, 37.5, 30)), ("0,0.5,0.5,1,1", NO_NAME, None),
    ("0 0.1 0.1 0.5 0.1 0.5 0.5", "cat", (5, 4, 25, 20)),  # a polygon
    ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.2", "cat", None), ("0 0.1 0.1 0.5 x 0.5 0.5", "cat", None)])
def test_lines(tmp_path, line, name, box):
    write_text(tmp_path / "classes.txt", "cat\ndog")
    save_image(tmp_path / "a.jpg")
    write_text(tmp_path / "a.txt", f"1 0.5 0.5 1 1\n\n{line}\n0 0.5 0.5 1 1\n")
    [item], problems = read(tmp_path)
    first, thing, last = item.objects
    assert (first.name, thing.name, last.name) == ("dog", name, "cat") and not problems
    assert thing.position.startswith("line 3")
    np.testing.assert_allclose(thing.box_px, box or [np.nan] * 4)


def test_keypoints_are_no_polygon(tmp_path):
    write_text(tmp_path / "data.yaml", "names: [cat]\nkpt_shape: [2, 2]")
    save_image(tmp_path / "a.jpg")
    write_text(tmp_path / "a.txt", "0 0.5 0.5 0.5 0.5 0.1 0.1 0.2 0.2")
    [item], _ = read(tmp_path)
    assert plain(item.objects) == [("cat", (12.5, 10, 37.5, 30), False)]


@pytest.mark.parametrize("name, text, names", [
    ("data.yaml", "names: ['cat', 'red dog''s ö']", {0: "cat", 1: "red dog's ö"}),
    ("../data.yml", "names:\n  1: dog\n  0: cat\n", {0: "cat", 1: "dog"}),
    ("data.yaml", "names: {'0': cat, 7: dog}", {0: "cat", 7: "dog"}),
    ("data.yaml", "names: [0, 1]", {0: "0", 1: "1"}),
    ("classes.txt", "\ufeffcat\r\n\r\n dog \r\n\n", {0: "cat", 2: "dog"}),
    ("obj.names", "cat\ndog\n", {0: "cat", 1: "dog"}), ("cfg/obj.names", "cat", {0: "cat"}),
    ("labels/classes.txt", "cat\n", {0: "cat"}), ("_darknet.labels", "cat\n", {0: "cat"})])
def test_where_names_come_from(tmp_path, name, text, names):
    (tmp_path / "data").mkdir()
    write_text(tmp_path / "data" / name, text)
    expected = {name: name for name in names.values()} | {str(k): names[k] for k in names}
    assert yolo_names(tmp_path / "data") == expected


@pytest.mark.parametrize("files, words", [
    ({}, "data: no annotations"), ({"data.yaml": "nc: 2"}, "no class names"),
    ({"data.yaml": "names: []"}, "data: no class names"),
    ({"data.yaml": "names: [cat", "classes.txt": "dog"}, "data.yaml: while parsing"),
    ({"data.yaml": "names: [cat, dog]", "labels/classes.txt": "dog\ncat\n"},
     "data.yaml and .*classes.txt disagree")])
def test_broken_names_and_empty_folders_are_refused(tmp_path, files, words):
    save_image(tmp_path / "data" / "a.jpg")
    for name, text in (files | {"a.txt": WHOLE} if files else files).items():
        write_text(tmp_path / "data" / name, text)
    with pytest.raises(UserError, match=words):
        read(tmp_path / "data", "yolo")
