"""VOC XML."""

import math

import numpy as np
import pytest
from source_files import read_by_key
from voc_folder import Folder, xml_object

from utils.cli import UserError

CAT = xml_object("cat", 1, 1, 10, 20)


@pytest.fixture
def read(tmp_path):
    """Return a function from the content of a.xml, beside an image, to (Annotation, problems)."""
    folder = Folder(tmp_path)
    folder.fill(["a", "b"])

    def write_and_read(text):
        data = text if isinstance(text, bytes) else f"<annotation>{text}</annotation>".encode()
        (folder.root / "Annotations" / "a.xml").write_bytes(data)
        items, problems = read_by_key(folder.root)
        return items["a"], problems
    return write_and_read


def test_voc_pixels_become_edges(read):
    # Pixels 1..10 across and 1..20 down are ten columns and twenty rows.
    item, problems = read(CAT + xml_object("cat", 7, 3, 7, "3.5\n") + xml_object("dog", 9, 5, 4, 2))
    assert [thing[:2] for thing in item.objects] == [
        ("cat", (0, 0, 10, 20)), ("cat", (6, 2, 7, 3.5)), ("dog", (9, 5, 3, 1))]  # stays swapped
    assert (item.key, item.origin) == ("a", "Annotations/a.xml") and not problems
    assert item.image.name == "a.jpg"


def test_difficult_may_be_missing(read):
    item, _ = read("".join(CAT.replace("<bndbox>", f"{flag}<bndbox>") for flag in (
        "", "<difficult>0</difficult>", "<difficult>1</difficult>", "<difficult/>")))
    assert [thing.difficult for thing in item.objects] == [False, False, True, False]


def test_parts_are_not_objects(read):
    part = CAT.replace("object", "part")
    item, problems = read(CAT.replace("</object>", part * 2 + "</object>"))
    assert len(item.objects) == 1 and not problems


NO_NUMBER = (math.nan,) * 4


@pytest.mark.parametrize("second", [
    xml_object("cat", 1, 2, 3), xml_object("cat", 1, 2, "x", 4), xml_object("cat", 1, 2, "", 4),
    "<object/>", "<object><name>cat</name></object>", xml_object("cat", 1, 2, "1,5,2", 4)])
def test_an_object_without_four_numbers_is_counted(read, second):
    item, _ = read(CAT + second + CAT)
    np.testing.assert_equal([thing.box_px for thing in item.objects],
                            [(0, 0, 10, 20), NO_NUMBER, (0, 0, 10, 20)])
    assert item.objects[1].position == "object 2"


@pytest.mark.parametrize("degrees", [0, 30, 90, 120, 300])
def test_the_box_around_a_rotated_one(read, degrees):
    # CVAT writes the box before the rotation: here 20x10 pixels about (20, 15).
    attribute = f"<attribute><name>rotation</name><value>{degrees}.0</value></attribute>"
    item, _ = read(xml_object("cat", 11, 11, 30, 20).replace(
        "<bndbox>", f"<attributes>{attribute}</attributes><bndbox>"))
    angle = math.radians(degrees)
    corners = np.array([(10, 5), (10, -5), (-10, 5), (-10, -5)]) @ np.array(
        [(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))]) + (20, 15)
    np.testing.assert_allclose(item.objects[0].box_px, [*corners.min(0), *corners.max(0)])


@pytest.mark.parametrize("data, words", [
    (b"", "no element"), (b"<annotation>", "no element"), (bytes(99), "not well-formed"),
    (b"<a></b>", "mismatched"), (b"<annotation>\xff\xfe</annotation>", "not well-formed"),
    (b'<?xml version="1.0" encoding="klingon"?><a/>', "encoding"), (b"<html/>", "<html> is no"),
    # XML of other tools never makes an image background.
    (b'<annotation><box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/></annotation>', "is no")])
def test_a_broken_annotation_is_a_problem(read, data, words):
    item, (problem,) = read(data)
    assert item.objects is None and problem.kind == "unreadable annotation"
    assert words in problem.what and problem.where.endswith("a.xml")


def test_one_file_of_another_format_says_what_it_is(tmp_path):
    folder = Folder(tmp_path)
    folder.fill(["annotations"])
    (folder.root / "Annotations" / "annotations.xml").write_text("<annotations/>")
    with pytest.raises(UserError, match="annotations.xml: <annotations> is no .* Pascal VOC"):
        read_by_key(folder.root)
