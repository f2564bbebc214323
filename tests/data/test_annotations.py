"""Records, class lists and list files."""

import os
from pathlib import Path

import numpy as np
import pytest

from utils.cli import ROOT, UserError
from utils.data.annotations import (
    Record,
    check_same_classes,
    format_record,
    list_text,
    nearest_name,
    parse_line,
    read_class_names,
    read_list,
    write_together,
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
    with pytest.raises(UserError, match=r"x_train\.txt: a list begins.*x_classes\.txt beside"):
        read_list(tmp_path / "x_train.txt")
    (tmp_path / "x_classes.txt").write_text("cat\n")
    with pytest.raises(UserError, match=r"x_train\.txt.*no images"):
        read_list(tmp_path / "x_train.txt")


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


def test_a_list_names_its_classes_itself(tmp_path):
    path, names = tmp_path / "mine.txt", ("cat, 1", "红绿灯", 'a "b"', "# no")
    path.write_text(list_text([make_record(tmp_path / "a.jpg", [(1, 2, 3, 4, 3, 0)])], names),
                    encoding="utf-8")
    (tmp_path / "mine_classes.txt").write_text("of\nanother\nrun\n")
    records, found = read_list(path)
    assert found == names and len(records) == 1 and records[0].labels.tolist() == [3]


def test_a_list_made_before_reads_the_names_beside_it(tmp_path):
    (tmp_path / "2007_val.txt").write_text("a.jpg 1,2,3,4,1\n")
    (tmp_path / "2007_classes.txt").write_text("cat\ndog\n")
    assert read_list(tmp_path / "2007_val.txt")[1] == ("cat", "dog")


@pytest.mark.parametrize("name, beside", [
    ("mine.txt", "mine_classes.txt"), ("a_b.txt", "a_classes.txt")])
def test_a_list_without_classes_says_what_it_lacks(tmp_path, name, beside):
    (tmp_path / name).write_text("a.jpg 1,2,3,4,1\n")
    with pytest.raises(UserError, match=rf"{name}: a list begins.*{beside} beside"):
        read_list(tmp_path / name)


@pytest.mark.parametrize("header", [
    "# classes:", "# classes: cat", "# classes: []", '# classes: ["a", "a"]', "# classes: [1]",
    '# classes: {"a": 1}', "# classes: " + "[" * 9999, '# classes: ["a"]\n# classes: ["b"]'])
def test_a_broken_line_of_classes_is_named(tmp_path, header):
    (tmp_path / "x_val.txt").write_text(f"{header}\na.jpg 1,2,3,4,0\n")
    with pytest.raises(UserError, match=r"x_val\.txt: a line # classes:"):
        read_list(tmp_path / "x_val.txt")


def test_two_lists_of_the_same_classes_may_be_joined(tmp_path):
    text = list_text([make_record(tmp_path / "a.jpg", [(1, 2, 3, 4, 0, 0)])], ("cat",))
    (tmp_path / "x.txt").write_text(text + text)
    assert len(read_list(tmp_path / "x.txt")[0]) == 2


def test_a_path_that_begins_with_a_space_survives(tmp_path):
    record = make_record(ROOT / " odd" / " a .jpg", [(1, 2, 3, 4, 0, 0)])
    assert parse_line(format_record(record)).path == record.path


@pytest.mark.parametrize("text, names", [
    ("# my classes\ncat\n#dog\ncow\n", ("cat", "cow")), ("cafe\u0301\n", ("caf\u00e9",)),
    ("1 euro\n2 euro\n5 euro\n", ("1 euro", "2 euro", "5 euro")), ("1\n2\n3\n", ("1", "2", "3")),
    ("1 euro\n2 euro\n", ("1 euro", "2 euro")), ("1 euro\n2 euros\n5 euros\n",
                                                ("1 euro", "2 euros", "5 euros")),
    ("1 cat\n", ("1 cat",)), ("cat, big\ncat, small\n", ("cat, big", "cat, small")),
    ("level 1\nlevel 2\n", ("level 1", "level 2")), ("items\nnames\n", ("items", "names")),
    ("\tcat \t\r\n\x0c\ndog", ("cat", "dog")), ("- cat\ndog\n", ("- cat", "dog"))])
def test_class_lists_as_people_write_them(tmp_path, text, names):
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    assert read_class_names(tmp_path / "classes.txt") == names


@pytest.mark.parametrize("text", ["0: cat\n1: dog\n", "1. cat\n2. dog\n", "0 cat\n1 dog\n",
                                  "0,cat\n1,dog\n", "1) cat\n2) dog\n3) cow",
                                  "1 cat\n2 dog\n", "# mine\n\n1 cat\n\n2  big dog\n3 cow"])
def test_numbered_class_lists_are_refused(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=r"classes\.txt: the lines are numbered.*one bare name"):
        read_class_names(tmp_path / "classes.txt")


@pytest.mark.parametrize("text, complaint", [
    ("names:\n  0: cat\n  1: dog\n", "YAML"), ("path: x\nnames:\n- cat\n- dog\n", "YAML"),
    ("nc: 2\nnames: [cat, dog]\n", "YAML"), ("- cat\n- dog\n", "YAML"), ("- cat", "YAML"),
    ("item {\n  id: 1\n  name: 'cat'\n}\nitem {\n  id: 2\n  name: 'dog'\n}\n", "pbtxt"),
    ("item{ id: 1 name: 'cat' }\n", "pbtxt"), ('[\n "cat",\n "dog"\n]\n', "JSON"),
    ("cat, dog", "several names in one line"), ("cat,dog,cow\n", "several names"),
    ("cat\0\ndog\n", "cannot be seen"), ("cat\tdog\n", "tab"), ("1\tcat\n2\tdog\n", "tab"),
    ("cat\ndo\x0bg\n", "cannot be seen"), ("cat\ndo\x85g\n", "cannot be seen"),
    ("cat\n\ufeffdog\n", "cannot be seen"), ("\x1b[1mcat\n", "cannot be seen")])
def test_class_lists_of_other_forms_are_refused(tmp_path, text, complaint):
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"classes\.txt: .*{complaint}.*write one bare name a li"):
        read_class_names(tmp_path / "classes.txt")


def test_two_forms_of_an_accent_are_one_class():
    check_same_classes(["cafe\u0301"], "best.pth", ("caf\u00e9",), "2007_val.txt")


@pytest.fixture
def three(tmp_path):
    """Return {path: new text}; two of the files have an old text."""
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("old")
    return {tmp_path / f"{name}.txt": f"new {name}" for name in "abc"}


def test_files_are_written_together(three, tmp_path):
    (tmp_path / "gone.txt").write_text("stale")
    write_together(three, [tmp_path / "gone.txt"])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.txt": "new a", "b.txt": "new b", "c.txt": "new c", "gone.txt.old": "stale"}


@pytest.mark.parametrize("fails", range(4))
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_or_not_at_all(three, tmp_path, monkeypatch, fails, error):
    (tmp_path / "gone.txt").write_text("stale")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) > fails:
            raise error
        real(source, target)
    monkeypatch.setattr("os.replace", replace)
    with pytest.raises((UserError, KeyboardInterrupt)):
        write_together(three, [tmp_path / "gone.txt"])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_folder_in_the_way_leaves_the_old_files(three, tmp_path):
    (tmp_path / "c.txt").mkdir()
    with pytest.raises(UserError, match=r"c\.txt: cannot be written"):
        write_together(three)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "c.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"
