"""Records, class lists, and the list files that pass records from script to script."""

import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.cli import UserError, read_text, resolve, shorten, writing
from utils.image import IMAGE_SUFFIXES, image_size

HEADER = "# classes:"  # begins the first line of a list; the class names follow as JSON
# What class lists of other tools name beside the classes.
NO_CLASSES = {"background", "_background_", "__background__", "__ignore__",
              "class without a name"}
CVAT_COLOUR = re.compile(r":\d+,\d+,\d+:.*")  # in the labelmap.txt of its VOC export
# A list line: `path [WIDTHxHEIGHT] x1,y1,x2,y2,class[,difficult[,area]] ...`: a path, perhaps with
# spaces, the size of the image, and its objects: edges in pixels, 0 or 1, COCO's area in pixels.
NUMBER = r"-?\d{1,9}(?:\.\d+)?"
OBJECT = rf"{NUMBER}(?:,{NUMBER}){{3}},\d{{1,9}}(?:,[01](?:,{NUMBER})?)?"
LINE = re.compile(rf"(.*?)(?: +([1-9]\d{{,8}})x([1-9]\d{{,8}}))?((?: +{OBJECT})*)")


class Record(NamedTuple):
    """An image and its objects, as list files hold them."""

    path: Path  # absolute
    boxes_px: np.ndarray  # (G, 4) float64 xyxy edges in pixels of the image, may reach beyond it
    labels: np.ndarray  # (G,) int64 index into class_names
    difficult: np.ndarray  # (G,) bool
    areas: np.ndarray | None = None  # (G,) float64 pixels, as COCO has them; NaN where not known
    size: tuple[int, int] | None = None  # (width, height) of the image when it was listed


def plain_name(text: str) -> str:
    """Return a class name in the form in which names are compared: stripped, accents composed."""
    return unicodedata.normalize("NFC", text).strip()


def read_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """Read a class list: one name per line, no name twice; lines that begin with # are comments.

    Background is no class, and the colours in a labelmap.txt of CVAT are no part of a name.
    """
    text = read_text(path, remedy="classes_path must name a text file with one class per line.")
    names = [plain_name(CVAT_COLOUR.sub("", line)) for line in text.split("\n")]
    names = [name for name in names if name and name[0] != "#" and name.lower() not in NO_CLASSES]
    if not names or len({*names}) < len(names):
        fault = f"{max(names, key=names.count)!r} is duplicated" if names else "no class names"
        raise UserError(f"{path}: {fault}; write each on a line of its own.")
    return tuple(names)


def format_record(record: Record) -> str:
    """Return the list line of a record, as LINE says; edges have up to 6 decimals."""
    words = [shorten(record.path), *(["{}x{}".format(*record.size)] if record.size else [])]
    areas = np.full(len(record.labels), np.nan) if record.areas is None else record.areas
    for box, label, difficult, area in zip(record.boxes_px.tolist(), record.labels,
                                           record.difficult, areas):
        edges = [f"{edge:.6f}".rstrip("0").rstrip(".") for edge in box]
        flags = ["1"] if difficult else []
        if not np.isnan(area):
            flags = [str(int(difficult)), np.format_float_positional(area, trim="-")]
        words.append(",".join([*edges, str(label), *flags]))
    return " ".join(words)


def parse_line(line: str, num_classes: int) -> Record:
    """Return the Record of a list line. Raises ValueError saying what is wrong with the line."""
    path, width, height, objects = LINE.fullmatch(line.strip()).groups()
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{path[-60:]!r} is neither an image nor x1,y1,x2,y2,class")
    rows = [[*map(float, item.split(","))] for item in objects.split()]
    rows = np.array([row + [0, np.nan][len(row) - 5:] for row in rows]).reshape(-1, 7)
    boxes, labels = rows[:, :4], rows[:, 4].astype(np.int64)
    if (boxes[:, 2:] <= boxes[:, :2]).any():
        raise ValueError("a box without area")
    if (labels >= num_classes).any():
        raise ValueError(f"class {labels.max()}, but there are {num_classes} class names from 0 on")
    size = (int(width), int(height)) if width else None
    return Record(resolve(path), boxes, labels, rows[:, 5].astype(bool), rows[:, 6], size)


def list_text(records: Sequence[Record], class_names: Sequence[str]) -> str:
    """Return the text of a list file: a header with the class names, then one line per image."""
    header = f"{HEADER} {json.dumps(list(class_names), ensure_ascii=False)}"
    return "\n".join([header, *map(format_record, records)]) + "\n"


def read_list(path: str | os.PathLike) -> tuple[list[Record], tuple[str, ...]]:
    """Read a list file; return its records and class names. UserError names a broken line."""
    header, *lines = read_text(path, remedy="Run voc_annotation.py, which writes it; data "
                             "without a test split has 2007_val.txt alone.").split("\n")
    records, number = [], 1
    try:
        if not header.startswith(HEADER):
            raise ValueError(f'it must be {HEADER} ["cat", "dog"]')
        class_names = tuple(map(plain_name, json.loads(header.removeprefix(HEADER))))
        for number, line in enumerate(lines, start=2):
            if line.strip():
                records.append(parse_line(line, len(class_names)))
        if not records:
            raise ValueError("no images in the list")
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}, line {number}: {error}; run voc_annotation.py again.") from None
    return records, class_names


def read_records(path: str | os.PathLike, class_names: Sequence[str], origin: str) -> list[Record]:
    """Return the records of a list whose classes must be `class_names`, which `origin` has."""
    records, names = read_list(path)
    check_same_classes(class_names, origin, names, path)
    return records


def check_same_classes(class_names: Sequence[str], origin: str, list_names: Sequence[str],
                       list_path: str | os.PathLike) -> None:
    """Raise UserError unless the names from `origin` are those of the list, in the same order."""
    for number, names in enumerate(zip_longest(class_names, list_names, fillvalue="-"), start=1):
        if plain_name(names[0]) != plain_name(names[1]):
            raise UserError(f"{origin} and {list_path} have different classes: number {number} is "
                            f"{names[0]!r} in the first, {names[1]!r} in the second; run "
                            "voc_annotation.py with the same classes_path.")


def check_images(records: Sequence[Record], list_path: str | os.PathLike) -> None:
    """Raise UserError where an image of a list is gone, or has another size than it had then.

    Of long lists the sizes of some images are looked at; the loader looks at all.
    """
    step = len(records) // 2000 + 1
    for number, record in enumerate(records, start=2):
        if number % step and record.path.is_file():
            continue
        size = image_size(record.path)
        if record.size not in (None, size):
            raise UserError(f"{list_path}, line {number}: {shorten(record.path)} has another size "
                            f"now, {size[0]}x{size[1]}; run voc_annotation.py again.")


def write_together(texts: Mapping[Path, str], retired: Sequence[Path] = ()) -> None:
    """Write {path: text}, all files or none; the files `retired` get .old behind their names."""
    with ExitStack() as stack:  # renames the files into place once all are written
        for path, text in texts.items():
            part = stack.enter_context(writing(path))
            part.write_text(text, encoding="utf-8", newline="\n")
        for path in retired:
            os.replace(path, f"{path}.old")
