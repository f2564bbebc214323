"""Annotations in YOLO's text files."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from utils.cli import UserError, read_text, shorten, walk_files
from utils.data.annotations import plain_name
from utils.data.sources import Annotation, Problem, SourceObject, four_numbers

YAML = (".yaml", ".yml")
NO_NAME = "class without a name"


def read_yolo(path: Path, relative: str, names: Mapping[str, str], has_keypoints: bool
              ) -> tuple[list[Annotation], list[Problem]]:
    """Return the annotation of a text file, and a problem where it cannot be read.

    A line per object: `class cx cy width height` as fractions, or `class x1 y1 x2 y2 x3 y3 ..`.
    """
    item = Annotation(relative[:-len(".txt")], shorten(path), None, None, None)
    try:
        lines = read_text(path, remedy="").splitlines()
    except UserError as error:
        return [item], [Problem("unreadable annotation", item.origin, str(error))]
    objects = [_read_line(line.split(), names, has_keypoints, f"line {number}")
               for number, line in enumerate(lines, start=1) if line.strip()]
    return [item._replace(objects=objects)], []


def _read_line(words, names, has_keypoints, position):
    """Return the object of a line; a sixth number is a confidence, more are a polygon."""
    box = four_numbers(words[1:5])
    if len(words) > 6 and not has_keypoints:
        try:
            points = np.array(words[1:], np.float64).reshape(-1, 2)
            box = (*((points.min(0) + points.max(0)) / 2).tolist(), *np.ptp(points, 0).tolist())
        except ValueError:
            box = (math.nan,) * 4
    return SourceObject(names.get(words[0], NO_NAME), box, False, f"{position}, class {words[0]}")


def yolo_names(folder: Path) -> dict[str, str]:
    """Return {number, or name: class name}; UserError where no file has them or two disagree."""
    for files in ([*folder.glob("*"), *folder.glob("labels/*")], walk_files(folder).values(),
                  folder.parent.glob("*")):
        named = {shorten(file): names for file in sorted(files) if (names := _names_in(file))}
        for names in named.values():
            if any(names != others for others in named.values()):
                raise UserError(f"{' and '.join(named)} disagree about the classes; correct one.")
            # Some tools write the name of a class in the place of its number.
            return {name: name for name in names.values()} | names
    raise UserError(f"{shorten(folder)}: no class names; put a data.yaml or classes.txt there.")


def _names_in(file):
    """Return {number: class name} of a file that has some, else {}."""
    names = {}
    if file.suffix in YAML:
        names = load_yaml(file).get("names") or {}
    elif file.name in ("classes.txt", "_darknet.labels") or file.suffix == ".names":
        names = read_text(file, remedy="").splitlines()
    names = names if isinstance(names, dict) else dict(enumerate(names))
    return {str(number): plain_name(str(name)) for number, name in names.items() if str(name)}


def load_yaml(file: Path) -> dict:
    """Return the values of a YAML or .data file, {} where it has none; UserError for a fault."""
    text = read_text(file, remedy="")
    try:
        values = yaml.safe_load(text.replace("=", ": ") if file.suffix == ".data" else text)
    except yaml.YAMLError as error:
        raise UserError(f"{shorten(file)}: {' '.join(str(error).split())}.") from None
    return values if isinstance(values, dict) else {}
