"""How tools lay out a source that comes with its own split."""

import json

import pytest
from source_files import kinds
from voc_folder import save_image, write_text

from utils.cli import UserError
from utils.data.layouts import read_parts


def write_yolo(folder, names=("one/a", "one/b", "two/c", "three/d"), yaml="names: [cat]\n"):
    for name in names:
        save_image(folder / "images" / f"{name}.jpg")
        write_text(folder / "labels" / f"{name}.txt", "0 0.5 0.5 1 1")
    write_text(folder / "data.yaml", yaml)


def write_coco(path, image):
    """Write a JSON file of one image, whose path is relative to the folder of images."""
    write_text(path, json.dumps({"images": [{"id": 1, "file_name": image}], "categories": [],
                                 "annotations": []}))


def write_csv(path, image):
    write_text(path, f"filename,class,xmin,ymin,xmax,ymax\n{image},cat,1,1,9,9\n")


def splits(folder, form="yolo", images=None, problems=()):
    """Return {split: last part of the keys}; `problems` are the kinds of those expected."""
    parts = read_parts(form, folder, images)
    assert [kind for part in parts for kind in kinds(part[2])] == list(problems)
    return {split: [item.key.rpartition("/")[2] for item in items] for split, items, _ in parts
            if items}


@pytest.mark.parametrize("paths", [
    "train: images/one\nval: images/two\ntest: images/three",
    "path: images\ntrain: one\nvalid: [two]\ntest: three",
    "train: ../images/one\nval: ../images/two\ntest: ../images/three",
    "train: /content/mine/images/one\nval: /content/mine/images/two\ntest: images/three",
    "train: train.txt\nval: images/two\ntest: lists/test.txt"])
def test_the_split_of_a_data_yaml(tmp_path, paths):
    folder = tmp_path / "mine"
    write_yolo(folder, yaml=f"{paths}\nnames: [cat]\n")
    write_text(folder / "train.txt", "./images/one/a.jpg\n/home/me/images/one/b.jpg\n")
    write_text(folder / "lists" / "test.txt", "C:\\me\\images\\three\\d.jpg\n\n")
    assert splits(folder) == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


def test_what_a_data_yaml_does_not_name(tmp_path):
    write_yolo(tmp_path, yaml="train: images/one\nval: val.txt\ntest: gone\nnames: [cat]\n")
    write_text(tmp_path / "val.txt", "/elsewhere/x.jpg\nimages/two/c.jpg\n")
    assert splits(tmp_path, problems=["in no split"]) == {"train": ["a", "b"], "val": ["c"]}


def test_one_folder_for_train_and_val_is_train(tmp_path):
    write_yolo(tmp_path, yaml="train: images/one\nval: images/one\ntest: images\nnames: [cat]\n")
    assert splits(tmp_path) == {"train": ["a", "b"], "test": ["d", "c"]}


@pytest.mark.parametrize("yaml", ["names: [cat]", "train: /data/p\nval: /q\nnames: [cat]"])
def test_folders_name_the_split_where_the_yaml_does_not(tmp_path, yaml):
    write_yolo(tmp_path, ("train2017/a", "Valid/b", "x/c", "train1"), yaml)
    assert splits(tmp_path) == {"train": ["a"], "val": ["b"], "": ["train1", "c"]}


@pytest.mark.parametrize("images", ["{}", "images/{}", "images"])
def test_cocos_own_folder(tmp_path, images):
    for name, split in (("Train2017", "train"), ("val2017", "val")):
        save_image(tmp_path / images.format(name) / f"{split}.jpg")
        write_coco(tmp_path / "annotations" / f"instances_{name}.json", f"{split}.jpg")
        write_text(tmp_path / "annotations" / f"captions_{name}.json", "{}")
    assert splits(tmp_path, "coco") == {"train": ["train.jpg"], "val": ["val.jpg"]}


@pytest.mark.parametrize("form, write, name", [
    ("coco", write_coco, "_annotations.coco.json"), ("csv", write_csv, "_annotations.csv")])
def test_folders_of_a_split_each_and_one_file(tmp_path, form, write, name):
    for folder in ("train", "valid", "test"):
        save_image(tmp_path / folder / f"{folder}.jpg")
        write(tmp_path / folder / name, f"{folder}.jpg")
    assert splits(tmp_path, form) == {"train": ["train.jpg"], "val": ["valid.jpg"],
                                      "test": ["test.jpg"]}
    for path in (tmp_path / "train", tmp_path / "train" / name):
        assert splits(path, form) == {"": ["train.jpg"]}
    write(tmp_path / "elsewhere" / name, "test.jpg")
    assert splits(tmp_path / "elsewhere" / name, form, tmp_path / "test") == {"": ["test.jpg"]}


@pytest.mark.parametrize("files, words", [
    (("annotations/instances_train2014.json", "annotations/instances_train2017.json"), "one split"),
    (("a.json", "b.json"), "several files"), (("images/a.txt",), "no .json file in it")])
def test_files_that_do_not_say_the_split_are_refused(tmp_path, files, words):
    for name in files:
        write_text(tmp_path / name, "{}")
    with pytest.raises(UserError, match=f"{words}.*annotation_path"):
        read_parts("coco", tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}/none: no such f.*annotation_path"):
        read_parts("coco", tmp_path / "none")
