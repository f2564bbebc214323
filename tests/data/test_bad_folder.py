"""Broken and hostile folders: a UserError of two lines, or a listed decision."""

import os

from bad_inputs import (
    GOOD,
    Voc,
    annotate,
    annotation,
    boxed,
    encoded,
    image,
    listed,
    refused,
    said,
    table,
)


def no_folder(name):
    def build(voc):
        (voc.root / name).rename(voc.path / "elsewhere")
    return build


def emptied(name):
    def build(voc):
        for path in (voc.root / name).iterdir():
            path.unlink()
    return build


def file_for_folder(path_of):
    def build(voc):
        path = path_of(voc)
        path.rename(voc.path / "elsewhere")
        path.write_text("a file")
    return build


def no_matching_names(voc):
    for path in list(voc.images.iterdir()):
        path.rename(path.with_name(f"other_{path.name}"))


# name, what happens to the folder, what the error says
FOLDERS = [
    ("no Annotations", no_folder("Annotations"), "VOC2007/Annotations: no such folder"),
    ("no JPEGImages", no_folder("JPEGImages"), "VOC2007/JPEGImages: no such folder"),
    ("empty Annotations", emptied("Annotations"), "Annotations: no XML files"),
    ("empty JPEGImages", emptied("JPEGImages"), "JPEGImages: none of the 4 annotated images"),
    ("Annotations a file", file_for_folder(lambda voc: voc.xmls), "Annotations: no such folder"),
    ("VOCdevkit a file", file_for_folder(lambda voc: voc.devkit), "no such folder"),
    ("ImageSets a file", file_for_folder(lambda voc: voc.root / "ImageSets"), "cannot be made"),
    ("no matching names", no_matching_names, "none of the 4 annotated images is in it"),
    ("line break in a name", lambda voc: image().save(voc.images / "a\nb.jpg"),
     r"a\nb.jpg|rename"),
    ("line separator in a name", lambda voc: (voc.xmls / "a\u2028b.xml").write_text(annotation()),
     r"a\u2028b|rename"),
    ("name in latin-1", lambda voc: image().save(os.fsencode(voc.images) + b"/caf\xe9.jpg",
                                                 "jpeg"), "rename"),
    ("classes missing", lambda voc: voc.classes.unlink(), "classes.txt|classes_path"),
    ("classes a folder", lambda voc: (voc.classes.unlink(), voc.classes.mkdir()),
     "classes.txt: Is a directory"),
    ("classes empty", lambda voc: voc.classes.write_text(""), "classes.txt: no class names"),
    ("classes blank", lambda voc: voc.classes.write_text(" \n\t\n\n"), "no class names"),
    ("classes twice", lambda voc: voc.classes.write_text("cat\ndog\ncat\n"), "'cat' stands twice"),
    ("classes in UTF-16", lambda voc: voc.classes.write_bytes("cat\ndog".encode("utf-16")),
     "classes.txt: not a UTF-8 text file"),
    ("classes in latin-1", lambda voc: voc.classes.write_bytes("café".encode("latin-1")),
     "classes.txt: not a UTF-8 text file"),
    ("classes binary", lambda voc: voc.classes.write_bytes(encoded(image(), "jpeg")), "UTF-8"),
    ("classes of others", lambda voc: voc.classes.write_text("horse\ncow\n"),
     "no object of a known class|classes.txt"),
    ("split empty", lambda voc: (voc.main / "train.txt").write_text(""), "in the train split"),
    ("split of no names", lambda voc: (voc.main / "train.txt").write_text("x\ny\n"),
     "no usable image in the train split"),
    ("split in UTF-16", lambda voc: (voc.main / "train.txt").write_bytes("p0".encode("utf-16")),
     "train.txt: not a UTF-8 text file"),
    ("split a folder", lambda voc: (voc.main / "trainval.txt").mkdir(),
     "trainval.txt: Is a directory"),
    ("split a dangling link", lambda voc: (voc.main / "trainval.txt").symlink_to("/nowhere/x.txt"),
     "trainval.txt: No such file"),
    ("list a folder", lambda voc: (voc.path / "2007_val.txt").mkdir(), "2007_val.txt|cannot be"),
]


@table(FOLDERS)
def test_folder(tmp_path, case):
    _, build, words = case
    voc = Voc(tmp_path)
    build(voc)
    refused(words, annotate, voc)


def folder_circle(voc):
    (voc.images / "again").symlink_to(voc.images)
    (voc.xmls / "up").symlink_to(voc.root)


def written(path_of, text):
    def build(voc):
        path = path_of(voc)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return build


# name, what happens to the folder, what is said; all objects stay
HARMLESS = [
    ("folder circle", folder_circle, ""),
    ("classes with BOM", written(lambda voc: voc.classes, b"\xef\xbb\xbfcat\ndog\n"), ""),
    ("classes with gaps", written(lambda voc: voc.classes, "\n\n cat \r\n\r\n\tdog\n\n"), ""),
    ("split with BOM", written(lambda voc: voc.main / "train.txt", "\ufeffp0\r\n\r\np1"), ""),
    ("split names nothing", written(lambda voc: voc.main / "val.txt", "p2\nghost\n"),
     "split names nothing (left out)|val.txt: 'ghost'"),
    ("split leads outside", written(lambda voc: voc.main / "val.txt", "p2\n../../p0\n"),
     "split names nothing|'../../p0'"),
    ("split names it twice", written(lambda voc: voc.main / "train.txt", "p0\np1\np0\n"),
     "same image twice (kept, and counts twice)|p0.jpg"),
    ("same id in two splits", written(lambda voc: voc.main / "test.txt", "p3\np0\n"),
     "same image in two splits (kept in both)|p0.jpg: in test"),
    ("no XML", lambda voc: image(9).save(voc.images / "extra.jpg"), "no annotation|extra.jpg"),
    ("annotation a dangling link", lambda voc: (voc.xmls / "x.xml").symlink_to("nowhere"),
     "unreadable annotation|x.xml"),
    ("annotation a pipe", lambda voc: os.mkfifo(voc.xmls / "x.xml"), ""),
]


@table(HARMLESS)
def test_harmless(tmp_path, capsys, case):
    _, build, words = case
    voc = Voc(tmp_path)
    build(voc)
    annotate(voc)
    said(words, capsys.readouterr().out)
    assert listed(voc) == {"p0": 2, "p1": 2, "p2": 2, "p3": 2}


def test_an_annotation_does_not_take_the_image_of_another(tmp_path, capsys):
    voc = Voc(tmp_path)
    voc.replaced()
    voc.xml("<filename>p1.jpg</filename>", GOOD)
    annotate(voc)
    said("image missing|p0.xml: no image for 'p0'", capsys.readouterr().out)
    assert listed(voc) == {"p1": 2, "p2": 2, "p3": 2}


def test_an_older_list_of_an_empty_split_is_named(tmp_path, capsys):
    voc = Voc(tmp_path)
    annotate(voc)
    (voc.main / "test.txt").write_text("")
    annotate(voc)
    said("the 2007_test.txt of an earlier run is now 2007_test.txt.old", capsys.readouterr().out)
    assert not (tmp_path / "2007_test.txt").exists()


def test_strict_writes_no_list(tmp_path, capsys):
    voc = Voc(tmp_path)
    voc.xml(GOOD, boxed(5, 5, 30, 30, "dog"), boxed(0, 0, 0, 0))
    refused("1 problems|strict", annotate, voc, strict=True)
    said("1 x no area", capsys.readouterr().out)
    assert not list(tmp_path.glob("2007_*"))
