"""Small data sets to break, in VOC, COCO, YOLO and CSV, and what their tests share."""

import faulthandler
import io
import json
import signal
import struct
import zlib
from contextlib import ExitStack
from functools import lru_cache
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

import voc_annotation
from utils.cli import UserError
from utils.data.annotations import read_list
from utils.data.prior_fit import Suggestion

LIMIT_SECONDS = 20
cached_spec = lru_cache(voc_annotation.build_spec)
SIZE = (64, 48)
GOOD = "<object><name>cat</name>{}</object>".format(
    "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>")


@pytest.fixture(autouse=True)
def limit():
    """Stop a case that hangs; a test file switches this on by importing it."""
    if not hasattr(signal, "SIGALRM"):  # Windows
        yield
        return

    def stop(*_):
        pytest.fail(f"took longer than {LIMIT_SECONDS} s")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_SECONDS)
    # A thread that waits for a pipe holds up the failure as well: then the process must end.
    faulthandler.dump_traceback_later(2 * LIMIT_SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def annotate(data, *, quick=True, **changes):
    """Run voc_annotation.py; quick leaves out the prior search and the figures of its report."""
    settings = voc_annotation.AnnotationSettings(**data.settings | changes)
    with ExitStack() as stack:
        if quick:
            for name, value in (("suggest_priors", Suggestion((), (), 0, 0)), ("plot_boxes", ())):
                stack.enter_context(patch.object(voc_annotation, name, return_value=value))
            stack.enter_context(patch.object(voc_annotation, "build_spec", cached_spec))
        voc_annotation.main(settings)


def listed(data):
    """Return {image: number of its objects} of all lists."""
    records = [record for path in data.path.glob("2007_*.txt") for record in read_list(path)[0]]
    return {record.path.stem: len(record.labels) for record in records}


def refused(words, call, *args, **kwargs):
    """Assert that a call raises a UserError of one or two lines that can be printed."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert len(text.strip().splitlines()) <= 2 and len(text) < 1000
    text.encode("utf-8")
    assert all(word in text for word in words.split("|")), text


def said(words, out):
    """Assert that all of the words, separated by |, were printed."""
    for word in words.split("|"):
        assert word in out, f"{word!r} is not in\n{out}"


def table(cases):
    """Run a test once for each case; the first of its parts is its name."""
    return pytest.mark.parametrize("case", cases, ids=[case[0] for case in cases])


def image(seed=0, size=SIZE):
    """Return a smooth PIL image, so that JPEG changes it little."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(40, 216, (4, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BILINEAR)


def encoded(image, kind, **options):
    """Return a PIL image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width, height):
    """Return a whole PNG file whose header claims a size that its data does not have."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(
            ">I", zlib.crc32(name + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"x"))
            + chunk(b"IEND", b""))


def jpeg_header(width, height):
    """Return a JPEG file whose header claims a size that its data does not have."""
    data = encoded(image(), "jpeg")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4:]


def jpeg_with_orientation(kind, count, value):
    """Return a JPEG file with an EXIF orientation of any TIFF type."""
    entry = struct.pack("<HHHI4s", 1, 0x112, kind, count, value)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + entry + b"\0\0\0\0"
    return encoded(image(), "jpeg", exif=exif)


def jpeg_with_thumbnail(photo):
    """Return a JPEG file with a whole small one inside a segment before its own scan."""
    data, small = encoded(photo, "jpeg"), encoded(image(1, (16, 12)), "jpeg")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small + data[2:]


def boxed(xmin, ymin, xmax, ymax, name="cat"):
    """Return the XML of an object with any text as coordinates."""
    return (f"<object><name>{name}</name><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
            f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>")


def annotation(*parts):
    """Return an XML annotation."""
    return f"<annotation>{''.join(parts)}</annotation>"


def sized(width, height):
    """Return the XML of <size> with any text as sides."""
    return f"<size><width>{width}</width><height>{height}</height></size>"


class Voc:
    """A VOC folder of four good images: p0 and p1 to train on, p2 for val, p3 for test."""

    def __init__(self, path):
        self.path, self.devkit = path, path / "VOCdevkit"
        self.root = self.devkit / "VOC2007"
        self.xmls, self.images = self.root / "Annotations", self.root / "JPEGImages"
        self.main = self.root / "ImageSets" / "Main"
        for folder in (self.xmls, self.images, self.main):
            folder.mkdir(parents=True)
        self.classes = path / "classes.txt"
        self.classes.write_text("cat\ndog\n")
        for k in range(4):
            image(k).save(self.images / f"p{k}.jpg")
            (self.xmls / f"p{k}.xml").write_text(annotation(GOOD, boxed(9, 9, 40, 40, "dog")))
        for name, ids in (("train", "p0\np1\n"), ("val", "p2\n"), ("test", "p3\n")):
            (self.main / f"{name}.txt").write_text(ids)

    @property
    def settings(self):
        return {"classes_path": str(self.classes), "VOCdevkit_path": str(self.devkit),
                "lists_dir": str(self.path)}

    def xml(self, *parts):
        """Replace the annotation of p0."""
        (self.xmls / "p0.xml").write_text(annotation(*parts), encoding="utf-8")

    def xml_bytes(self, data):
        """Replace the annotation of p0 by a file of any content."""
        (self.xmls / "p0.xml").write_bytes(data)

    def image(self, data):
        """Replace the image of p0 by a file of any content; return its path."""
        path = self.images / "p0.jpg"
        path.write_bytes(data)
        return path

    def replaced(self):
        """Remove the image of p0 and return its path, to put something else there."""
        path = self.images / "p0.jpg"
        path.unlink()
        return path


class Other:
    """A folder of four good images with annotations of another format."""

    def __init__(self, path, kind):
        self.path, self.kind, self.folder = path, kind, path / "data"
        self.classes = path / "mine.txt"
        self.classes.write_text("cat\ndog\n")
        self.images = self.folder / "images" if kind == "yolo" else self.folder
        self.images.mkdir(parents=True)
        for k in range(4):
            image(k).save(self.images / f"p{k}.jpg")
        self.file = self.folder / f"all.{ {'coco': 'json', 'csv': 'csv'}.get(kind, 'txt') }"
        getattr(self, f"fill_{kind}")()

    @property
    def settings(self):
        return {"classes_path": str(self.classes), "lists_dir": str(self.path),
                "annotation_format": self.kind, "test_share": 0.25, "val_share": 0.25,
                "annotation_path": str(self.folder if self.kind == "yolo" else self.file)}

    def fill_coco(self):
        self.values = {
            "images": [{"id": k, "file_name": f"p{k}.jpg"} for k in range(4)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [{"image_id": k, "category_id": label, "bbox": [5, 5, 30, 25 + label]}
                            for k in range(4) for label in (1, 2)]}
        self.coco()

    def coco(self, **changes):
        """Write the JSON file with some of its parts replaced."""
        self.file.write_text(json.dumps(self.values | changes))

    def row(self, **changes):
        """Write the JSON file with one more annotation, a broken one."""
        row = {"image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9]} | changes
        self.coco(annotations=[*self.values["annotations"], row])

    def fill_yolo(self):
        (self.folder / "labels").mkdir()
        (self.folder / "classes.txt").write_text("cat\ndog\n")
        for k in range(4):
            self.label("", k)

    def label(self, line, k=0):
        """Write the label file of an image: two good lines and one more."""
        (self.folder / "labels" / f"p{k}.txt").write_text(
            f"0 .5 .5 .6 .6\n1 .5 .5 .7 .7\n{line}\n", encoding="utf-8")

    def fill_csv(self):
        self.csv("")

    def csv(self, line, header="filename,class,xmin,ymin,xmax,ymax"):
        """Write the CSV file: its header, two good rows an image, and one more."""
        rows = [f"p{k}.jpg,{name},5,5,40,{edge}" for k in range(4)
                for name, edge in (("cat", 30), ("dog", 40))]
        self.file.write_text("\n".join([header, *rows, line]), encoding="utf-8")
