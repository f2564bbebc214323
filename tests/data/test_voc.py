"""VOC XML."""

import pytest
from source_files import by_key, kinds
from voc_folder import Folder, xml_object

from utils.data.voc import read_voc

CAT = xml_object("cat", 1, 1, 10, 20)


@pytest.fixture
def read(tmp_path):
    """Return a function from the content of a.xml, beside an image, to (Annotation, problems)."""
    folder = Folder(tmp_path)
    folder.fill(["a"])

    def write_and_read(text):
        data = text if isinstance(text, bytes) else f"<annotation>{text}</annotation>".encode()
        (folder.root / "Annotations" / "a.xml").write_bytes(data)
        (item,), problems = read_voc(folder.root)
        return item, problems
    return write_and_read


def test_voc_pixels_become_edges(read):
    # Pixels 1..10 across and 1..20 down are ten columns and twenty rows.
    item, problems = read(CAT + xml_object("cat", 7, 3, 7, "3.5\n") + xml_object("dog", 9, 5, 4, 2))
    assert [thing[:2] for thing in item.objects] == [
        ("cat", (0, 0, 10, 20)), ("cat", (6, 2, 7, 3.5)), ("dog", (9, 5, 3, 1))]  # stays swapped
    assert (item.key, item.origin, item.image.name) == ("a", "a.xml", "a.jpg") and not problems


def test_difficult_may_be_missing(read):
    item, _ = read("".join(CAT.replace("<bndbox>", f"{flag}<bndbox>") for flag in (
        "", "<difficult>0</difficult>", "<difficult>1</difficult>", "<difficult/>")))
    assert [thing.difficult for thing in item.objects] == [False, False, True, False]


def test_parts_are_not_objects(read):
    part = CAT.replace("object", "part")
    item, problems = read(CAT.replace("</object>", part * 2 + "</object>"))
    assert len(item.objects) == 1 and not problems


@pytest.mark.parametrize("second, words", [
    (xml_object("cat", 1, 2, 3), "four numbers"), (xml_object("cat", 1, 2, "x", 4), "four numbers"),
    (xml_object("cat", 1, 2, "", 4), "four numbers"), ("<object/>", "four numbers"),
    ("<object><name>cat</name></object>", "four numbers"),
    (CAT.replace("</bndbox>", "</bndbox><bndbox/>"), "four numbers")])
def test_a_bad_object_is_counted_from_one(read, second, words):
    item, (problem,) = read(CAT + second + CAT)
    assert problem.kind == "bad object" and problem.where.startswith("a.xml, object 2")
    assert words in problem.what and len(item.objects) == 2


ENTITIES = "".join(f'<!ENTITY e{k} "{f"&e{k - 1};" * 10 if k else "lol" * 10}">' for k in range(10))


@pytest.mark.parametrize("data, words", [
    (b"", "no element"), (b"<annotation>", "no element"), (bytes(99), "not well-formed"),
    (b"<a></b>", "mismatched"), (b"<annotation>\xff\xfe</annotation>", "not well-formed"),
    (b'<?xml version="1.0" encoding="klingon"?><a/>', "encoding"), (b"<html/>", "no VOC"),
    (f"<!DOCTYPE a [{ENTITIES}]><annotation>&e9;</annotation>".encode(), "amplification"),
    (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "&x;"),
    # XML of other tools never makes an image background.
    (b'<annotation><box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/></annotation>', "no VOC"),
    (f"<annotation>{CAT}</annotation>".replace("object", "thing").encode(), "no VOC")])
def test_a_broken_annotation_is_a_problem(read, data, words):
    item, (problem,) = read(data)
    assert item.objects is None and problem.kind == "unreadable annotation"
    assert words in problem.what and problem.where.endswith("a.xml")


def test_background_and_images_without_annotation(tmp_path):
    folder = Folder(tmp_path)
    folder.fill(["a", "lonely"])
    (folder.root / "Annotations" / "lonely.xml").unlink()
    for name in ("a", "gone"):
        folder.xml(name)
    items, problems = by_key(read_voc(folder.root))
    assert items["a"].objects == [] and items["gone"].image is None
    assert kinds(problems) == ["no annotation"] and problems[0].where.endswith("lonely.jpg")
