"""Annotations of other tools: COCO JSON, YOLO text files, CSV."""

import json

import pytest
from PIL import Image

from utils.cli import UserError
from utils.data.coco import read_coco
from utils.data.csv_table import read_csv
from utils.data.yolo import read_yolo, yolo_names


def plain(objects):
    """Return (name, box, difficult) of each object."""
    return [tuple(item[:3]) for item in objects]


def save(path, size=(50, 40)):
    """Save a black image; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def by_key(found):
    """Return ({key: Annotation}, problems)."""
    return {item.key: item for item in found[0]}, found[1]


COCO = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 50, "height": 40},
               {"id": 3, "file_name": "sub/b 1.png", "width": 10, "height": 20},
               {"id": 9, "file_name": "none.jpg"}],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": " traffic light "}],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [2.5, 3, 10, 20.25], "iscrowd": 0},
        {"image_id": 3, "category_id": 90, "bbox": [0, 0, 10, 20], "iscrowd": 1},
        {"image_id": 7, "category_id": 90, "bbox": [40, 30, 10, 10]}]}


@pytest.fixture
def coco(tmp_path):
    """Return a function that reads COCO with some parts replaced."""
    def dump_and_read(**changes):
        path = write(tmp_path / "c.json", json.dumps(COCO | changes))
        return by_key(read_coco(path, tmp_path))
    return dump_and_read


def test_coco_values(coco, tmp_path):
    one, two = save(tmp_path / "a.jpg"), save(tmp_path / "sub" / "b 1.png")
    found, problems = coco()
    assert not problems and list(found) == ["a.jpg", "sub/b 1.png", "none.jpg"]
    a, b, none = found.values()
    assert plain(a.objects) == [("traffic light", (2.5, 3, 12.5, 23.25), False),
                                ("toothbrush", (40, 30, 50, 40), False)]
    assert plain(b.objects) == [("toothbrush", (0, 0, 10, 20), True)]  # a crowd
    assert (a.size, b.size, none.size) == ((50, 40), (10, 20), None)
    assert (a.image, b.image, none.image) == (one, two, None)
    assert none.objects == [] and "c.json" in none.origin


@pytest.mark.parametrize("broken", [
    {"image_id": 99}, {"category_id": 5}, {"bbox": [1, 2, 3]}, {"bbox": None}, {"bbox": "abcd"},
    {"bbox": [1, 2, "x", 4]}, {"image_id": [7]}, {"bbox": [1, 2, 3, 10**400]}])
def test_bad_coco_annotations_are_numbered(coco, broken):
    rows = COCO["annotations"]
    found, (problem,) = coco(annotations=[rows[0], rows[1] | broken, rows[2]])
    assert problem.kind == "bad object" and problem.where.endswith("c.json, annotation 2")
    assert len(found["a.jpg"].objects) == 2 and not found["sub/b 1.png"].objects


@pytest.mark.parametrize("missing", ["image_id", "category_id", "bbox"])
def test_coco_annotations_without_a_field(coco, missing):
    row = {key: value for key, value in COCO["annotations"][0].items() if key != missing}
    _, problems = coco(annotations=[row, 5])
    assert [problem.where[-12:] for problem in problems] == ["annotation 1", "annotation 2"]


@pytest.mark.parametrize("text", [
    "", "[]", "{", "5", "null", '{"images": []}', '{"images": 1, "categories": 1}',
    '{"images": [], "categories": [], "annotations": null}', "[" * 5000,
    '{"images": ["a"], "categories": [], "annotations": []}'])
def test_broken_json_is_named(tmp_path, text):
    with pytest.raises(UserError, match="broken.json"):
        read_coco(write(tmp_path / "broken.json", text), tmp_path)


def test_missing_coco_file_is_named(tmp_path):
    with pytest.raises(UserError, match="none.json.*annotation_path"):
        read_coco(tmp_path / "none.json", tmp_path)


def test_yolo_fractions_become_pixels(tmp_path):
    write(tmp_path / "classes.txt", "cat\ntraffic light\n")
    path = save(tmp_path / "a.jpg", (200, 100))
    write(tmp_path / "a.txt", "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.9 0.2 0.2 0.97\r\n")
    found, problems = by_key(read_yolo(tmp_path))
    assert not problems and found["a"].image == path and found["a"].size is None
    first, second = found["a"].objects
    # A quarter of 200 is 50 columns around column 100; half of 100 is 50 rows around row 50.
    assert first[0] == "traffic light" and first.box_px == pytest.approx((75, 25, 125, 75))
    assert second[0] == "cat" and second.box_px == pytest.approx((0, 80, 40, 100))
    assert not first.difficult


@pytest.mark.parametrize("image, labels", [
    ("images/a.jpg", "labels/a.txt"), ("images/train/a.jpg", "labels/train/a.txt"),
    ("train/images/a.b.PNG", "train/labels/a.b.txt"), ("deep/a b.jpg", "deep/a b.txt"),
    ("images/ö, [1].jpg", "images/ö, [1].txt"), ("my_images/a.jpg", "my_images/a.txt")])
def test_yolo_labels_are_found(tmp_path, image, labels):
    write(tmp_path / "classes.txt", "cat")
    path = save(tmp_path / image)
    write(tmp_path / labels, "0 0.5 0.5 1 1")
    (item,), problems = read_yolo(tmp_path)
    assert item.image == path and plain(item.objects) == [("cat", (0, 0, 50, 40), False)]
    assert not problems and item.origin.endswith(labels)


def test_yolo_images_without_labels_are_background(tmp_path):
    write(tmp_path / "classes.txt", "cat")
    save(tmp_path / "images" / "a.jpg")
    save(tmp_path / "images" / "b.jpg")
    write(tmp_path / "labels" / "b.txt", "")
    found, problems = by_key(read_yolo(tmp_path))
    assert not problems and [item.objects for item in found.values()] == [[], []]


YAML_NAMES = ["cat", "traffic light", "red dog's ö"]


@pytest.mark.parametrize("text", [
    "names: ['cat', 'traffic light', \"red dog's ö\"]",
    "nc: 3\nnames: [cat, traffic light, red dog's ö]  # three\ntrain: x",
    "names: [\n  'cat',\n  'traffic light',\n  \"red dog's ö\",\n]\nnc: 3",
    "train: ../images\nnames:\n- cat\n- traffic light\n- red dog's ö\nnc: 3",
    "names:\n  - 'cat'  # the first\n  - traffic light\n  - \"red dog's ö\"\n\nnc: 3",
    "names:\n  0: cat\n  1: 'traffic light'\n  2: red dog's ö\ndownload: none",
    "names: {0: cat, 1: 'traffic light', 2: \"red dog's ö\"}",
    "path: .\r\nnames:\r\n  0: cat\r\n  1: traffic light\r\n  2: red dog's ö\r\n"])
@pytest.mark.parametrize("name", ["data.yaml", "../data.yml"])
def test_yolo_names_from_yaml(tmp_path, text, name):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).write_bytes(text.encode())
    assert yolo_names(folder) == YAML_NAMES


def test_yolo_names_follow_their_numbers(tmp_path):
    write(tmp_path / "data.yaml", "names:\n  1: dog\n  0: cat\n")
    assert yolo_names(tmp_path) == ["cat", "dog"]


@pytest.mark.parametrize("name", ["classes.txt", "obj.names"])
def test_yolo_names_from_text(tmp_path, name):
    write(tmp_path / name, "\ufeffcat\r\n traffic light \r\n\r\n")
    assert yolo_names(tmp_path) == ["cat", "traffic light"]


@pytest.mark.parametrize("text", [None, "nc: 2", "names: []", "names:"])
def test_yolo_without_names_is_refused(tmp_path, text):
    folder = tmp_path / "data"
    if text is not None:
        write(folder / "data.yaml", text)
    with pytest.raises(UserError, match="data: no class names"):
        yolo_names(folder)


@pytest.mark.parametrize("line", [
    "2 0.5 0.5 1 1", "-1 0.5 0.5 1 1", "0.5 0.5 0.5 1 1", "0 0.5 0.5 1", "cat 0.5 0.5 1 1",
    "0 a b c d", "nan 0.5 0.5 1 1", "inf 0.5 0.5 1 1", "0,0.5,0.5,1,1",
    "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"])  # the last is a polygon
def test_bad_yolo_lines_are_numbered(tmp_path, line):
    write(tmp_path / "classes.txt", "cat\ndog")
    save(tmp_path / "a.jpg")
    path = write(tmp_path / "a.txt", f"1 0.5 0.5 1 1\n\n{line}\n0 0.5 0.5 1 1\n")
    (item,), (problem,) = read_yolo(tmp_path)
    assert (problem.kind, problem.where) == ("bad object", f"{path}, line 3")
    assert [found.name for found in item.objects] == ["dog", "cat"]


def test_yolo_problems_with_files_are_reported(tmp_path):
    write(tmp_path / "classes.txt", "cat")
    for name in "abc":
        save(tmp_path / "images" / f"{name}.jpg")
        write(tmp_path / "labels" / f"{name}.txt", "0 0.5 0.5 1 1")
    (tmp_path / "labels" / "a.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "images" / "b.jpg").write_bytes(b"no image")
    found, problems = by_key(read_yolo(tmp_path))
    assert len(found["images/c"].objects) == 1
    assert len(problems) == 1 and problems[0].where.endswith("a.txt")
    # The image is for the doctor to judge.
    assert found["images/b"].image.name == "b.jpg" and not found["images/b"].objects


def test_yolo_folder_without_images_is_refused(tmp_path):
    write(tmp_path / "classes.txt", "cat")
    with pytest.raises(UserError, match="no images"):
        read_yolo(tmp_path)


@pytest.mark.parametrize("text", [
    "filename,class,xmin,ymin,xmax,ymax\na b.jpg,traffic light,1,2,30.5,40",
    "filename,width,height,class,xmin,ymin,xmax,ymax\na b.jpg,50,40,traffic light,1,2,30.5,40\n",
    "Image;X1;Y1;X2;Y2;Label\na b.jpg;1;2;30.5;40;traffic light",
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
