"""Seconds to read VOC annotations, against parsing the same files with ElementTree alone.

    python -m benchmarks.annotations --VOCdevkit_path VOCdevkit
"""

import shutil
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from utils.cli import UserError, resolve, run
from utils.data.voc import read_voc


@dataclass(frozen=True)
class AnnotationBenchmark:
    """What is timed."""

    # The XML files of its VOC2007 are copied until there are enough.
    VOCdevkit_path: str = "VOCdevkit"
    # Files to read.
    files: int = 20000
    # Turns of each; the best counts, since other programs can only slow a turn down.
    turns: int = 3


def main(settings):
    """Copy, see that both find the same objects, then time both in turns."""
    originals = sorted((resolve(settings.VOCdevkit_path) / "VOC2007/Annotations").glob("*.xml"))
    if not originals:
        raise UserError("no XML files in VOC2007/Annotations; set VOCdevkit_path.")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy_files(originals, root, settings.files)
        paths = sorted((root / "Annotations").iterdir())
        objects = sum(len(ElementTree.parse(path).findall("object")) for path in paths)
        found, problems = read_voc(root)
        if problems or sum(len(annotation.objects) for annotation in found) != objects:
            raise UserError("the two do not find the same objects; mend the annotations first.")
        del found
        best = {read_voc: float("inf"), parse_all: float("inf")}
        for _ in range(settings.turns):
            for task, argument in ((read_voc, root), (parse_all, paths)):
                start = time.perf_counter()
                task(argument)
                best[task] = min(best[task], time.perf_counter() - start)
    for task, seconds in best.items():
        print(f"{task.__name__:<10} {seconds:6.2f} s for {settings.files} files, {objects} objects")
    print(f"ratio      {best[read_voc] / best[parse_all]:6.2f}")


def copy_files(originals, root, count):
    """Fill Annotations and JPEGImages of a folder; the images are empty, they are not read."""
    (root / "Annotations").mkdir()
    (root / "JPEGImages").mkdir()
    for k in range(count):
        shutil.copyfile(originals[k % len(originals)], root / "Annotations" / f"{k:06d}.xml")
        (root / "JPEGImages" / f"{k:06d}.jpg").touch()


def parse_all(paths):
    """Parse files with ElementTree, one after the other, and let each tree go."""
    for path in paths:
        ElementTree.parse(path)


if __name__ == "__main__":
    run(main, AnnotationBenchmark)
