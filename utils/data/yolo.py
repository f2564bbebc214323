"""Annotations in YOLO's text files."""

import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (ROLE, Annotation, ImageIndex, Problem, SourceObject, four_numbers,
                                walk_files)

YAML = (".yaml", ".yml")


def read_yolo(folder: Path, images: ImageIndex
              ) -> tuple[list[Annotation], list[Problem], list[str]]:
    """Return the annotations of YOLO's text files, the problems, and the class names.

    A line per object: `class cx cy width height` as fractions, or `class x1 y1 x2 y2 x3 y3 ..`.
    """
    numbers_to_names = yolo_names(folder)
    # Some tools write the name in the place of the number.
    names = {name: name for name in numbers_to_names.values()}
    names |= {str(number): name for number, name in numbers_to_names.items()}
    has_keypoints = any("kpt_shape" in load_yaml(file) for file in folder.glob("*.y*ml"))
    texts = walk_files(folder, (".txt",))
    labels = pair_labels(texts, images.paths)
    if not labels:
        raise UserError(f"{shorten(folder)}: no image with a text file beside it or in labels/.")
    stems = Counter(os.path.splitext(image)[0] for image in images.paths)
    items, problems = [], []
    for image, text in labels.items():
        stem, objects = os.path.splitext(image)[0], None
        try:
            lines = read_text(text, remedy="").splitlines()
            objects = [_read_line(line.split(), names, has_keypoints, f"line {number}")
                       for number, line in enumerate(lines, start=1) if line.strip()]
        except UserError as error:
            problems.append(Problem("unreadable annotation", shorten(text), str(error)))
        items.append(Annotation(stem if stems[stem] == 1 else image, shorten(text),
                                images.paths[image], objects, None))
    unused = set(texts.values()) - set(labels.values())
    problems += [Problem("image missing", shorten(path), "labels without image")
                 for path in sorted(unused)
                 if path.parent.name.lower() == "labels" and path.name != "classes.txt"]
    return items, problems, [*numbers_to_names.values()]


def pair_labels(texts: Mapping[str, Path], images: Mapping[str, Path]) -> dict[str, Path]:
    """Return {image: its text file}: the one beside it, or in `labels` as it lies in `images`.

    `texts` and `images` are {relative path: path}.
    """
    beside = {os.path.splitext(text.lower())[0]: path for text, path in texts.items()}
    apart = {ROLE.sub("", stem): path for stem, path in beside.items()}
    stems = {image: os.path.splitext(image.lower())[0] for image in images}
    pairs = {image: beside.get(stem) or apart.get(ROLE.sub("", stem))
             for image, stem in stems.items()}
    return {image: path for image, path in pairs.items() if path}


def _read_line(words, names, has_keypoints, position):
    """Return the object of a line; a sixth number is a confidence, more are a polygon."""
    numbers = four_numbers(words[1:5])
    if len(words) > 6 and not has_keypoints:
        numbers = _polygon_box(words[1:])
    return SourceObject(names.get(words[0], f"class {words[0]}"), numbers, False, position)


def _polygon_box(words):
    """Return cx, cy, width, height of the box around points x1 y1 x2 y2 .., NaN for others."""
    try:
        points = np.array([word.replace(",", ".") for word in words], np.float64).reshape(-1, 2)
    except ValueError:
        return (math.nan,) * 4
    low, high = points.min(0), points.max(0)
    return (*((low + high) / 2).tolist(), *(high - low).tolist())


def yolo_names(folder: Path) -> dict[int, str]:
    """Return {number: class name}; UserError where no file has them or two files disagree."""
    below = walk_files(folder, (*YAML, ".names", ".labels", "classes.txt")).values()
    for files in ([*folder.glob("*"), *folder.glob("labels/*")], below, folder.parent.glob("*")):
        named = {shorten(file): names for file in sorted(files) if (names := _names_in(file))}
        for names in named.values():
            if any(names != others for others in named.values()):
                raise UserError(f"{' and '.join(named)} disagree about the classes; correct one.")
            return names
    raise UserError(f"{shorten(folder)}: no class names; put a data.yaml or classes.txt there.")


def _names_in(file):
    """Return {number: class name} of a file that has some, else {}."""
    names = {}
    if file.suffix in YAML:
        names = load_yaml(file).get("names") or {}
    elif file.name in ("classes.txt", "_darknet.labels") or file.suffix == ".names":
        names = read_text(file, remedy="").splitlines()
    names = names if isinstance(names, dict) else dict(enumerate(names))
    if not all(isinstance(name, (str, int, float)) for name in names.values()):
        raise UserError(f"{shorten(file)}: names must be a list of class names.")
    return {int(number): plain_name(str(name)) for number, name in names.items() if str(name)}


def load_yaml(file: Path) -> dict:
    """Return the values of a YAML file, {} where it is no mapping; UserError for broken YAML."""
    try:
        values = yaml.safe_load(read_text(file, remedy=""))
    except yaml.YAMLError as error:
        raise UserError(f"{shorten(file)}: {' '.join(str(error).split())}.") from None
    return values if isinstance(values, dict) else {}


def split_values(file: Path) -> dict[str, list[str]]:
    """Return {key: texts} of a data.yaml, or of darknet's .data file, with lines `key = text`."""
    if file.suffix in YAML:
        values = load_yaml(file)
        root = f"{values['path']}/" if isinstance(values.get("path"), str) else ""
    else:
        lines = [line.partition("=") for line in read_text(file, remedy="").splitlines()]
        values, root = {key.strip(): text.strip() for key, _, text in lines}, ""
    texts = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
    return {key: [root + text for text in members if isinstance(text, str) and text]
            for key, members in texts.items()}
