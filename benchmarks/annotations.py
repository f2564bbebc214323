"""Seconds to read VOC annotations, against parsing the same files with ElementTree alone.

    python -m benchmarks.annotations --VOCdevkit_path VOCdevkit
"""

import shutil
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from utils.cli import resolve, run
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
    """Copy, then time both in turns."""
    originals = sorted((resolve(settings.VOCdevkit_path) / "VOC2007/Annotations").glob("*.xml"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "Annotations").mkdir()
        (root / "JPEGImages").mkdir()
        for k in range(settings.files):
            shutil.copyfile(originals[k % len(originals)], root / "Annotations" / f"{k:06d}.xml")
            (root / "JPEGImages" / f"{k:06d}.jpg").touch()
        tasks = {"read_voc": lambda: read_voc(root),
                 "ElementTree": lambda: [ElementTree.parse(path) for path in
                                         (root / "Annotations").iterdir()]}
        best = dict.fromkeys(tasks, float("inf"))
        for _ in range(settings.turns):
            for name, task in tasks.items():
                start = time.perf_counter()
                task()
                best[name] = min(best[name], time.perf_counter() - start)
    for name, seconds in best.items():
        print(f"{name:<12} {seconds:6.2f} s for {settings.files} files")
    print(f"ratio        {best['read_voc'] / best['ElementTree']:6.2f}")


if __name__ == "__main__":
    run(main, AnnotationBenchmark)
