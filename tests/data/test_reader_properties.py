"""Spoilt annotation files end in no traceback, and what passes the doctor is sound."""

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from source_files import read
from voc_folder import save_image, write_text, xml_object

from utils.cli import UserError
from utils.data.doctor import Doctor, inspect_image
from utils.data.sources import DECISIONS, Annotation, SourceObject
from utils.multibox.spec import SSDSpec

SIZE = (64, 48)
COCO = {"images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 20.5, 30]}] * 2}
# File, its text, and what is read. The image is JPEGImages/a.png.
SOURCES = [
    ("Annotations/a.xml", f"<annotation>{xml_object('cat', 2, 3, 21, 32)}</annotation>", "."),
    ("a.json", json.dumps(COCO), "a.json"),
    ("a.csv", "filename,class,xmin,ymin,xmax,ymax,width\na.png,cat,1,2,21.5,32,64\na.png,,,,,,\n",
     "a.csv"),
    ("JPEGImages/a.txt", "0 0.5 0.5 0.25 0.5\n1 0.25 0.5 0.5 1\n", "JPEGImages")]


@given(st.sampled_from(SOURCES), st.floats(0, 1), st.integers(0, 40), st.one_of(
    st.binary(max_size=8), st.sampled_from([b"nan", b"-1", b"1e999", b"\n", b",", b"<", b'"'])))
def test_a_spoilt_annotation_is_refused_reported_or_read(source, start, length, part):
    name, text, path = source
    data, at = text.encode(), int(start * len(text))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save_image(root / "JPEGImages" / "a.png", SIZE)
        write_text(root / "JPEGImages" / "classes.txt", "cat\ndog")
        write_text(root / name, "").write_bytes(data[:at] + part + data[at + length:])
        try:
            items, problems = read(root / path)
        except UserError as error:
            assert 0 < len(str(error)) < 1000
            return
    assert all(problem.where and problem.what for problem in problems)
    for name, box, *_ in [thing for item in items for thing in item.objects or ()]:
        assert len(box) == 4 and all(isinstance(edge, (int, float)) for edge in box)


@given(st.lists(st.tuples(*[st.floats(width=32)] * 4), max_size=4))
def test_what_the_doctor_lets_pass_lies_in_the_image(rows):
    with tempfile.TemporaryDirectory() as folder:
        path = save_image(Path(folder) / "a.png", SIZE)
        doctor = Doctor(["cat"], {path: inspect_image(path)}, SSDSpec())
    things = [SourceObject("cat", box, False, f"object {k}") for k, box in enumerate(rows)]
    record = doctor.record(Annotation("a", "a.xml", path, things, None))
    if record is None:  # none of the objects is usable
        assert rows and doctor.problems[-1].kind == "no usable object"
        return
    low, high = record.boxes_px[:, :2], record.boxes_px[:, 2:]
    assert (low >= 0).all() and (high <= SIZE).all() and (high - low > 0.99).all()
    left_out = sum("left out" in DECISIONS[problem.kind] for problem in doctor.problems)
    assert len(record.labels) + left_out == len(rows)
