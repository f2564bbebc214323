"""VOC XML."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_files import read_by_key
from torchvision.datasets import VOCDetection
from voc_folder import Folder, save_image, write_text, xml_object

from utils.cli import UserError
from utils.data.layouts import read_source
from utils.data.voc import is_of_person, read_voc, voc_text

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


def test_difficult_may_be_missing_and_parts_are_not_objects(read):
    item, problems = read("".join(CAT.replace("<bndbox>", f"{flag}<bndbox>") for flag in (
        CAT.replace("object", "part"), "<difficult>0</difficult>", "<difficult>1</difficult>")))
    assert [thing.difficult for thing in item.objects] == [False, False, True] and not problems


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
    (b"<annotation>\xff\xfe</annotation>", "not well-formed"), (b"<html/>", "<html> is no"),
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


BOXES = np.array([[0, 0, 1, 1], [3, 4, 50, 40], [-7.5, 9.6, 20.4, 99], [49.8, 39.9, 50, 40]])
NAMES = ("café", "a < b & c", "cat", "cat")


def prediction(boxes=BOXES, model="run/best.pth"):
    return voc_text("a & b.jpg", (50, 40), NAMES, boxes, ["<score>0.875</score>"] * 4, model)


def test_what_is_written_is_what_other_readers_read():
    root = ElementTree.fromstring(prediction())
    values = VOCDetection.parse_voc_xml(root)["annotation"]
    assert values["filename"] == "a & b.jpg" and values["source"]["database"] == "run/best.pth"
    assert values["size"] == {"width": "50", "height": "40", "depth": "3"}
    assert tuple(thing["name"] for thing in values["object"]) == NAMES
    assert values["object"][0]["score"] == "0.875"
    # xmin, ymin, xmax, ymax: pixels from 1, the last included; each box has one at least.
    assert [tuple(map(int, thing["bndbox"].values())) for thing in values["object"]] == [
        (1, 1, 1, 1), (4, 5, 50, 40), (1, 11, 20, 40), (50, 40, 50, 40)]


@given(st.lists(st.tuples(*(st.integers(0, 38) for _ in range(4))), min_size=4, max_size=4))
def test_what_is_written_is_read_as_the_same_boxes(tmp_path_factory, rows):
    low = np.array(rows)[:, :2]
    boxes = np.concatenate([low, np.maximum(np.array(rows)[:, 2:], low) + 1], axis=1)
    path = tmp_path_factory.mktemp("voc") / "a.xml"
    path.write_text(prediction(boxes, model=""), encoding="utf-8")
    ((item,), problems) = read_voc(path, "a.xml")
    assert [thing[:2] for thing in item.objects] == [*zip(NAMES, map(tuple, boxes.tolist()))]
    assert item.size == (50, 40) and not problems


def test_predictions_are_used_once_a_person_has_saved_them(tmp_path):
    for name in "abc":
        save_image(tmp_path / f"{name}.jpg")
        write_text(tmp_path / f"{name}.xml", prediction())
    assert not is_of_person(tmp_path / "a.xml") and not is_of_person(tmp_path / "d.xml")
    with pytest.raises(UserError, match="a.xml: a prediction; save it in a labelling tool"):
        read_source(tmp_path)
    root = ElementTree.parse(tmp_path / "a.xml")  # a tool that keeps what it does not know
    root.find("object/bndbox/xmax").text = "7"
    root.write(tmp_path / "a.xml", encoding="utf-8")
    write_text(tmp_path / "b.xml", f"<annotation>{CAT}</annotation>")
    assert is_of_person(tmp_path / "a.xml") and is_of_person(tmp_path / "b.xml")
    for unlabelled in ("auto", "background"):
        source = read_source(tmp_path, unlabelled=unlabelled)
        names = [item.image.name for item in source.annotations if item.objects is not None]
        assert names == ["a.jpg", "b.jpg"] and len(source.problems) == 1
        assert "c.xml" in source.problems[0].where and "labelling tool" in source.problems[0].what
