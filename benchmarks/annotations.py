"""Seconds to read VOC annotations, against parsing the same files with ElementTree alone.

    python -m benchmarks.annotations --VOCdevkit_path VOCdevkit
"""

import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.race import race
from benchmarks.table import report, rows_of
from utils.cli import UserError, resolve, run
from utils.data.voc import read_voc


@dataclass(frozen=True)
class AnnotationBenchmark:
    """What is timed."""

    # The XML files of its VOC2007 are copied until there are enough.
    VOCdevkit_path: str = "VOCdevkit"
    # Files to read.
    files: int = 20000
    turns: int = 3
    # File for the figures; "" for none.
    json_path: str = ""


def main(settings):
    """Copy, see that both find the same objects, then time both in turns."""
    originals = sorted((resolve(settings.VOCdevkit_path) / "VOC2007/Annotations").glob("*.xml"))
    if not originals:
        raise UserError("no XML files in VOC2007/Annotations; set VOCdevkit_path.")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy_files(originals, root, settings.files)
        figures = race({"ElementTree alone": partial(parse_all, root / "Annotations"),
                        "read, checked": partial(read_all, root)}, settings.turns,
                       lambda one, other: one == other, rehearse=False)
    report(rows_of(f"reading {settings.files:,} VOC files", figures), settings.json_path)


def copy_files(originals, root, count):
    """Fill Annotations and JPEGImages of a folder; the images are empty, they are not read."""
    (root / "Annotations").mkdir()
    (root / "JPEGImages").mkdir()
    for k in range(count):
        shutil.copyfile(originals[k % len(originals)], root / "Annotations" / f"{k:06d}.xml")
        (root / "JPEGImages" / f"{k:06d}.jpg").touch()


def parse_all(folder):
    """Parse files with ElementTree, one after the other, and count their objects."""
    return sum(len(ElementTree.parse(path).findall("object")) for path in sorted(folder.iterdir()))


def read_all(root):
    """Read a folder as voc_annotation.py does, and count its objects; UserError for bad files."""
    found, problems = read_voc(root)
    if problems:
        raise UserError(f"{len(problems)} files have problems; mend the annotations first.")
    return sum(len(annotation.objects) for annotation in found)


if __name__ == "__main__":
    run(main, AnnotationBenchmark)
