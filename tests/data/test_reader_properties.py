"""Readers on random files: what the files say is read, and spoilt files end in no traceback."""

import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from voc_folder import save_image, write_text, xml_object

from utils.cli import UserError
from utils.data.coco import read_coco
from utils.data.csv_table import read_csv
from utils.data.doctor import Doctor, inspect_image
from utils.data.sources import DECISIONS, Annotation, SourceObject
from utils.data.voc import read_voc
from utils.data.yolo import read_yolo

SIZE = (64, 48)
CLASSES = ("cat", "dog", "red fox")
# Edges count from 0 and are integers, which all four formats can hold.
edges = st.tuples(st.integers(0, 60), st.integers(0, 44), st.integers(1, 64), st.integers(1, 48))
boxes = edges.filter(lambda box: box[0] < box[2] and box[1] < box[3])
objects = st.lists(st.tuples(st.sampled_from(CLASSES), boxes), max_size=5)


def write_voc(root, things):
    rows = [xml_object(name, x1 + 1, y1 + 1, x2, y2) for name, (x1, y1, x2, y2) in things]
    write_text(root / "Annotations" / "a.xml", f"<annotation>{''.join(rows)}</annotation>")
    return root / "JPEGImages", root / "Annotations" / "a.xml", lambda: read_voc(root)


def write_coco(root, things):
    rows = [{"image_id": 1, "category_id": CLASSES.index(name),
             "bbox": [x1, y1, x2 - x1, y2 - y1]} for name, (x1, y1, x2, y2) in things]
    file = write_text(root / "a.json", json.dumps({
        "images": [{"id": 1, "file_name": "a.png"}], "annotations": rows,
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES)]}))
    return root, file, lambda: read_coco(file, root)


def write_csv(root, things):
    rows = [f"a.png,{name},{','.join(map(str, box))}" for name, box in things] or ["a.png,,,,,"]
    file = write_text(root / "a.csv", "filename,class,xmin,ymin,xmax,ymax\n" + "\n".join(rows))
    return root, file, lambda: read_csv(file, root)


def write_yolo(root, things):
    write_text(root / "classes.txt", "\n".join(CLASSES))
    rows = [f"{CLASSES.index(name)} {(x1 + x2) / 2 / SIZE[0]!r} {(y1 + y2) / 2 / SIZE[1]!r} "
            f"{(x2 - x1) / SIZE[0]!r} {(y2 - y1) / SIZE[1]!r}"
            for name, (x1, y1, x2, y2) in things]
    return root, write_text(root / "a.txt", "\n".join(rows)), lambda: read_yolo(root)


WRITERS = st.sampled_from([write_voc, write_coco, write_csv, write_yolo])


def read(write, things, spoil=lambda data: data):
    """Write objects in a format, spoil the file, and read it; (annotations, problems)."""
    with tempfile.TemporaryDirectory() as folder:
        images, file, reader = write(Path(folder), things)
        save_image(images / "a.png", SIZE)
        file.write_bytes(spoil(file.read_bytes()))
        return reader()


@given(WRITERS, objects)
def test_all_formats_say_the_same(write, things):
    (item,), problems = read(write, things)
    assert not problems and item.image.name == "a.png"
    assert [thing.name for thing in item.objects] == [name for name, _ in things]
    np.testing.assert_allclose(np.reshape([thing.box_px for thing in item.objects], (-1, 4)),
                               np.reshape([box for _, box in things], (-1, 4)), atol=1e-6)


@st.composite
def spoiled(draw):
    """Return a function that cuts, repeats, removes or replaces a part of a file."""
    start, length = draw(st.floats(0, 1)), draw(st.integers(0, 40))
    part = draw(st.one_of(st.binary(max_size=8), st.sampled_from(
        [b"nan", b"-1", b"1e999", b"\n", b",", b"<", b'"', b"{", b"null", b"\xff"])))

    def spoil(data):
        at = int(start * len(data))
        return data[:at] + part + data[at + length:]
    return spoil


@given(WRITERS, objects, spoiled())
def test_a_spoilt_annotation_is_refused_reported_or_read(write, things, spoil):
    try:
        items, problems = read(write, things, spoil)
    except UserError as error:
        assert 0 < len(str(error)) < 1000
        return
    for problem in problems:
        assert problem.where and problem.what
    for item in items:
        for name, box, *_ in item.objects or ():
            assert name and len(box) == 4 and all(isinstance(edge, float) or edge == int(edge)
                                                  for edge in box)


@given(st.lists(st.tuples(*[st.floats(width=32)] * 4), max_size=4))
def test_what_the_doctor_lets_pass_lies_in_the_image(rows):
    with tempfile.TemporaryDirectory() as folder:
        path = save_image(Path(folder) / "a.png", SIZE)
        doctor = Doctor(CLASSES, {path: inspect_image(path)})
    things = [("cat", box, False, f"object {k}") for k, box in enumerate(rows, start=1)]
    record = doctor.record(Annotation("a", "a.xml", path, [SourceObject(*t) for t in things], None))
    low, high = record.boxes_px[:, :2], record.boxes_px[:, 2:]
    assert (low >= 0).all() and (high <= SIZE).all() and (high - low > 0.99).all()
    kept = len(record.labels)
    left_out = sum("left out" in DECISIONS[problem.kind] for problem in doctor.problems)
    assert kept + left_out == len(rows)
