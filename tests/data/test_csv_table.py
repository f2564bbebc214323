"""CSV tables."""

import pytest
from source_files import by_key, plain, save, write

from utils.cli import UserError
from utils.data.csv_table import read_csv


@pytest.mark.parametrize("text", [
    "filename,class,xmin,ymin,xmax,ymax\na b.jpg,traffic light,1,2,30.5,40",
    "filename,width,height,class,xmin,ymin,xmax,ymax\na b.jpg,50,40,traffic light,1,2,30.5,40\n",
    "Image;X1;Y1;X2;Y2;Label\na b.jpg;1;2;30.5;40;traffic light",
    "image\txmin\tymin\txmax\tymax\tlabel\na b.jpg\t1\t2\t30.5\t40\ttraffic light\n",
    "\ufeffpath, left , top,right,bottom,category\r\na b.jpg, 1,2,30.5,40, traffic light \r\n",
    'ymax,ymin,xmax,xmin,class,image_path\n40,2,30.5,1,"traffic light","a b.jpg"'])
def test_csv_headers(tmp_path, text):
    path = save(tmp_path / "a b.jpg")
    (item,), problems = read_csv(write(tmp_path / "x.csv", text), tmp_path)
    assert not problems and item.image == path and item.key == "a b.jpg"
    assert plain(item.objects) == [("traffic light", (1, 2, 30.5, 40), False)]
    assert item.size == ((50, 40) if "width" in text else None)


def test_csv_rows_of_an_image_are_gathered(tmp_path):
    names = ("a, b.jpg", "sub/c.png", "empty.jpg")
    paths = [save(tmp_path / "images" / name) for name in names]
    text = ('filename,class,xmin,ymin,xmax,ymax,difficult\n"a, b.jpg",cat,0,0,5,5,1\n'
            'sub/c.png,dog,1,1,5,5,0\n\n"a, b.jpg",dog,2,2,5,5,\nempty.jpg,,,,,,\n')
    found, problems = by_key(read_csv(write(tmp_path / "x.csv", text), tmp_path / "images"))
    assert not problems and [found[name].image for name in names] == paths
    assert plain(found["a, b.jpg"].objects) == [("cat", (0, 0, 5, 5), True),
                                                ("dog", (2, 2, 5, 5), False)]
    assert plain(found["sub/c.png"].objects) == [("dog", (1, 1, 5, 5), False)]
    assert found["empty.jpg"].objects == []


@pytest.mark.parametrize("row", ["a.jpg,cat,1,2,x,4", "a.jpg,cat,1,2,,4", "a.jpg,cat,1,2",
                                 "a.jpg,cat"])
def test_bad_csv_numbers_have_their_line(tmp_path, row):
    save(tmp_path / "a.jpg")
    path = write(tmp_path / "x.csv", "filename,class,xmin,ymin,xmax,ymax\na.jpg,dog,1,2,3,4\n\n"
                                     f"{row}\na.jpg,cat,1,2,3,4\n")
    (item,), (problem,) = read_csv(path, tmp_path)
    assert (problem.kind, problem.where) == ("bad object", f"{path}, line 4")
    assert [found.name for found in item.objects] == ["dog", "cat"]


@pytest.mark.parametrize("text, complaint", [
    ("", "lacks the columns filename, class, xmin"), ("a.jpg,1,2,3,4,cat\n", "lacks the columns"),
    ("filename,class,xmin,ymin,xmax\n", "lacks the columns ymax")])
def test_csv_without_columns_is_refused(tmp_path, text, complaint):
    with pytest.raises(UserError, match=f"x.csv.*{complaint}"):
        read_csv(write(tmp_path / "x.csv", text), tmp_path)


def test_csv_tells_equal_names_with_other_endings_apart(tmp_path):
    paths = [save(tmp_path / name) for name in ("a.jpg", "a.png")]
    rows = "a.png,cat,1,1,9,9\na.jpg,dog,1,1,9,9\n"
    file = write(tmp_path / "x.csv", f"filename,class,xmin,ymin,xmax,ymax\n{rows}")
    found, _ = by_key(read_csv(file, tmp_path))
    assert [found["a.jpg"].image, found["a.png"].image] == paths


def test_one_image_in_several_spellings_is_one(tmp_path):
    path = save(tmp_path / "p0.jpg")
    rows = "".join(f"{name},cat,{k},1,9,9\n" for k, name in
                   enumerate(["p0.jpg", "./p0.jpg", "P0.JPG", "p0.jpg"]))
    file = write(tmp_path / "x.csv", f"filename,class,xmin,ymin,xmax,ymax\n{rows}")
    (item,), problems = read_csv(file, tmp_path)
    assert item.image == path and [box.box_px[0] for box in item.objects] == [0, 1, 2, 3]
    assert [(problem.kind, problem.where) for problem in problems] == [
        ("one image, two spellings", f"x.csv, line {line}") for line in (3, 4)]


@pytest.mark.parametrize("row, fault", [
    ("a.jpg", "1 cells, the first row has 7"), ("a.jpg,cat,1,1,9", "5 cells, the first row has 7"),
    ("a.jpg,cat,1,1,9,9,0,5", "8 cells, the first row has 7"),
    ("a.jpg,cat,1,1,9,9", None), ("a.jpg,cat,1,1,9,9,0,,", None)])
def test_a_row_that_was_cut_is_no_background(tmp_path, row, fault):
    save(tmp_path / "a.jpg")
    header = "filename,class,xmin,ymin,xmax,ymax,difficult"
    (item,), problems = read_csv(write(tmp_path / "x.csv", f"{header}\n{row}"), tmp_path)
    assert [problem.what for problem in problems] == ([fault] if fault else [])
    assert len(item.objects) == (fault is None)


@pytest.mark.parametrize("name", [" a.jpg", "a .jpg", "a.b .jpg"])
def test_spaces_in_names_are_kept(tmp_path, name):
    path = save(tmp_path / name)
    file = write(tmp_path / "x.csv", f"filename,class,xmin,ymin,xmax,ymax\n{name},cat,1,1,9,9\n")
    (item,), problems = read_csv(file, tmp_path)
    assert item.image == path and not problems
