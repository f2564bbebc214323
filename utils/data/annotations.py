"""Records, class lists, and the list files that pass records from script to script."""

import difflib
import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.cli import UserError, read_text, resolve, shorten
from utils.image import IMAGE_SUFFIXES

HEADER = "# classes:"  # begins the first line of a list; the class names follow as JSON
# An object in a list line: x1,y1,x2,y2,class and a 1 for difficult objects.
NUMBER = r"-?\d{1,9}(?:\.\d+)?"
OBJECT = re.compile(rf"{NUMBER},{NUMBER},{NUMBER},{NUMBER},\d{{1,9}}(?:,[01])?")


class Record(NamedTuple):
    """An image and its objects, as list files hold them."""

    path: Path  # absolute
    boxes_px: np.ndarray  # (G, 4) float32 xyxy edges in pixels of the image
    labels: np.ndarray  # (G,) int64 index into class_names
    difficult: np.ndarray  # (G,) bool


def plain_name(text: str) -> str:
    """Return a class name in the form in which names are compared: stripped, accents composed."""
    return unicodedata.normalize("NFC", text).strip()


def read_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """Read a class list, one name per line; blank lines and # comments are skipped.

    Raises UserError for a file that is missing, has no names or has a name twice.
    """
    text = read_text(path, remedy="classes_path must name a text file with one class per line.")
    names = [plain_name(line) for line in text.split("\n")]
    names = [name for name in names if name and not name.startswith("#")]
    duplicates = [name for name in names if names.count(name) > 1]
    if not names or duplicates:
        fault = f"{duplicates[0]!r} is duplicated" if names else "no class names"
        raise UserError(f"{shorten(resolve(path))}: {fault}; write each on a line of its own.")
    return tuple(names)


def nearest_name(name: str, class_names: Sequence[str]) -> str | None:
    """Return the class name most like `name`, ignoring letter case, or None if none is alike."""
    by_lower = {candidate.lower(): candidate for candidate in class_names}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[matches[0]] if matches else None


def format_record(record: Record) -> str:
    """Return the list line of a record: `path x1,y1,x2,y2,class[,1] ...`, up to 3 decimals."""
    words = [shorten(record.path)]
    for box, label, difficult in zip(record.boxes_px, record.labels, record.difficult):
        edges = [f"{edge:.3f}".rstrip("0").rstrip(".") for edge in box.tolist()]
        words.append(",".join([*edges, str(label)]) + (",1" if difficult else ""))
    return " ".join(words)


def parse_line(line: str) -> Record:
    """Return the Record of a list line. Raises ValueError naming what is wrong with the line."""
    words = line.strip().split(" ")
    start = len(words)
    # Objects are split off from the right, because paths may contain spaces.
    while start > 1 and (not words[start - 1] or OBJECT.fullmatch(words[start - 1])):
        start -= 1
    path = " ".join(words[:start]).rstrip()
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{path[-60:]!r} is neither an image nor x1,y1,x2,y2,class")
    # Objects without a difficult flag get a 0.
    rows = np.array([[*map(float, word.split(",")), 0][:6] for word in words[start:] if word])
    rows = rows.reshape(-1, 6)  # (G, 6)
    boxes = rows[:, :4].astype(np.float32)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    if empty.any():
        raise ValueError(f"a box without area: {boxes[empty][0]}")
    return Record(resolve(path), boxes, rows[:, 4].astype(np.int64), rows[:, 5].astype(bool))


def list_text(records: Sequence[Record], class_names: Sequence[str]) -> str:
    """Return the text of a list file: a header with the class names, then one line per image."""
    lines = [f"{HEADER} {json.dumps(list(class_names), ensure_ascii=False)}",
             *map(format_record, records)]
    return "\n".join(lines) + "\n"


def read_list(path: str | os.PathLike) -> tuple[list[Record], tuple[str, ...]]:
    """Read a list file; return its records and class names.

    Raises UserError for a missing, empty or broken file, naming the line.
    """
    path = resolve(path)
    header, *lines = read_text(path, remedy="Run voc_annotation.py, which writes it.").split("\n")
    records, number = [], 1
    try:
        class_names = tuple(map(plain_name, json.loads(header.removeprefix(HEADER))))
        if not (header.startswith(HEADER) and len(set(class_names)) == len(class_names) > 0):
            raise ValueError
    except (ValueError, TypeError):
        raise UserError(f'{shorten(path)}: the first line must be {HEADER} ["cat", "dog"], the '
                        "class names; run voc_annotation.py again.") from None
    try:
        for number, line in enumerate(lines, start=2):
            if line.strip() and line != header:  # of a second list that was appended
                records.append(parse_line(line))
                if (records[-1].labels >= len(class_names)).any():
                    raise ValueError(f"class {records[-1].labels.max()}, but there are "
                                     f"{len(class_names)} class names, counted from 0")
    except (ValueError, UserError) as error:
        raise UserError(f"{shorten(path)}, line {number}: {error}; run voc_annotation.py again."
                        ) from None
    if not records:
        raise UserError(f"{shorten(path)}: no images in the list; run voc_annotation.py again.")
    return records, class_names


def read_records(path: str | os.PathLike, class_names: Sequence[str], origin: str) -> list[Record]:
    """Return the records of a list whose classes must be `class_names`, which `origin` has."""
    records, names = read_list(path)
    check_same_classes(class_names, origin, names, path)
    return records


def check_same_classes(class_names: Sequence[str], origin: str, list_names: Sequence[str],
                       list_path: str | os.PathLike) -> None:
    """Raise UserError unless the names from `origin` are those of the list, in the same order."""
    pairs = zip_longest(map(plain_name, class_names), map(plain_name, list_names))
    for number, (expected, actual) in enumerate(pairs, start=1):
        if expected != actual:
            raise UserError(
                f"{origin} and {shorten(resolve(list_path))} have different classes: number "
                f"{number} is {expected or 'nothing'!r} in the first, {actual or 'nothing'!r} in "
                "the second.\nRun voc_annotation.py with the same classes_path.")


def write_together(texts: Mapping[Path, str], retired: Sequence[Path] = ()) -> None:
    """Write {path: text}, renaming into place once all are written; `retired` files become .old."""
    try:
        for path, text in texts.items():
            Path(f"{path}.part").write_text(text, encoding="utf-8", newline="\n")
        for path in retired:
            os.replace(path, f"{path}.old")
        for path in texts:
            os.replace(f"{path}.part", path)
    except (OSError, UnicodeEncodeError) as error:  # a file name may hold bytes of no encoding
        raise UserError(f"{path}: cannot be written ({error}).") from None
