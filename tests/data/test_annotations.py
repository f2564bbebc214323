"""Records, class lists and list files."""

from pathlib import Path

import numpy as np
import pytest

from utils.cli import ROOT, UserError
from utils.data.annotations import (
    Record,
    check_same_classes,
    classes_file,
    format_record,
    nearest_name,
    parse_line,
    read_class_names,
    read_list,
    list_text,
)


def make_record(path, objects):
    """Return a Record of (x1, y1, x2, y2, label, difficult) rows."""
    rows = np.array(objects, dtype=np.float64).reshape(-1, 6)
    return Record(Path(path), rows[:, :4].astype(np.float32), rows[:, 4].astype(np.int64),
                  rows[:, 5].astype(bool))


@pytest.mark.parametrize("path", [
    "/data/a.jpg", "/my images/a b  c.jpg", "/ä/图 1.png", str(ROOT / "img" / "a b.jpg"),
    "/odd/1,2,3,4,5/a.jpg", "/odd/a 1,2.jpg"])
@pytest.mark.parametrize("objects", [
    [], [(1, 2, 30, 40, 0, 0)], [(0, 0, 9.5, 12.25, 3, 1), (-4, -2.5, 7, 8, 12, 0)]])
def test_list_line_round_trip(path, objects):
    record = make_record(path, objects)
    back = parse_line(format_record(record) + "\n")
    assert back.path == record.path
    for got, expected in zip(back[1:], record[1:]):
        assert got.dtype == expected.dtype and got.shape == expected.shape
        assert np.array_equal(got, expected)


def test_list_line_has_the_documented_form():
    record = make_record(ROOT / "img" / "a.jpg", [(1, 2, 30.5, 40, 0, 0), (3, 4, 5, 6, 2, 1)])
    assert format_record(record) == "img/a.jpg 1,2,30.5,40,0 3,4,5,6,2,1"


def test_tiny_coordinates_round_trip():
    back = parse_line(format_record(make_record("/a.jpg", [(1e-5, 2, 30, 40, 0, 0)])))
    np.testing.assert_allclose(back.boxes_px, [[0, 2, 30, 40]], atol=1e-4)


def test_lists_of_other_tools_without_difficult_are_read():
    record = parse_line("/VOC/a.jpg 48,240,195,371,11 8,12,352,498,14")
    assert record.path == Path("/VOC/a.jpg")
    assert record.boxes_px.tolist() == [[48, 240, 195, 371], [8, 12, 352, 498]]
    assert record.labels.tolist() == [11, 14] and not record.difficult.any()


def test_list_file_round_trip(tmp_path):
    records = [make_record(tmp_path / "a b.jpg", [(1, 2, 30, 40, 1, 1)]),
               make_record(tmp_path / "ö.jpg", [])]
    (tmp_path / "2007_train.txt").write_text(list_text(records, ("cat", "traffic light")))
    back, class_names = read_list(tmp_path / "2007_train.txt")
    assert class_names == ("cat", "traffic light")
    assert [record.path for record in back] == [record.path for record in records]
    assert np.array_equal(back[0].boxes_px, records[0].boxes_px) and len(back[1].labels) == 0


@pytest.mark.parametrize("line", [
    "a.jpg 1,2,3,4", "a.jpg 1,2,3,4,-1", "a.jpg 1,2,3,4,0.5", "a.jpg 1,2,3,4,0,2",
    "a.jpg nan,2,3,4,0", "a.jpg 5,2,3,4,0", "a.jpg 1,4,3,4,0", "a.jpg 1,2,3,4,7", "1,2,3,4,0",
    "a.jpg 1,2,3,4 5,6,7,8,0"])
def test_broken_line_is_numbered(tmp_path, line):
    # The blank second line counts, as an editor counts it.
    (tmp_path / "my_val.txt").write_text(f"ok.jpg 1,2,3,4,0\n\n{line}\n")
    (tmp_path / "my_classes.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"my_val\.txt, line 3: "):
        read_list(tmp_path / "my_val.txt")


def test_missing_and_empty_lists_name_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"x_train\.txt.*voc_annotation\.py"):
        read_list(tmp_path / "x_train.txt")
    (tmp_path / "x_train.txt").write_text("\n \n")
    with pytest.raises(UserError, match=r"x_classes\.txt"):
        read_list(tmp_path / "x_train.txt")
    (tmp_path / "x_classes.txt").write_text("cat\n")
    with pytest.raises(UserError, match=r"x_train\.txt.*no images"):
        read_list(tmp_path / "x_train.txt")


@pytest.mark.parametrize("name, classes", [
    ("2007_train.txt", "2007_classes.txt"), ("my_own_val.txt", "my_own_classes.txt")])
def test_classes_lie_beside_the_list(tmp_path, name, classes):
    assert classes_file(tmp_path / name) == tmp_path / classes
    assert classes_file(name) == ROOT / classes


def test_class_list_is_read_leniently(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeff cat \r\n\r\ntraffic  light\nCat\nö\n\n".encode())
    assert read_class_names(path) == ("cat", "traffic  light", "Cat", "ö")


@pytest.mark.parametrize("text, complaint", [
    ("", "no class names"), ("\n \n", "no class names"), ("cat\ndog\ncat\n", "'cat' stands twice")])
def test_bad_class_list_is_named(tmp_path, text, complaint):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=rf"classes\.txt: .*{complaint}"):
        read_class_names(tmp_path / "classes.txt")


@pytest.mark.parametrize("ours, theirs, message", [
    (("a", "b"), ("a", "c"), "number 2 is 'b' in the first, 'c' in the second"),
    (("a", "b"), ("b", "a"), "number 1 is 'a' in the first, 'b' in the second"),
    (("a",), ("a", "b"), "number 2 is 'nothing' in the first, 'b' in the second"),
    (("a", "b", "c"), ("a",), "number 2 is 'b' in the first, 'nothing' in the second")])
def test_different_classes_name_the_first_difference(ours, theirs, message):
    with pytest.raises(UserError, match=message) as error:
        check_same_classes(ours, "best.pth", theirs, "2007_val.txt")
    assert "best.pth" in str(error.value) and "2007_val.txt" in str(error.value)


def test_same_classes_pass():
    check_same_classes(["a", "b"], "best.pth", ("a", "b"), "2007_val.txt")


@pytest.mark.parametrize("name, expected", [
    ("Dog", "dog"), ("dgo", "dog"), ("motorcycle", "motorbike"), ("trafficlight", "Traffic Light"),
    ("xyzzy", None), ("", None)])
def test_nearest_name(name, expected):
    assert nearest_name(name, ("cat", "dog", "motorbike", "Traffic Light")) == expected
