"""YOLO text files."""

import pytest
from source_files import by_key, plain, save, write

from utils.cli import UserError
from utils.data.sources import ProblemKind
from utils.data.yolo import read_yolo, yolo_names


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
    found, (problem,) = by_key(read_yolo(tmp_path))
    assert [item.objects for item in found.values()] == [[], []]
    # Those not labelled yet would be background too: it is said.
    assert problem.kind == ProblemKind.NO_LABEL_FILE and problem.what.startswith("1 of 2 images")
    write(tmp_path / "labels" / "a.txt", "")
    assert not read_yolo(tmp_path)[1]


def test_two_images_of_one_name_keep_their_endings(tmp_path):
    write(tmp_path / "classes.txt", "cat")
    for name in ("a.jpg", "a.png", "b.jpg"):
        save(tmp_path / name)
    for name in "ab":
        write(tmp_path / f"{name}.txt", "0 0.5 0.5 1 1")
    assert [item.key for item in read_yolo(tmp_path)[0]] == ["a.jpg", "a.png", "b"]


YAML_NAMES = {0: "cat", 1: "traffic light", 2: "red dog's ö"}


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
    assert yolo_names(tmp_path) == {0: "cat", 1: "dog"}


@pytest.mark.parametrize("name", ["classes.txt", "obj.names"])
def test_yolo_names_from_text(tmp_path, name):
    write(tmp_path / name, "\ufeffcat\r\n traffic light \r\n\r\n")
    assert yolo_names(tmp_path) == {0: "cat", 1: "traffic light"}


@pytest.mark.parametrize("text", [None, "nc: 2", "names: []", "names:"])
def test_yolo_without_names_is_refused(tmp_path, text):
    folder = tmp_path / "data"
    folder.mkdir()
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


@pytest.mark.parametrize("text, names", [
    ("names: {1: cat, 2: dog}", {1: "cat", 2: "dog"}),
    ("names:\n  0: cat\n  3: dog\n", {0: "cat", 3: "dog"}),
    ("names: {'0': cat, '7': dog}", {0: "cat", 7: "dog"}),
    ("x: &all [cat, dog]\nnames: *all", {0: "cat", 1: "dog"}),
    ("names: [7, 8]", {0: "7", 1: "8"}),
    ("names: >-\n  cat", None), ("names: [yes, no]", None), ("names: {cat: 0, dog: 1}", None),
    ("names: [[cat], dog]", None)])
def test_yaml_names_keep_their_numbers(tmp_path, text, names):
    write(tmp_path / "data.yaml", text)
    if names:
        assert yolo_names(tmp_path) == names
        return
    with pytest.raises(UserError, match="data.yaml: names must be"):
        yolo_names(tmp_path)


def test_numbers_from_one_name_the_right_objects(tmp_path):
    write(tmp_path / "data.yaml", "names: {1: cat, 3: dog}")
    save(tmp_path / "a.jpg")
    write(tmp_path / "a.txt", "".join(f"{label} 0.5 0.5 1 1\n" for label in (3, 1, 0, 2)))
    (item,), problems = read_yolo(tmp_path)
    assert [found.name for found in item.objects] == ["dog", "cat"]
    assert [problem.where[-6:] for problem in problems] == ["line 3", "line 4"]


@pytest.mark.parametrize("text", ["names: [cat", "a: b: c", "\tnames: [cat]", "names: !odd cat"])
def test_broken_yaml_is_named_not_passed_over(tmp_path, text):
    folder = tmp_path / "data"
    write(folder / "data.yaml", text)
    write(tmp_path / "classes.txt", "wrong\nnames\n")
    with pytest.raises(UserError, match="data/data.yaml.*not readable YAML"):
        yolo_names(folder)


def test_blank_lines_do_not_shift_numbers(tmp_path):
    write(tmp_path / "classes.txt", "cat\n\ndog\n\n")
    assert yolo_names(tmp_path) == {0: "cat", 2: "dog"}


@pytest.mark.parametrize("name", ["obj.names", "voc.names", "x/coco.names", "labels/classes.txt"])
def test_darknet_names_in_any_file(tmp_path, name):
    write(tmp_path / name, "cat\ndog\n")
    if name.startswith("x"):
        write(tmp_path / "obj.data", "classes = 2\ntrain = a.txt\nnames = x/coco.names\n")
    assert yolo_names(tmp_path) == {0: "cat", 1: "dog"}


def test_files_that_disagree_about_classes_are_both_named(tmp_path):
    write(tmp_path / "data.yaml", "names: [cat, dog]")
    write(tmp_path / "labels" / "classes.txt", "cat\ndog\n")
    assert yolo_names(tmp_path) == {0: "cat", 1: "dog"}
    write(tmp_path / "labels" / "classes.txt", "dog\ncat\n")
    with pytest.raises(UserError, match="data.yaml and .*classes.txt disagree.*0: cat.*0: dog"):
        yolo_names(tmp_path)


@pytest.mark.parametrize("image, labels", [
    ("images/a.jpg", "Labels/a.txt"), ("Images/a.jpg", "labels/a.txt"),
    ("IMAGES/train/a.jpg", "LABELS/Train/A.TXT"), ("a.JPG", "A.txt")])
def test_label_folders_in_any_letter_case(tmp_path, image, labels):
    write(tmp_path / "classes.names", "cat")
    save(tmp_path / image)
    write(tmp_path / labels, "0 0.5 0.5 1 1")
    (item,), problems = read_yolo(tmp_path)
    assert plain(item.objects) == [("cat", (0, 0, 50, 40), False)] and not problems


def test_no_text_file_at_all_is_refused(tmp_path):
    write(tmp_path / "classes.txt", "cat")
    save(tmp_path / "images" / "a.jpg")
    with pytest.raises(UserError, match="no text file of labels for any image"):
        read_yolo(tmp_path)
    write(tmp_path / "labels", "0 0.5 0.5 1 1")  # a file where a folder is expected
    with pytest.raises(UserError, match="no text file of labels for any image"):
        read_yolo(tmp_path)


def test_a_folder_without_labels_is_not_background(tmp_path):
    write(tmp_path / "classes.txt", "cat")
    for name in ("train/a", "train/b", "val/c"):
        save(tmp_path / "images" / f"{name}.jpg")
    write(tmp_path / "labels" / "train" / "a.txt", "0 0.5 0.5 1 1")
    found, (half, problem) = by_key(read_yolo(tmp_path))
    assert list(found) == ["images/train/a", "images/train/b"]
    assert half.kind == "no label file" and half.where.endswith("images/train")
    assert problem.kind == "no annotation" and problem.where.endswith("images/val")


def test_a_folder_in_place_of_labels_is_a_problem(tmp_path):
    write(tmp_path / "classes.txt", "cat")
    for name in "ab":
        save(tmp_path / "images" / f"{name}.jpg")
    write(tmp_path / "labels" / "a.txt", "0 0.5 0.5 1 1")
    (tmp_path / "labels" / "b.txt").mkdir()
    found, (problem,) = by_key(read_yolo(tmp_path))
    assert list(found) == ["images/a"] and problem.where.endswith("labels/b.txt")
