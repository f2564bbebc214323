"""A VOC folder that tests fill, and voc_annotation.py called on it."""

import zlib
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image

from utils.data.annotations import read_list
from voc_annotation import AnnotationSettings, build_spec, main

SPLITS = ("train", "val", "test")
cached_spec = lru_cache(build_spec)


def save_image(path, size=(50, 40)):
    """Save an image of noise that no other path has; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(str(path).encode()))
    Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return path


def write_text(path, text):
    """Write a text file, its folders included; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def xml_object(name, *box):
    """Return the XML of an object with a box of any four values."""
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box)
    edges = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name><bndbox>{edges}</bndbox></object>"


class Folder:
    """A VOC folder under a path, and main() called on it."""

    def __init__(self, path, year="2007"):
        self.path, self.root = path, path / "VOCdevkit" / f"VOC{year}"
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (self.root / name).mkdir(parents=True)
        write_text(path / "classes.txt", "cat\ndog")

    def xml(self, name, *objects):
        """Write an annotation of (class name, xmin, ymin, xmax, ymax) objects."""
        rows = [xml_object(*values) for values in objects]
        write_text(self.root / "Annotations" / f"{name}.xml",
                   f"<annotation>{''.join(rows)}</annotation>")

    def fill(self, names, label="cat"):
        for name in names:
            save_image(self.root / "JPEGImages" / f"{name}.jpg")
            self.xml(name, (label, 1, 1, 10, 10))

    def split(self, **splits):
        for name, keys in splits.items():
            write_text(self.root / "ImageSets" / "Main" / f"{name}.txt", "\n".join(keys))

    def run(self, **changes):
        settings = {"classes_path": str(self.path / "classes.txt"), "lists_dir": str(self.path)}
        if "annotation_path" not in changes:
            settings["VOCdevkit_path"] = str(self.path / "VOCdevkit")
        main(AnnotationSettings(**settings | changes))

    def list(self, name):
        return read_list(self.path / f"2007_{name}.txt")[0]

    def listed(self, name):
        return [record.path.stem for record in self.list(name)]


@pytest.fixture(autouse=True)
def no_search(monkeypatch):
    """Leave out the search for priors, which takes most of the time."""
    monkeypatch.setattr("utils.data.dataset_report.fit_priors", lambda boxes, spec, *_, **__: spec)
    monkeypatch.setattr("voc_annotation.build_spec", cached_spec)


@pytest.fixture
def voc(tmp_path):
    return Folder(tmp_path)


@pytest.fixture
def twenty(voc):
    """Return a folder of twenty images and their keys."""
    keys = [f"{k:03d}" for k in range(20)]
    voc.fill(keys)
    return voc, keys
