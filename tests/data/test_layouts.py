"""How tools lay out a source that comes with its own split."""

import pytest
from source_files import save, write

from utils.cli import UserError
from utils.data.layouts import read_parts

LABELLED = ("one/a", "one/b", "two/c", "three/d")


def yolo(folder, names=LABELLED):
    for name in names:
        save(folder / "images" / f"{name}.jpg")
        write(folder / "labels" / f"{name}.txt", "0 0.5 0.5 1 1")


def splits(folder, form="yolo"):
    """Return {split: last part of the keys}."""
    found = {}
    for name, items, problems in read_parts(form, folder):
        assert not problems
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
    assert splits(tmp_path) == {"train": ["a"], "val": ["b"], "": ["c"]}


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
