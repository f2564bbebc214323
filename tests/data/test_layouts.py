"""How tools lay out a source that comes with its own split."""

import json

import pytest
from source_files import save, write

from utils.cli import UserError
from utils.data.layouts import read_parts
from utils.data.sources import ProblemKind

LABELLED = ("one/a", "one/b", "two/c", "three/d")


def yolo(folder, names=LABELLED):
    for name in names:
        save(folder / "images" / f"{name}.jpg")
        write(folder / "labels" / f"{name}.txt", "0 0.5 0.5 1 1")


def splits(folder, form="yolo", problems=()):
    """Return {split: last part of the keys}; `problems` are the kinds of those to be found."""
    found, parts = {}, read_parts(form, folder)
    assert [problem.kind for part in parts for problem in part[2]] == list(problems)
    for name, items, _ in parts:
        found.setdefault(name, []).extend(item.key.rpartition("/")[2] for item in items)
    return {name: keys for name, keys in found.items() if keys}


@pytest.mark.parametrize("paths", [
    "train: images/one\nval: images/two\ntest: images/three",
    "path: images\ntrain: one\nval: [two]\ntest: three",
    "train: ../images/one\nval: ../images/two\ntest: ../images/three",
    "path: ../datasets/mine\ntrain: images/one\nval: images/two\ntest: images/three",
    "train: train.txt\nval: images/two\ntest: images/three"])
def test_the_split_of_a_data_yaml(tmp_path, paths):
    folder = tmp_path / "mine"
    yolo(folder)
    write(folder / "data.yaml", f"{paths}\nnames: [cat]\n")
    write(folder / "train.txt", "./images/one/a.jpg\nimages/one/b.jpg\n")
    assert splits(folder) == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


def test_one_folder_for_train_and_val_is_train(tmp_path):
    yolo(tmp_path, ("train/a", "train/b"))
    write(tmp_path / "data.yaml", "train: images/train\nval: images/train\nnames: [cat]\n")
    assert splits(tmp_path) == {"train": ["a", "b"]}


def test_paths_that_are_not_there_leave_the_folder_names(tmp_path):
    yolo(tmp_path, ("train/a", "valid/b", "x/c"))
    write(tmp_path / "data.yaml", "train: /datasets/one\nval: /datasets/two\nnames: [cat]\n")
    lost = [ProblemKind.SPLIT_NAMES_NOTHING] * 2
    assert splits(tmp_path, problems=lost) == {"train": ["a"], "val": ["b"], "": ["c"]}


@pytest.mark.parametrize("start", ["/content/data/", "C:\\me\\", "../mine/", ""])
def test_lists_of_another_machine_count_by_the_ends_of_their_paths(tmp_path, start):
    yolo(tmp_path)
    write(tmp_path / "data.yaml", "train: lists/train.txt\nval: lists/val.txt\nnames: [cat]\n")
    slash = "\\" if "\\" in start else "/"
    for name, keys in (("train", LABELLED[:2]), ("val", LABELLED[2:3])):
        write(tmp_path / "lists" / f"{name}.txt", "".join(
            f"{start}images/{key}.jpg\n".replace("/", slash) for key in keys))
    assert splits(tmp_path, problems=[ProblemKind.IN_NO_SPLIT]) == {
        "train": ["a", "b"], "val": ["c"]}  # d is in no list


def test_places_behind_links(tmp_path):
    yolo(tmp_path / "disk")
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("images", "labels"):
        (folder / name).symlink_to(tmp_path / "disk" / name, target_is_directory=True)
    write(folder / "data.yaml",
          "train: images/one\nval: images/two\ntest: test.txt\nnames: [cat]\n")
    write(folder / "test.txt", "images/three/d.jpg\n")
    assert splits(folder) == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


def test_a_list_that_names_no_image_is_no_split(tmp_path):
    yolo(tmp_path)
    write(tmp_path / "data.yaml", "train: images/one\nval: val.txt\nnames: [cat]\n")
    write(tmp_path / "val.txt", "/elsewhere/x.jpg\n/elsewhere/y.jpg\n")
    with pytest.raises(UserError, match="val.txt: none of its 2 lines is an image with .*'/elsewh"):
        read_parts("yolo", tmp_path)
    write(tmp_path / "data.yaml",
          "train: images/one\nval: images/two\ntest: val.txt\nnames: [cat]\n")
    assert splits(tmp_path, problems=[  # as COCO's test images, which come without labels
        ProblemKind.SPLIT_NAMES_NOTHING, ProblemKind.IN_NO_SPLIT]) == {
            "train": ["a", "b"], "val": ["c"]}
    write(tmp_path / "data.yaml", "train: images/one\nval: val.txt\nnames: [cat]\n")
    write(tmp_path / "val.txt", "/elsewhere/x.jpg\nimages/two/c.jpg\n")
    assert splits(tmp_path, problems=[
        ProblemKind.SPLIT_NAMES_NOTHING, ProblemKind.IN_NO_SPLIT]) == {
            "train": ["a", "b"], "val": ["c"]}


def test_a_folder_with_several_files_names_them(tmp_path):
    for name in ("a.json", "b.JSON", "a_drawn_splits.json"):
        write(tmp_path / name, "{}")
    with pytest.raises(UserError, match="2 files ending in .json, one is needed .a.json, b.JSON"):
        read_parts("coco", tmp_path)


@pytest.mark.parametrize("form", ["coco", "yolo", "csv"])
def test_what_is_not_there_is_named_in_full(tmp_path, form):
    with pytest.raises(UserError, match=f"{tmp_path}/none: no such file or folder"):
        read_parts(form, tmp_path / "none")


def test_yolo_needs_a_folder(tmp_path):
    with pytest.raises(UserError, match="must name a folder for yolo"):
        read_parts("yolo", write(tmp_path / "data.yaml", "names: [cat]"))


def instances(folder, *names):
    """Write COCO's own folder: a JSON file a name, each of one image of its own."""
    for name in names:
        save(folder / "images" / f"{name}.jpg")
        write(folder / "annotations" / name, json.dumps({
            "images": [{"id": 1, "file_name": f"{name}.jpg"}], "categories": [],
            "annotations": []}))


@pytest.mark.parametrize("names, expected", [
    (("instances_Train.json", "instances_Validation.json"), "train val"),
    (("instances_TRAIN2017.JSON", "Instances_valid.json", "instances_test1.json"),
     "train val test"),
    (("instances_val2017.json", "captions_train2017.json"), "val")])
def test_cocos_names_in_any_letter_case(tmp_path, names, expected):
    instances(tmp_path, *names)
    assert splits(tmp_path, "coco") == {
        split: [f"{name}.jpg"] for split, name in zip(expected.split(), names)}


@pytest.mark.parametrize("name", ["minival2014", "valminusminival2014", "train2017_mini", "default",
                                  "trainval35k", "val_2017", "2017", ""])
def test_a_coco_name_that_is_no_split_is_refused(tmp_path, name):
    instances(tmp_path, "instances_train2014.json", f"instances_{name}.json")
    with pytest.raises(UserError, match=f"instances_{name}.json: .*annotation_path"):
        read_parts("coco", tmp_path)


def test_one_coco_file_may_have_any_name(tmp_path):
    instances(tmp_path, "instances_default.json")
    assert splits(tmp_path, "coco") == {"": ["instances_default.json.jpg"]}


def test_two_coco_files_of_one_split_are_refused(tmp_path):
    instances(tmp_path, "instances_train2014.json", "instances_train2017.json")
    with pytest.raises(UserError, match="_train2014.json and .*_train2017.json: both .* train"):
        read_parts("coco", tmp_path)


@pytest.mark.parametrize("inside", ["images/{}/{}", "{}/images/{}"])
def test_yolo_folders_with_a_year(tmp_path, inside):
    write(tmp_path / "classes.txt", "cat")
    for split, name in (("Train2017", "train1"), ("VAL2017", "b"), ("test", "c")):
        save(tmp_path / (inside.format(split, name) + ".jpg"))
        labels = inside.replace("images", "labels").format(split, name)
        write(tmp_path / f"{labels}.txt", "0 0.5 0.5 1 1")
    assert splits(tmp_path) == {"train": ["train1"], "val": ["b"], "test": ["c"]}


def test_images_called_train_are_no_split(tmp_path):
    write(tmp_path / "classes.txt", "cat")
    yolo(tmp_path, ("train1", "val"))
    assert splits(tmp_path) == {"": ["train1", "val"]}


@pytest.mark.parametrize("form", ["coco", "yolo", "csv"])
@pytest.mark.parametrize("pair", [
    ("val", "valid"), ("Val", "validation"), ("test2014", "test2015")])
def test_two_folders_of_one_split_are_refused(tmp_path, form, pair):
    for name in ("train", *pair):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{pair[0]} and .*{pair[1]}: both are called"):
        read_parts(form, tmp_path)


def test_folders_of_images_alone_leave_the_file_above_them(tmp_path):
    save(tmp_path / "train2017" / "a.jpg")
    write(tmp_path / "a.csv", "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,1,9,9\n")
    assert splits(tmp_path, "csv") == {"": ["a.jpg"]}
