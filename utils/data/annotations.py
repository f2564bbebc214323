"""Records, class lists, and the list files that pass records from script to script."""

import difflib
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.cli import UserError, read_text, resolve, shorten
from utils.image import IMAGE_SUFFIXES

# One object at the end of a list line: x1,y1,x2,y2,class and 1 for difficult ones.
NUMBER = r"-?\d{1,9}(?:\.\d+)?"
OBJECT = re.compile(rf"{NUMBER},{NUMBER},{NUMBER},{NUMBER},\d{{1,9}}(?:,[01])?")


class Record(NamedTuple):
    """An image and its objects, as list files hold them."""

    path: Path  # absolute
    boxes_px: np.ndarray  # (G, 4) float32 xyxy edges in pixels of the image
    labels: np.ndarray  # (G,) int64 index into class_names
    difficult: np.ndarray  # (G,) bool


def read_class_names(path):
    """Read a class list, one name a line; letter case and inner spaces are kept.

    Returns:
        tuple of names; blank lines are skipped.

    Raises:
        UserError: no such file, no names, or a name twice.
    """
    names = [line.strip() for line in read_text(
        path, remedy="classes_path must name a text file with one class a line.").splitlines()]
    names = [name for name in names if name]
    if not names:
        raise UserError(f"{shorten(resolve(path))}: no class names; write one a line.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{shorten(resolve(path))}: {twice[0]!r} stands twice; remove one.")
    return tuple(names)


def nearest_name(name, class_names):
    """Return the class name most like `name`, letter case apart, or None."""
    by_lower = {candidate.lower(): candidate for candidate in class_names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def format_record(record):
    """Return the list line of a record: `path x1,y1,x2,y2,class[,1] ...`."""
    objects = [",".join(_number(value) for value in box) + f",{label}" + (",1" if difficult else "")
               for box, label, difficult in zip(record.boxes_px, record.labels, record.difficult)]
    return " ".join([shorten(record.path), *objects])


def _number(value):
    """Return a coordinate without exponent or needless zeros, to a thousandth of a pixel."""
    return f"{float(value):.3f}".rstrip("0").rstrip(".")


def parse_line(line):
    """Read a list line from the right, so that the path may hold spaces.

    Returns:
        Record with an absolute path.

    Raises:
        ValueError: what is wrong with the line.
    """
    path, objects = line.strip(), []
    while True:
        head, _, tail = path.rpartition(" ")
        if not head or not OBJECT.fullmatch(tail):
            break
        objects.insert(0, [float(number) for number in tail.split(",")])
        path = head.rstrip()
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{path[-60:]!r} is neither an image nor x1,y1,x2,y2,class")
    boxes = np.array([values[:4] for values in objects], dtype=np.float32).reshape(-1, 4)
    if (boxes[:, 2:] <= boxes[:, :2]).any():
        raise ValueError(f"a box without area: {boxes[(boxes[:, 2:] <= boxes[:, :2]).any(1)][0]}")
    return Record(resolve(path), boxes, np.array([values[4] for values in objects], dtype=np.int64),
                  np.array([len(values) == 6 and values[5] == 1 for values in objects], dtype=bool))


def classes_file(list_path):
    """Return the path of the class names beside a list: 2007_train.txt -> 2007_classes.txt."""
    path = resolve(list_path)
    return path.with_name(path.stem.rpartition("_")[0] + "_classes.txt")


def write_list(path, records, class_names):
    """Write a list file and the class names that its numbers stand for.

    Raises UserError where they cannot be written.
    """
    text = "".join(format_record(record) + "\n" for record in records)
    try:
        resolve(path).write_text(text, encoding="utf-8")
        classes_file(path).write_text("\n".join(class_names) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{shorten(error.filename)}: cannot be written "
                        f"({error.strerror}).") from None


def read_list(path):
    """Read a list file and its class names.

    Returns:
        (list of Record, tuple of class names).

    Raises:
        UserError: missing, empty, or broken files, with the number of the line.
    """
    text = read_text(path, remedy="Run voc_annotation.py, which writes it.")
    class_names = read_class_names(classes_file(path))
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = parse_line(line)
        except (ValueError, UserError) as error:
            raise UserError(f"{shorten(resolve(path))}, line {number}: {error}; "
                            "run voc_annotation.py again.") from None
        if (record.labels >= len(class_names)).any():
            raise UserError(f"{shorten(resolve(path))}, line {number}: class "
                            f"{record.labels.max()}, but {classes_file(path).name} has "
                            f"{len(class_names)} names; run voc_annotation.py again.")
        records.append(record)
    if not records:
        raise UserError(f"{shorten(resolve(path))}: no images in the list; check the split and "
                        "run voc_annotation.py again.")
    return records, class_names


def check_same_classes(class_names, origin, list_names, list_path):
    """Raise UserError unless the names from `origin` are those of the list, in the same order."""
    if tuple(class_names) == tuple(list_names):
        return
    place = next((k for k, (a, b) in enumerate(zip(class_names, list_names)) if a != b),
                 min(len(class_names), len(list_names)))
    ours, theirs = ([*names, *["nothing"] * 2][place] if place < len(names) else "nothing"
                    for names in (class_names, list_names))
    raise UserError(f"{origin} and {shorten(resolve(list_path))} have different classes: number "
                    f"{place + 1} is {ours!r} in the first, {theirs!r} in the second.\n"
                    "Run voc_annotation.py with the same classes_path.")
