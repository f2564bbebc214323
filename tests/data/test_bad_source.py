"""Broken and hostile COCO, YOLO and CSV: a UserError of two lines, or a listed decision."""

import pytest
from bad_inputs import Other, annotate, listed, refused, said


def images_changed(change):
    return lambda data: data.coco(images=[change(k, item) for k, item in
                                          enumerate(data.values["images"])])


# name, format, what happens to it, what the error says
SOURCE_ERRORS = [
    ("cut short", "coco", lambda data: data.file.write_text(data.file.read_text()[:200]),
     "all.json: not COCO"),
    ("empty", "coco", lambda data: data.file.write_text(""), "all.json: not COCO"),
    ("a list", "coco", lambda data: data.file.write_text("[]"), "not COCO"),
    ("null", "coco", lambda data: data.file.write_text("null"), "not COCO"),
    ("no categories", "coco", lambda data: data.file.write_text('{"images": []}'), "categories"),
    ("images a number", "coco", lambda data: data.coco(images=7), "not COCO"),
    ("images of text", "coco", lambda data: data.coco(images=["a.jpg"]), "not COCO"),
    ("annotations null", "coco", lambda data: data.coco(annotations=None), "not COCO"),
    ("annotations a number", "coco", lambda data: data.coco(annotations=7), "not COCO"),
    ("id a list", "coco", images_changed(lambda k, item: item | {"id": [k]}), "not COCO"),
    ("ids twice", "coco", images_changed(lambda k, item: item | {"id": 0}), "id stands twice"),
    ("categories twice", "coco", lambda data: data.coco(
        categories=[{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]), "id stands twice"),
    ("number of 5000 digits", "coco", lambda data: data.file.write_text("9" * 5000), "not COCO"),
    ("deep nesting", "coco", lambda data: data.file.write_text("[" * 100_000), "not COCO"),
    ("UTF-16", "coco", lambda data: data.file.write_bytes("{}".encode("utf-16")), "UTF-8"),
    ("missing", "coco", lambda data: data.file.unlink(), "all.json: no such file|annotation_path"),
    ("no header", "csv", lambda data: data.csv("", header="p0.jpg,cat,5,5,40,30"), "all.csv|lacks"),
    ("wrong columns", "csv", lambda data: data.csv("", header="a,b,c"), "columns filename, class"),
    ("empty", "csv", lambda data: data.file.write_text(""), "all.csv|lacks the columns"),
    ("only a header", "csv", lambda data: data.file.write_text(
        "filename,class,xmin,ymin,xmax,ymax\n"), "no usable image"),
    ("open quote", "csv", lambda data: data.csv('"p0.jpg,cat,5,5,40,30\np1.jpg'), "all.csv|quote"),
    ("huge field", "csv", lambda data: data.csv("x" * 200_000), "all.csv|field larger"),
    ("binary", "csv", lambda data: data.file.write_bytes(bytes(range(256))), "UTF-8"),
    ("missing", "csv", lambda data: data.file.unlink(), "no such file|annotation_path"),
    ("no names", "yolo", lambda data: (data.folder / "classes.txt").unlink(), "no class names"),
    ("names empty", "yolo", lambda data: (data.folder / "classes.txt").write_text(""),
     "no class names"),
    ("no images", "yolo", lambda data: data.images.rename(data.path / "away"), "no images"),
]


@pytest.mark.parametrize("case", SOURCE_ERRORS, ids=[f"{c[1]} {c[0]}" for c in SOURCE_ERRORS])
def test_source_is_refused(tmp_path, case):
    _, kind, build, words = case
    data = Other(tmp_path, kind)
    build(data)
    refused(words, annotate, data)
    assert not list(tmp_path.glob("2007_*"))


@pytest.mark.parametrize("kind", ["coco", "csv", "yolo"])
def test_annotation_path_unset(tmp_path, kind):
    refused(f"'{kind}'|set annotation_path", annotate, Other(tmp_path, kind), annotation_path="")


def same_file_twice(data):
    images = [*data.values["images"], {"id": 9, "file_name": "p0.jpg"}]
    rows = [*data.values["annotations"], {"image_id": 9, "category_id": 1, "bbox": [9, 9, 9, 9]}]
    data.coco(images=images, annotations=rows)


BAD_YOLO = "bad object|p0.txt, line 3"
# name, format, what happens to it, what is said, objects that p0 is left with
SOURCES = [
    ("bbox of three", "coco", lambda data: data.row(bbox=[1, 2, 3]),
     "bad object|all.json, annotation 9", 2),
    ("bbox nan", "coco", lambda data: data.row(bbox=[1, 2, float("nan"), 4]), "not a number", 2),
    ("bbox of 400 digits", "coco", lambda data: data.row(bbox=[1, 2, 10**400, 4]), "bad object", 2),
    ("bbox of text", "coco", lambda data: data.row(bbox=["a", 2, 3, 4]), "bad object", 2),
    ("bbox null", "coco", lambda data: data.row(bbox=None), "bad object", 2),
    ("bbox negative", "coco", lambda data: data.row(bbox=[30, 30, -9, -9]), "corners swapped", 3),
    ("unknown image", "coco", lambda data: data.row(image_id=77),
     "annotation 9|image_id '77' is the id of no image", 2),
    ("unknown category", "coco", lambda data: data.row(category_id=77), "bad object", 2),
    ("category a list", "coco", lambda data: data.row(category_id=[1]), "bad object", 2),
    ("row of text", "coco", lambda data: data.coco(
        annotations=[*data.values["annotations"], "oops"]), "bad object|annotation 9", 2),
    ("image outside", "coco", lambda data: data.coco(images=[
        *data.values["images"], {"id": 9, "file_name": "../../etc/passwd.jpg"}]),
     "image missing|passwd", 2),
    ("no file name", "coco", lambda data: data.coco(images=[*data.values["images"], {"id": 9}]),
     "image missing", 2),
    ("half a character", "coco", lambda data: (data.coco(
        images=[*data.values["images"], {"id": 9, "file_name": "\ud800.jpg"}],
        categories=[*data.values["categories"], {"id": 9, "name": "\udc00"}],
        annotations=[*data.values["annotations"],
                     {"image_id": 0, "category_id": 9, "bbox": [1, 1, 9, 9]}])),
     "image missing|unknown class", 2),
    ("one file, two ids", "coco", same_file_twice, "", 3),
    ("sides huge", "coco", images_changed(lambda k, item: item | {"width": 10**400, "height": 1}),
     "", 2),
    ("too few", "yolo", lambda data: data.label("0 .5 .5 .2"), BAD_YOLO, 2),
    ("letters", "yolo", lambda data: data.label("cat .5 .5 .2 .2"), BAD_YOLO, 2),
    ("class too high", "yolo", lambda data: data.label("2 .5 .5 .2 .2"), BAD_YOLO, 2),
    ("class negative", "yolo", lambda data: data.label("-1 .5 .5 .2 .2"), BAD_YOLO, 2),
    ("class a fraction", "yolo", lambda data: data.label("0.5 .5 .5 .2 .2"), BAD_YOLO, 2),
    ("class nan", "yolo", lambda data: data.label("nan .5 .5 .2 .2"), BAD_YOLO, 2),
    ("class inf", "yolo", lambda data: data.label("inf .5 .5 .2 .2"), BAD_YOLO, 2),
    ("nan", "yolo", lambda data: data.label("0 nan .5 .2 .2"), "not a number", 2),
    ("over one", "yolo", lambda data: data.label("0 .9 .5 .6 .2"), "outside the image", 3),
    ("pixels", "yolo", lambda data: data.label("0 32 24 20 20"), "no area", 2),
    ("polygon", "yolo", lambda data: data.label("0 .1 .1 .6 .1 .6 .6 .1 .6"), BAD_YOLO, 2),
    ("decimal commas", "yolo", lambda data: data.label("0 0,5 0,5 0,2 0,2"), BAD_YOLO, 2),
    ("labels in UTF-16", "yolo", lambda data: (data.folder / "labels" / "p0.txt").write_bytes(
        "0 .5 .5 .2 .2".encode("utf-16")), "unreadable annotation|p0.txt", None),
    ("labels without image", "yolo", lambda data: data.label("", 9), "image missing|p9.txt", 2),
    ("text in numbers", "csv", lambda data: data.csv("p0.jpg,cat,5,five,40,30"),
     "bad object|all.csv, line 10: a coordinate is no number", 2),
    ("row too short", "csv", lambda data: data.csv("p0.jpg,cat,5"), "all.csv, line 10", 2),
    ("nan", "csv", lambda data: data.csv("p0.jpg,cat,nan,5,40,30"), "not a number", 2),
    ("no class", "csv", lambda data: data.csv("p0.jpg,,9,9,40,30"), "line 10: no class name", 2),
    ("no file name", "csv", lambda data: data.csv(",cat,9,9,40,30"), "line 10: no file name", 2),
    ("image outside", "csv", lambda data: data.csv("/etc/passwd,cat,9,9,40,30"),
     "image missing|/etc/passwd", 2),
    ("unknown class", "csv", lambda data: data.csv("p0.jpg,CAT,9,9,40,30"), "unknown class", 2),
]


@pytest.mark.parametrize("case", SOURCES, ids=[f"{c[1]} {c[0]}" for c in SOURCES])
def test_source(tmp_path, capsys, case):
    _, kind, build, words, left = case
    data = Other(tmp_path, kind)
    build(data)
    annotate(data)
    said(words, capsys.readouterr().out)
    wanted = {"p0": left, "p1": 2, "p2": 2, "p3": 2}
    assert listed(data) == {name: count for name, count in wanted.items() if count is not None}
