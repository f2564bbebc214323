"""How tools lay out their data, and how the data says its own split."""

import json

import pytest
from source_files import kinds
from voc_folder import save_image, write_text, xml_object

from utils.cli import UserError
from utils.data.layouts import read_source

CAT = f"<annotation>{xml_object('cat', 1, 1, 9, 9)}</annotation>"


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


def splits(folder, form="auto", images=None, problems=()):
    """Return {split: last part of the keys}; `problems` are the kinds of those expected."""
    source = read_source(folder, form, images_path=images)
    assert kinds(source.problems) == list(problems)
    assert all(item.image for item in source.annotations)
    return {split: [key.rpartition("/")[2] for key in keys]
            for split, keys in source.members.items() if keys}


@pytest.mark.parametrize("paths", [
    "train: images/one\nval: images/two\ntest: images/three",
    "path: images\ntrain: one\nvalid: [two]\ntest: three",
    "train: ../images/one\nval: ../images/two\ntest: ../images/three",
    "train: /content/mine/images/one\nval: /content/mine/images/two\ntest: images/three",
    "train: train.txt\nval: images/two\ntest: /home/me/mine/lists/test.txt"])
def test_the_split_of_a_data_yaml(tmp_path, paths):
    folder = tmp_path / "mine"
    write_yolo(folder, yaml=f"{paths}\nnames: [cat]\n")
    write_text(folder / "train.txt", "./images/one/a.jpg\n/home/me/images/one/b.jpg\n")
    write_text(folder / "lists" / "test.txt", "C:\\me\\images\\three\\d.jpg\n\n")
    assert splits(folder) == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    assert splits(folder / "data.yaml") == splits(folder, "yolo")


@pytest.mark.parametrize("names, lines", [
    (("train", "valid", "test"), "data/obj/{}.jpg"), (("train", "val", "test"), "{}"),
    (("train_list", "val_list", "test_list"), "obj/{0}.jpg obj/{0}.xml")])
def test_the_split_of_text_files(tmp_path, names, lines):
    for name in "abcd":
        save_image(tmp_path / "obj" / f"{name}.jpg")
        write_text(tmp_path / "obj" / f"{name}.txt", "0 0.5 0.5 1 1")
    for name, members in zip(names, ("ab", "c", "d")):
        write_text(tmp_path / f"{name}.txt", "\n".join(map(lines.format, members)))
    write_text(tmp_path / "obj.names", "cat")
    expected = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    assert splits(tmp_path) == expected
    # What a .data file names comes first, and lies in the folder of the data alone.
    for name in names:
        (tmp_path / f"{name}.txt").rename(tmp_path / f"my_{name}.txt")
    keys = ("train", "valid", "test")
    write_text(tmp_path / "obj.data", "classes = 1\nnames = /etc/passwd\n" + "\n".join(
        f"{key} = data/my_{name}.txt" for key, name in zip(keys, names)))
    assert splits(tmp_path) == expected


def test_what_split_files_do_not_name(tmp_path):
    write_yolo(tmp_path, yaml="train: images/one\nval: val.txt\ntest: gone\nnames: [cat]\n")
    write_text(tmp_path / "val.txt", "/elsewhere/x.jpg\nimages/two/c.jpg\n")
    assert splits(tmp_path, problems=["in no split"]) == {"train": ["a", "b"], "val": ["c"]}
    assert "test = gone: 0 of 0 lines name no image" in read_source(tmp_path).messages[1]


@pytest.mark.parametrize("line", [
    "{0} ", "{0} -1", "{0}.jpg", "{0}.xml", "JPEGImages/{0}.jpg Annotations/{0}.xml", "{0}.PNG 1",
    "C:\\x\\{0}.jpg"])
@pytest.mark.parametrize("names", [("train", "val"), ("Train", "Validation"), ("trainval", "VAL"),
                                   ("cat_train", "cat_val")])
@pytest.mark.parametrize("root", ["", "VOC2007/"])
def test_image_sets_of_tools(tmp_path, line, names, root):
    for key in ("a 1.5", "b", "c", "d"):
        save_image(tmp_path / f"{root}JPEGImages/{key}.jpg")
        write_text(tmp_path / f"{root}Annotations/{key}.xml", CAT)
    for name, keys in zip(names, (["b", "a 1.5"], ["c", "gone"])):
        write_text(tmp_path / f"{root}ImageSets/Main/{name}.txt", "\n".join(map(line.format, keys)))
    assert splits(tmp_path, problems=["in no split"]) == {"train": ["a 1.5", "b"], "val": ["c"]}
    assert "1 of 2 lines name no image" in read_source(tmp_path).messages[0]


def test_an_image_in_two_split_files_is_named(tmp_path):
    write_yolo(tmp_path, yaml="train: train.txt\nval: val.txt\nnames: [cat]\n")
    write_text(tmp_path / "train.txt", "images/one/a.jpg\nimages/one/b.jpg\nimages/three/d.jpg\n")
    write_text(tmp_path / "val.txt", "images/two/c.jpg\nimages/one/b.jpg\n")
    assert splits(tmp_path) == {"train": ["a", "b", "d"], "val": ["c"]}
    assert "1 of its images are in another split too" in read_source(tmp_path).messages[0]


@pytest.mark.parametrize("yaml", ["names: [cat]", "train: /data/p\nval: /q\nnames: [cat]"])
def test_folders_name_the_split_where_the_yaml_does_not(tmp_path, yaml):
    write_yolo(tmp_path, ("train2017/a", "Valid/b", "x/c", "train1"), yaml)
    assert splits(tmp_path) == {"train": ["train1", "a", "c"], "val": ["b"]}


# As labelImg, Roboflow, CVAT, Kaggle and VoTT write them: folders of images and of XML files.
@pytest.mark.parametrize("images, xmls", [
    ("", ""), ("images/", "annotations/"), ("JPEGImages/", "Annotations/"), ("pics/", "boxes/"),
    ("a/export/JPEGImages/", "a/export/Annotations/")])
@pytest.mark.parametrize("parts", [("", "", ""), ("train/", "valid/", "test/"),
                                   ("x_train_data/", "Validation/", "test2/")])
@pytest.mark.parametrize("is_inside", [True, False])
def test_xml_files_anywhere(tmp_path, images, xmls, parts, is_inside):
    for name, part in zip("abc", parts):
        order = (lambda folder: folder + part) if is_inside else (lambda folder: part + folder)
        save_image(tmp_path / order(images) / f"{name}.jpg")
        write_text(tmp_path / order(xmls) / f"{name}.xml", CAT)
        # Roboflow calls images of several folders alike.
        if parts[0] and images != "pics/":
            save_image(tmp_path / order(images) / "same.jpg")
            write_text(tmp_path / order(xmls) / "same.xml", CAT)
    same = ["same"] * (parts[0] != "" and images != "pics/")
    assert splits(tmp_path) == ({"train": ["a", *same], "val": ["b", *same], "test": ["c", *same]}
                           if parts[0] else {"train": ["a", "b", "c"]})


@pytest.mark.parametrize("form, unlabelled, keys, kind", [
    ("voc", "auto", ["a"], "no annotation"), ("voc", "background", ["a", "b"], "no label file"),
    ("yolo", "auto", ["a", "b"], "no label file"), ("yolo", "unused", ["a"], "no annotation"),
    ("csv", "auto", ["a.jpg"], None), ("csv", "background", ["a.jpg", "b"], "no label file")])
def test_images_without_annotation(tmp_path, form, unlabelled, keys, kind):
    for name in "ab":
        save_image(tmp_path / f"{name}.jpg")
    write_text(tmp_path / "classes.txt", "cat")
    {"voc": lambda: write_text(tmp_path / "a.xml", CAT), "csv": lambda: write_csv(
        tmp_path / "t.csv", "a.jpg"), "yolo": lambda: write_text(tmp_path / "a.txt", "")}[form]()
    source = read_source(tmp_path, unlabelled=unlabelled)
    assert [item.key.removeprefix("/") for item in source.annotations] == keys
    assert kinds(source.problems) == [kind] * (kind is not None)


@pytest.mark.parametrize("images", ["{}", "images/{}", "images"])
@pytest.mark.parametrize("file", ["annotations/instances_{}.json", "annotations/{}.json",
                                  "{}_coco.json"])
def test_coco_files_of_a_split_each(tmp_path, images, file):
    for name, split in (("Train2017", "train"), ("val2017", "val")):
        save_image(tmp_path / images.format(name) / f"{split}.jpg")
        write_coco(tmp_path / file.format(name), f"{split}.jpg")
        write_text(tmp_path / "annotations" / f"captions_{name}.json", "{}")
    assert splits(tmp_path) == {"train": ["train.jpg"], "val": ["val.jpg"]}


@pytest.mark.parametrize("write, name", [
    (write_coco, "{}/_annotations.coco.json"), (write_csv, "{}/_annotations.csv"),
    (write_csv, "{}_labels.csv"), (write_csv, "data/{}.csv")])
def test_equal_names_in_the_folders_of_several_splits(tmp_path, write, name):
    for folder in ("train", "valid", "test"):
        save_image(tmp_path / folder / "a.jpg")
        write(tmp_path / name.format(folder), "a.jpg")
    source = read_source(tmp_path)
    assert source.members == {"train": ["train/a.jpg"], "val": ["val/a.jpg"],
                              "test": ["test/a.jpg"]}
    assert [item.image.parent.name for item in source.annotations] == ["test", "train", "valid"]
    file = tmp_path / name.format("train")
    assert splits(file, images=tmp_path / "train") == {"train": ["a.jpg"]}


@pytest.mark.parametrize("files, words", [
    (("annotations/instances_train2014.json", "annotations/instances_train2017.json"), "one split"),
    (("a.json", "b.json"), "several files"), (("images/a.txt", "b.xyz"), "no annotations")])
def test_files_that_do_not_say_the_split_are_refused(tmp_path, files, words):
    for name in files:
        write_coco(tmp_path / name, "a.jpg")
    with pytest.raises(UserError, match=words):
        read_source(tmp_path, "coco")
    with pytest.raises(UserError, match=f"{tmp_path}/none: no such f"):
        read_source(tmp_path / "none")


def test_what_is_not_read_is_said(tmp_path):
    for name in "ab":
        save_image(tmp_path / f"{name}.jpg")
        write_text(tmp_path / f"{name}.txt", "0 0.5 0.5 1 1")
    for name in ("train", "more"):
        write_coco(tmp_path / f"{name}.json", "a.jpg")
    text, table = read_source(tmp_path).messages
    assert "2 .txt files are not read" in text and "not read: more.json" in table
