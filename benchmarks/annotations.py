"""Seconds to read VOC annotations, against parsing the same files with ElementTree alone."""

import gc
import operator
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks.prepare import BenchSettings
from benchmarks.timing import Row, race, rows_of
from utils.data.layouts import read_source


def measure(settings: BenchSettings) -> list[Row]:
    """Copy files until there are enough, see that both count the same objects, time both."""
    originals = sorted(Path(settings.data, "VOCdevkit/VOC2007/Annotations").glob("*.xml"))
    gc.disable()  # as the script does
    with tempfile.TemporaryDirectory() as folder:
        for name in ("Annotations", "JPEGImages"):
            Path(folder, name).mkdir()
        for k in range(settings.files):  # the images are empty: they are not read
            shutil.copyfile(originals[k % len(originals)], f"{folder}/Annotations/{k:06d}.xml")
            Path(folder, f"JPEGImages/{k:06d}.jpg").touch()
        paths = sorted(Path(folder, "Annotations").iterdir())
        tasks = {
            "ElementTree alone": lambda: sum(len(ElementTree.parse(path).findall("object"))
                                             for path in paths),
            "read, checked": lambda: sum(len(annotation.objects)
                                         for annotation in read_source(Path(folder)).annotations)}
        medians = race(tasks, settings.turns, operator.eq, rehearse=False)
    return rows_of(f"reading {settings.files:,} VOC files", medians)
