"""Seconds to read VOC annotations, against parsing the same files with ElementTree alone."""

import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

from benchmarks.prepare import BenchSettings
from benchmarks.race import race
from benchmarks.table import Row, rows_of
from utils.cli import UserError
from utils.data.voc import read_voc


def measure(settings: BenchSettings) -> list[Row]:
    """Copy files until there are enough, see that both count the same objects, time both."""
    originals = sorted(Path(settings.data, "VOCdevkit/VOC2007/Annotations").glob("*.xml"))
    if not originals:
        raise UserError("no XML files in VOCdevkit/VOC2007/Annotations; check data.")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("Annotations", "JPEGImages"):
            Path(folder, name).mkdir()
        for k in range(settings.files):  # the images are empty: they are not read
            shutil.copyfile(originals[k % len(originals)], f"{folder}/Annotations/{k:06d}.xml")
            Path(folder, f"JPEGImages/{k:06d}.jpg").touch()
        medians = race({"ElementTree alone": partial(parse_all, Path(folder, "Annotations")),
                        "read, checked": partial(read_all, Path(folder))}, settings.turns,
                       lambda one, other: one == other, rehearse=False)
    return rows_of(f"reading {settings.files:,} VOC files", medians)


def parse_all(folder):
    """Parse files with ElementTree, one after the other; return the number of their objects."""
    return sum(len(ElementTree.parse(path).findall("object")) for path in sorted(folder.iterdir()))


def read_all(root):
    """Read a folder as voc_annotation.py does; return the number of its objects."""
    annotations, problems = read_voc(root)
    if problems:
        raise UserError(f"{len(problems)} files have problems; fix the annotations first.")
    return sum(len(annotation.objects) for annotation in annotations)
