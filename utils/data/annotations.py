"""Records, class lists, and the list files that pass records from script to script."""

import difflib
import errno
import json
import os
import re
import unicodedata
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.checkpoint import UNSEEN
from utils.cli import UserError, read_text, resolve, shorten
from utils.image import IMAGE_SUFFIXES

# How the line of class names begins that a list has at its top.
HEADER = "# classes:"
# One object at the end of a list line: x1,y1,x2,y2,class and 1 for difficult ones.
NUMBER = r"-?\d{1,9}(?:\.\d+)?"
# What a class list of another form has: YAML, pbtxt, JSON.
OTHER_FORM = re.compile(r"^(?:names\s*:|item\s*\{|[\[{]$)|\A- .*(?:\n- .*)*\Z", re.MULTILINE)
OBJECT = re.compile(rf"{NUMBER},{NUMBER},{NUMBER},{NUMBER},\d{{1,9}}(?:,[01])?")


class Record(NamedTuple):
    """An image and its objects, as list files hold them."""

    path: Path  # absolute
    boxes_px: np.ndarray  # (G, 4) float32 xyxy edges in pixels of the image
    labels: np.ndarray  # (G,) int64 index into class_names
    difficult: np.ndarray  # (G,) bool


def plain_name(text: str) -> str:
    """Return a class name as names are compared: no spaces around, letters composed (NFC)."""
    return text.strip() if text.isascii() else unicodedata.normalize("NFC", text).strip()


def read_class_names(path) -> tuple[str, ...]:
    """Read a class list, one name a line; letter case and inner spaces are kept.

    Accents are composed (NFC); blank lines and comments, after #, are skipped. Raises UserError
    for a file that is missing or has no names, a name twice, or more than a bare name in a line.
    """
    path = resolve(path)
    text = read_text(path, remedy="classes_path must name a text file with one class a line.")
    names = [plain_name(line) for line in text.split("\n")]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise UserError(f"{shorten(path)}: no class names; write one a line.")
    odd = next((name for name in names if UNSEEN.search(name)), names[0])
    form = ("a tab or a character that cannot be seen" if UNSEEN.search(odd)
            else "YAML, JSON or pbtxt" if OTHER_FORM.search("\n".join(names))
            else "several names in one line" if len(names) == 1 and "," in odd.strip(" ,")
            else "the lines are numbered" if _numbered(names) else "")
    if form:
        raise UserError(f"{shorten(path)}: {form} ({odd!r:.60}); write one bare name a line.")
    if len(set(names)) < len(names):
        twice = min(name for name in names if names.count(name) > 1)
        raise UserError(f"{shorten(path)}: {twice!r} stands twice; remove one.")
    return tuple(names)


def _numbered(names):
    """Tell whether numbers that count up from 0 or 1 stand before names that differ."""
    found = [re.fullmatch(r"(\d+)(?:[:.,;)]?\s+|[:,;])(\S.*)", name) for name in names]
    numbers = [int(match[1]) for match in found if match]
    return (numbers in ([*range(len(names))], [*range(1, len(names) + 1)])
            and len({match[2] for match in found}) > 1)  # "1 euro" and "2 euro" are names


def nearest_name(name, class_names):
    """Return the class name most like `name`, letter case apart, or None."""
    by_lower = {candidate.lower(): candidate for candidate in class_names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def format_record(record):
    """Return the list line of a record: `path x1,y1,x2,y2,class[,1] ...`."""
    # To a thousandth of a pixel, without exponent or needless zeros.
    objects = [",".join([f"{value:.3f}".rstrip("0").rstrip(".") for value in box.tolist()]
                        + [str(label)] + ["1"] * bool(difficult))
               for box, label, difficult in zip(record.boxes_px, record.labels, record.difficult)]
    path = shorten(record.path)
    # A path that begins with a space would lose it.
    return " ".join([path if path == path.lstrip() else str(record.path), *objects])


def parse_line(line):
    """Return the Record of a list line, with an absolute path.

    Raises ValueError saying what is wrong with the line.
    """
    words = line.strip().split(" ")
    start = len(words)
    # From the right, so that the path may hold spaces.
    while start > 1 and (not words[start - 1] or OBJECT.fullmatch(words[start - 1])):
        start -= 1
    path = " ".join(words[:start]).rstrip()
    if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{path[-60:]!r} is neither an image nor x1,y1,x2,y2,class")
    # The last is 0 for objects that do not say whether they are difficult.
    rows = np.array([[*map(float, word.split(",")), 0][:6] for word in words[start:] if word])
    rows = rows.reshape(-1, 6)
    boxes = rows[:, :4].astype(np.float32)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    if empty.any():
        raise ValueError(f"a box without area: {boxes[empty][0]}")
    return Record(resolve(path), boxes, rows[:, 4].astype(np.int64), rows[:, 5].astype(bool))


def list_text(records: list[Record], class_names: tuple[str, ...]) -> str:
    """Return the text of a list file: a line that names the classes, and a line an image."""
    header = f"{HEADER} {json.dumps(list(class_names), ensure_ascii=False)}\n"
    return header + "".join(format_record(record) + "\n" for record in records)


def write_together(texts: dict[Path, str], retired: tuple[Path, ...] | list[Path] = ()) -> None:
    """Write {path: text}, all files or, where one cannot be written, none.

    Files in `retired` get `.old` behind their names. Raises UserError naming what cannot be
    written; all files are then as they were.
    """
    parts = {path: path.with_name(path.name + ".part") for path in texts}
    moves = [(path, path.with_name(path.name + ".old")) for path in retired]
    moves += [(part, path) for path, part in parts.items()]
    before = {}
    try:
        for path, part in parts.items():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            part.write_text(texts[path], encoding="utf-8", newline="\n")
        for source, target in moves:
            for path in (source, target):
                before.setdefault(path, path.read_bytes() if path.is_file() else None)
            os.replace(source, target)
    except BaseException as error:
        for path, data in before.items():
            path.unlink(missing_ok=True) if data is None else path.write_bytes(data)
        if not isinstance(error, OSError):
            raise
        raise UserError(f"{shorten(error.filename or next(iter(texts)))}: cannot be written "
                        f"({error.strerror}).") from None
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def read_list(path) -> tuple[list[Record], tuple[str, ...]]:
    """Read a list file and its class names.

    Raises UserError for missing, empty, or broken files, with the number of the line.
    """
    text = read_text(path, remedy="Run voc_annotation.py, which writes it.")
    class_names = _classes_of(path, text)
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith(HEADER):
            continue
        try:
            record = parse_line(line)
            if (record.labels >= len(class_names)).any():
                raise ValueError(f"class {record.labels.max()}, but there are "
                                 f"{len(class_names)} class names, counted from 0")
        except (ValueError, UserError) as error:
            raise UserError(f"{shorten(resolve(path))}, line {number}: {error}; "
                            "run voc_annotation.py again.") from None
        records.append(record)
    if not records:
        raise UserError(f"{shorten(resolve(path))}: no images in the list; check the split and "
                        "run voc_annotation.py again.")
    return records, class_names


def read_records(path, class_names, origin) -> list[Record]:
    """Return the Records of a list whose classes must be `class_names`, which `origin` has."""
    records, names = read_list(path)
    check_same_classes(class_names, origin, names, path)
    return records


def _classes_of(path, text):
    """Return the class names of a list: in the list itself, in older ones in a file beside it."""
    headers = [line.removeprefix(HEADER) for line in text.splitlines() if line.startswith(HEADER)]
    if not headers:
        path = resolve(path)
        beside = path.with_name((path.stem.rpartition("_")[0] or path.stem) + "_classes.txt")
        if beside.exists():
            return read_class_names(beside)
        raise UserError(f"{shorten(path)}: a list begins with a line of its class names, {HEADER} "
                        f'["cat"], or has {beside.name} beside it; run voc_annotation.py again.')
    try:
        names, *others = ([plain_name(name) for name in json.loads(header)] for header in headers)
        if not (names and len(set(names)) == len(names) and all(other == names for other in others)
                and headers[0].lstrip().startswith("[")):
            raise ValueError
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{shorten(resolve(path))}: a line {HEADER} must hold the class names, "
                        "each once and the same throughout; run voc_annotation.py again.") from None
    return tuple(names)


def check_same_classes(class_names, origin, list_names, list_path):
    """Raise UserError unless the names from `origin` are those of the list, in the same order."""
    pairs = zip_longest(map(plain_name, class_names), map(plain_name, list_names))
    for number, (ours, theirs) in enumerate(pairs, start=1):
        if ours != theirs:
            raise UserError(
                f"{origin} and {shorten(resolve(list_path))} have different classes: number "
                f"{number} is {ours or 'nothing'!r} in the first, {theirs or 'nothing'!r} in the "
                "second.\nRun voc_annotation.py with the same classes_path.")
