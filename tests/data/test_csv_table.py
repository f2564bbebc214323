"""CSV tables."""

import numpy as np
import pytest
from source_files import kinds, plain, read_by_key
from voc_folder import save_image, write_text

from utils.cli import UserError

HEADER = "filename,class,xmin,ymin,xmax,ymax\n"


@pytest.fixture
def read(tmp_path):
    """Return a function that reads a table of any text; a.jpg and b c.jpg are there."""
    for name in ("a.jpg", "b c.jpg"):
        save_image(tmp_path / name)
    return lambda text: read_by_key(write_text(tmp_path / "t.csv", text))


def test_values(read, tmp_path):
    items, problems = read("width,filename,class,xmin,ymin,xmax,ymax,height,difficult\n"
                           "50,a.jpg,cat,1.5,2,10,20,40,0\n\n50,b c.jpg, dog ,0,0,50,40,40,1\n"
                           "50,a.jpg,\"a, b\",3,4,5,6,40,\n,empty.jpg,,,,,,,\n")
    assert not problems and items["a.jpg"].size == (50, 40)
    assert plain(items["a.jpg"].objects) == [("cat", (1.5, 2, 10, 20), False),
                                             ("a, b", (3, 4, 5, 6), False)]
    assert plain(items["b c.jpg"].objects) == [("dog", (0, 0, 50, 40), True)]
    assert items["b c.jpg"].image == tmp_path / "b c.jpg"
    assert items["empty.jpg"].objects == [] and items["empty.jpg"].image is None


@pytest.mark.parametrize("header", [
    "Image;Label;x1;y1;x2;y2", "path\tclass_name\tleft\ttop\tright\tbottom",
    "\ufeffFILENAME,Class,XMIN,YMIN,XMAX,YMAX", " img , category , x1 , ymin , x2 , ymax "])
def test_columns_of_other_tools(read, header):
    divider = next(divider for divider in ",;\t" if divider in header)
    items, problems = read(f"{header}\n{divider.join(['a.jpg', 'cat', '1', '2', '3', '4'])}\n")
    assert plain(items["a.jpg"].objects) == [("cat", (1, 2, 3, 4), False)] and not problems


@pytest.mark.parametrize("row", ["a.jpg,cat,1,2,3", "a.jpg,cat,1,2,3,4,5"])
def test_bad_rows_are_numbered(read, row):
    items, (problem,) = read(f"{HEADER}a.jpg,cat,1,2,3,4\n{row}\na.jpg,dog,1,2,3,4\n")
    assert kinds([problem]) == ["bad object"] and problem.where.endswith("t.csv, line 3")
    assert [item.name for item in items["a.jpg"].objects] == ["cat", "dog"]


def test_numbers(read):
    items, _ = read(f'{HEADER}a.jpg,cat,x,2,3,4\na.jpg,cat,,2,3,4\na.jpg,cat,1,2,3,"4,5"\n')
    np.testing.assert_equal([item.box_px for item in items["a.jpg"].objects],
                            [[np.nan] * 4, [np.nan] * 4, [1, 2, 3, 4.5]])
    items, _ = read(f"{HEADER.replace(',', ';')}a.jpg;cat;1,5;2;3;4,25\n")
    assert items["a.jpg"].objects[0].box_px == (1.5, 2, 3, 4.25)


@pytest.mark.parametrize("text, words", [
    ("", "lacks the columns filename, class"), ("a,b,c\n1,2,3\n", "lacks the columns filename"),
    ("a.jpg,cat,1,2,3,4\n", "lacks"), ("filename,class,xmin,ymin\n", "columns xmax, ymax"),
    (HEADER + '"a.jpg,cat,1,2,3,4\n', "not a readable CSV"), (b"\xff\xfe\0", "UTF-8")])
def test_a_broken_table_is_refused(tmp_path, text, words):
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"t.csv: .*{words}"):
        read_by_key(tmp_path / "t.csv")
