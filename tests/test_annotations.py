"""Annotation files, records and list files."""

from pathlib import Path

import numpy as np
import pytest

from utils.annotations import (Record, check_same_classes, classes_file, clip_box, format_record,
                               nearest_name, parse_line, read_class_names, read_list, read_voc_xml,
                               write_list)
from utils.cli import ROOT, UserError


def xml_object(box="<xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax>", name="cat",
               extra=""):
    """Return an <object>; box None leaves the bndbox out."""
    box = "" if box is None else f"<bndbox>{box}</bndbox>"
    return f"<object><name>{name}</name>{extra}{box}</object>"


def corners(*values):
    """Return the four corner tags."""
    tags = zip(("xmin", "ymin", "xmax", "ymax"), values)
    return "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)


@pytest.fixture
def read(tmp_path):
    """Return a function that reads an annotation of these contents."""
    def write_and_read(contents, size="<size><width>50</width><height>40</height></size>"):
        path = tmp_path / "ab.xml"
        path.write_text(f"<annotation>{size}{contents}</annotation>", encoding="utf-8")
        return read_voc_xml(path)
    return write_and_read


def test_voc_pixels_become_edges(read):
    # Pixels 1..10 across and 1..20 down are ten columns and twenty rows.
    item, = read(xml_object()).objects
    assert item == ("cat", (0, 0, 10, 20), False)
    one_pixel, = read(xml_object(corners(7, 3, 7, 3))).objects
    x1, y1, x2, y2 = one_pixel.box_px
    assert (x1, y1) == (6, 2) and (x2 - x1) * (y2 - y1) == 1


def test_edges_give_the_devkit_overlap(read):
    a, b = (25, 10, 60, 55), (40, 2, 90, 33)
    columns = set(range(25, 61)) & set(range(40, 91))
    rows = set(range(10, 56)) & set(range(2, 34))
    first, second = (item.box_px for item in read(
        xml_object(corners(*a)) + xml_object(corners(*b))).objects)
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    assert width * height == len(columns) * len(rows)


def test_fractions_are_kept(read):
    item, = read(xml_object(corners(1.5, "2.25", " 10.75 ", 20))).objects
    assert item.box_px == (0.5, 1.25, 10.75, 20)


@pytest.mark.parametrize("extra, difficult", [
    ("", False), ("<difficult>0</difficult>", False), ("<difficult>1</difficult>", True),
    ("<difficult></difficult>", False), ("<difficult> 1 </difficult>", True)])
def test_difficult_may_be_missing(read, extra, difficult):
    assert read(xml_object(extra=extra)).objects[0].difficult is difficult


def test_parts_are_not_objects(read):
    part = f"<part><name>head</name><bndbox>{corners(2, 2, 3, 3)}</bndbox></part>"
    item, = read(xml_object(extra=part)).objects
    assert item.name == "cat" and item.box_px == (0, 0, 10, 20)


def test_objects_keep_their_order_and_names(read):
    names = ["traffic light", "Ampel ö", "cat"]
    assert [item.name for item in read("".join(
        xml_object(name=f" {name} ") for name in names)).objects] == names


@pytest.mark.parametrize("size, expected", [
    ("<size><width>50</width><height>40</height></size>", (50, 40)), ("", None), ("<size/>", None),
    ("<size><width>0</width><height>0</height></size>", None),
    ("<size><width>x</width><height>40</height></size>", None)])
def test_size_where_it_makes_sense(read, size, expected):
    annotation = read("", size)
    assert annotation.size == expected and annotation.objects == []


@pytest.mark.parametrize("text", ["", "<annotation>", "hello", "<a></b>", "\x00\x01"])
def test_broken_xml_is_named(tmp_path, text):
    path = tmp_path / "broken one.xml"
    path.write_text(text)
    with pytest.raises(UserError, match="broken one.xml"):
        read_voc_xml(path)


def test_missing_xml_and_folder_are_named(tmp_path):
    for path in (tmp_path / "none.xml", tmp_path):
        with pytest.raises(UserError, match=path.name):
            read_voc_xml(path)


@pytest.mark.parametrize("second", [
    xml_object(None), xml_object(corners(1, 2, 3)), xml_object(corners(1, 2, "x", 4)),
    xml_object(corners(1, 2, "nan", 4)), xml_object(corners(1, 2, "inf", 4)), xml_object(name=" "),
    f"<object><bndbox>{corners(1, 2, 3, 4)}</bndbox></object>"])
def test_bad_object_is_counted_from_one(read, second):
    with pytest.raises(UserError, match=r"ab\.xml: object 2 "):
        read(xml_object() + second)


@pytest.mark.parametrize("box, expected", [
    ((-5, -5, 20, 20), (0, 0, 20, 20)), ((10, 10, 60, 60), (10, 10, 50, 40)),
    ((0, 0, 50, 40), (0, 0, 50, 40)), ((60, 0, 70, 10), None), ((5, 5, 5.5, 30), None),
    ((20, 5, 10, 30), None), ((49, 39, 50, 40), (49, 39, 50, 40)), ((49.5, 0, 80, 40), None)])
def test_clip_box_drops_what_has_no_pixel_left(box, expected):
    assert clip_box(box, 50, 40) == expected


def make_record(path, objects):
    """Return a Record of (x1, y1, x2, y2, label, difficult) rows."""
    rows = np.array(objects, dtype=np.float64).reshape(-1, 6)
    return Record(Path(path), rows[:, :4].astype(np.float32), rows[:, 4].astype(np.int64),
                  rows[:, 5].astype(bool))


@pytest.mark.parametrize("path", [
    "/data/a.jpg", "/my pictures/a b  c.jpg", "/ä/图 1.png", str(ROOT / "img" / "a b.jpg"),
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
    write_list(tmp_path / "2007_train.txt", records, ("cat", "traffic light"))
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
    with pytest.raises(UserError, match=r"x_train\.txt.*no pictures"):
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
