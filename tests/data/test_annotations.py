"""Records, class lists and list files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from voc_folder import save_image

from utils.cli import ROOT, UserError
from utils.data.annotations import (Record, check_images, format_record, list_text, parse_line,
                                    read_class_names, read_list, read_records, write_together)

HEADER = '# classes: ["cat", "dog"]\n'


def make_record(path, objects=(), **more):
    """Return a Record of (x1, y1, x2, y2, label, difficult) rows."""
    rows = np.array(objects, dtype=np.float64).reshape(-1, 6)
    return Record(Path(path), rows[:, :4], rows[:, 4].astype(np.int64),
                  rows[:, 5].astype(bool), **more)


@given(st.sampled_from(["/data/a.jpg", "/my images/a b  c.jpg", "/ä/图 1.png", "/odd/a 1,2.jpg",
                        str(ROOT / "img" / "a b.jpg"), "/odd/1,2,3,4,5/a.jpg"]),
       st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 2, *[st.floats(0.01, 1e4)] * 2,
                          st.integers(0, 99), st.booleans(),
                          st.one_of(st.just(np.nan), st.floats(0, 1e7))), max_size=4),
       st.sampled_from([None, (640, 480)]))
def test_a_list_line_is_read_back(path, rows, size):
    areas = np.array([row[-1] for row in rows], np.float64)
    record = make_record(path, [(x, y, x + w, y + h, label, difficult) for
                                x, y, w, h, label, difficult, _ in rows], areas=areas, size=size)
    back = parse_line(format_record(record) + "\n", 100)
    assert (back.path, back.size) == (record.path, size)
    np.testing.assert_allclose(back.boxes_px, record.boxes_px, atol=1e-6)
    for actual, expected in zip(back[2:5], record[2:5]):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


def test_list_file_is_read_back(tmp_path):
    names = ("cat, 1", "红绿灯", 'a "b"', "# no")
    records = [make_record(tmp_path / "a b.jpg", [(1, 2, 30, 40, 1, 1)]),
               make_record(tmp_path / "ö.jpg")]
    path = tmp_path / "2007_train.txt"
    path.write_text(list_text(records, names), encoding="utf-8")
    back, class_names = read_list(path)
    assert class_names == names
    assert [record.path for record in back] == [record.path for record in records]
    assert np.array_equal(back[0].boxes_px, records[0].boxes_px) and len(back[1].labels) == 0
    assert path.read_text(encoding="utf-8").splitlines()[1] == f"{tmp_path}/a b.jpg 1,2,30,40,1,1"


def test_an_image_that_is_gone_or_of_another_size_is_named(tmp_path):
    records = [make_record(save_image(tmp_path / f"{k}.png", (50, 40)), size=size)
               for k, size in enumerate([None, (50, 40), (40, 50)])]
    check_images(records[:2], "2007_train.txt")
    with pytest.raises(UserError, match="txt, line 4: .*2.png has another size now, 50x40; run"):
        check_images(records, "2007_train.txt")
    records[0].path.unlink()
    with pytest.raises(UserError, match="0.png: No such file"):
        check_images(records[:2], "2007_train.txt")


@pytest.mark.parametrize("text, words", [
    ("", "line 1: it must be"), ("a.jpg 1,2,3,4,0\n", "line 1"), ("# classes: cat\n", "line 1"),
    ("# classes: 5\n", "line 1"), (HEADER, "no images"), (HEADER + " \n\n", "no images"),
    (HEADER + "\na.jpg 1,2,3,4,0\na.jpg 1,2,3,4\n", "line 4: .*neither an image"),
    (HEADER + "a.jpg 1,2,3,4,2\n", "line 2: class 2, but there are 2"),
    (HEADER + "a.jpg 1,2,3,4,-1\n", "line 2"), (HEADER + "a.jpg 1,2,3,4,0,2\n", "line 2"),
    (HEADER + "a.jpg nan,2,3,4,0\n", "line 2"), (HEADER + "a.jpg 5,2,3,4,0\n", "without area"),
    (HEADER + "/etc/passwd 1,2,3,4,0\n", "neither an image"), (HEADER + "1,2,3,4,0\n", "line 2"),
    (b"\xff\xfe\0", "not a UTF-8 text")])
def test_a_broken_list_is_refused(tmp_path, text, words):
    path = tmp_path / "my_val.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"my_val\.txt.*{words}"):
        read_list(path)
    with pytest.raises(UserError, match=r"none\.txt.*voc_annotation\.py"):
        read_list(tmp_path / "none.txt")


@pytest.mark.parametrize("text, names", [
    ("\ufeff cat \r\n\r\ntraffic  light\nCat\nö\n\n", ("cat", "traffic  light", "Cat", "ö")),
    ("# my classes\ncat\n#dog\ncow\n", ("cat", "cow")), ("cafe\u0301\n", ("caf\u00e9",))])
def test_class_lists_as_people_write_them(tmp_path, text, names):
    (tmp_path / "classes.txt").write_bytes(text.encode())
    assert read_class_names(tmp_path / "classes.txt") == names


@pytest.mark.parametrize("data, words", [
    (b"\n \n# x\n", "no class names"), (b"cat\ndog\ncat\n", "'cat' is duplicated"),
    ("cat".encode("utf-16"), "UTF-8")])
def test_a_broken_class_list_is_refused(tmp_path, data, words):
    (tmp_path / "classes.txt").write_bytes(data)
    with pytest.raises(UserError, match=rf"classes\.txt: .*{words}"):
        read_class_names(tmp_path / "classes.txt")
    with pytest.raises(UserError, match="none.txt.*classes_path"):
        read_class_names(tmp_path / "none.txt")


@pytest.mark.parametrize("first, second, words", [
    (("a", "b"), ("a", "c"), "number 2 is 'b' in the first, 'c' in the second"),
    (("a",), ("a", "b"), "number 2 is '-' in the first, 'b' in the second")])
def test_different_classes_name_the_first_difference(tmp_path, first, second, words):
    path = tmp_path / "2007_val.txt"
    path.write_text(list_text([make_record("/a.jpg")], second))
    with pytest.raises(UserError, match=f"best.pth and .*2007_val.txt have .*{words}"):
        read_records(path, first, "best.pth")


def test_files_are_written_together_or_not_at_all(tmp_path):
    for name in ("a", "gone"):
        (tmp_path / f"{name}.txt").write_text("old")
    with pytest.raises(UserError, match=r"b\.txt: cannot be written"):
        write_together({tmp_path / "a.txt": "new", tmp_path / "none" / "b.txt": "new"})
    write_together({tmp_path / "b.txt": "new"}, [tmp_path / "gone.txt"])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.txt": "old", "b.txt": "new", "gone.txt.old": "old"}
