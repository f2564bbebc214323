"""A VOC folder that tests fill, and voc_annotation.py called on it."""

import zlib
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image

from utils.data.annotations import read_list
from utils.data.prior_fit import Suggestion
from voc_annotation import AnnotationSettings, build_spec, main

SPLITS = ("train", "val", "test")
cached_spec = lru_cache(build_spec)


def save(path):
    """Save a 50x40 image that no other name has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(str(path).encode()))
    Image.fromarray(noise.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)


class Folder:
    """A VOC folder under tmp_path, and main() called on it."""

    def __init__(self, path, year="2007"):
        self.path, self.root = path, path / "VOCdevkit" / f"VOC{year}"
        self.main_dir = self.root / "ImageSets" / "Main"
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (self.root / name).mkdir(parents=True)
        self.classes("cat", "dog")

    def classes(self, *names):
        (self.path / "classes.txt").write_text("\n".join(names), encoding="utf-8")

    def image(self, name, suffix=".jpg"):
        save(self.root / "JPEGImages" / f"{name}{suffix}")

    def xml(self, name, *objects, size=True):
        """Write an annotation of (class name, xmin, ymin, xmax, ymax) objects."""
        rows = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for label, x1, y1, x2, y2 in objects)
        head = "<size><width>50</width><height>40</height></size>" if size else ""
        path = self.root / "Annotations" / f"{name}.xml"
        path.write_text(f"<annotation>{head}{rows}</annotation>", encoding="utf-8")

    def fill(self, names, label="cat"):
        for name in names:
            self.image(name)
            self.xml(name, (label, 1, 1, 10, 10))

    def split(self, name, ids):
        (self.main_dir / f"{name}.txt").write_text("".join(f"{k}\n" for k in ids))

    def ids(self, name):
        return (self.main_dir / f"{name}.txt").read_text().split("\n")[:-1]

    def run(self, **changes):
        main(AnnotationSettings(**{
            "classes_path": str(self.path / "classes.txt"), "lists_dir": str(self.path),
            "VOCdevkit_path": str(self.path / "VOCdevkit")} | changes))

    def list(self, name):
        return read_list(self.path / f"2007_{name}.txt")[0]

    def listed(self, name):
        return [record.path.stem for record in self.list(name)]


@pytest.fixture(autouse=True)
def no_search(monkeypatch):
    """Leave out the search for priors and the plots, which take most of the time."""
    monkeypatch.setattr("voc_annotation.suggest_priors",
                        lambda boxes, spec, paper, **_: Suggestion(spec.anchors_size, (), 0.5, 0.5))
    monkeypatch.setattr("voc_annotation.plot_boxes", lambda boxes, spec: [])
    monkeypatch.setattr("voc_annotation.build_spec", cached_spec)


@pytest.fixture
def voc(tmp_path):
    return Folder(tmp_path)


@pytest.fixture
def twenty(voc):
    """Return a folder of twenty images and their ids."""
    ids = [f"{k:03d}" for k in range(20)]
    voc.fill(ids)
    return voc, ids
