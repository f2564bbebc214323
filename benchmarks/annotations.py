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


def main(settings: AnnotationBenchmark) -> None:
    """Copy, see that both count the same objects, then time both in turns."""
    originals = sorted((resolve(settings.VOCdevkit_path) / "VOC2007/Annotations").glob("*.xml"))
    if not originals:
        raise UserError("no XML files in VOC2007/Annotations; set VOCdevkit_path.")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("Annotations", "JPEGImages"):
            Path(folder, name).mkdir()
        for k in range(settings.files):  # the images are empty: they are not read
            shutil.copyfile(originals[k % len(originals)], f"{folder}/Annotations/{k:06d}.xml")
            Path(folder, f"JPEGImages/{k:06d}.jpg").touch()
        medians = race({"ElementTree alone": partial(parse_all, Path(folder, "Annotations")),
                        "read, checked": partial(read_all, Path(folder))}, settings.turns,
                       lambda one, other: one == other, rehearse=False)
    report(rows_of(f"reading {settings.files:,} VOC files", medians), settings.json_path)


def parse_all(folder):
    """Parse files with ElementTree, one after the other; return the number of their objects."""
    return sum(len(ElementTree.parse(path).findall("object")) for path in sorted(folder.iterdir()))


def read_all(root):
    """Read a folder as voc_annotation.py does; return the number of its objects."""
    annotations, problems = read_voc(root)
    if problems:
        raise UserError(f"{len(problems)} files have problems; fix the annotations first.")
    return sum(len(annotation.objects) for annotation in annotations)


if __name__ == "__main__":
    run(main, AnnotationBenchmark)
