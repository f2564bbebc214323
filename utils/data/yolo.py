"""Annotations in YOLO's text files."""

import os
import re
from collections import Counter
from pathlib import Path

import yaml

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, ImageIndex, Problem, ProblemKind, SourceObject,
                                walk_files)
from utils.image import image_size

NAME_FILES = ("classes.txt", "_darknet.labels")


def read_yolo(folder: Path) -> tuple[list[Annotation], list[Problem]]:
    """Read YOLO text files: a line per object, `class cx cy width height` as fractions.

    A text file has the name of its image and lies beside it, or in `labels` where that lies in
    `images`. An image without one is background, which a Problem reports; a folder of images
    without any is not used. Raises UserError without images, labels or class names.
    """
    names, index = yolo_names(folder), ImageIndex(folder)
    texts = {relative.lower(): path for relative, path in walk_files(folder, (".txt",)).items()}
    labels = {image: next((text for text in _label_paths(image) if text in texts), "")
              for image in index.paths}
    if not any(labels.values()):
        raise UserError(f"{shorten(folder)}: no image with a text file of labels; it lies beside "
                        "the image, or in labels/ where the image is in images/.")
    unlabelled = Counter(os.path.dirname(image) for image, text in labels.items() if not text)
    used = {os.path.dirname(image) for image, text in labels.items() if text}
    stems = Counter(os.path.splitext(image)[0] for image in labels)
    items, problems = [], []
    for image, path in index.paths.items():
        if os.path.dirname(image) in used:
            stem, text = os.path.splitext(image)[0], texts.get(labels[image])
            objects, faults = _read_labels(text, path, names) if text else ([], [])
            items.append(Annotation(stem if stems[stem] == 1 else image, shorten(text or path),
                                    path, objects, None))
            problems += faults
    for parent, count in sorted(unlabelled.items()):
        kind = ProblemKind.NO_LABEL_FILE if parent in used else ProblemKind.NO_ANNOTATION
        problems.append(Problem(kind, shorten(folder / parent), f"{count} images without a text "
                                "file of labels; write empty ones for images without objects"))
    problems += [Problem(ProblemKind.IMAGE_MISSING, shorten(texts[text]), "labels without image")
                 for text in sorted(set(texts) - set(labels.values()))
                 if "labels/" in text and not text.endswith(NAME_FILES)]
    return items, problems


def _label_paths(image):
    """Return where the text file of an image may lie, in lower case: in labels, or beside it."""
    beside = os.path.splitext(image.lower())[0] + ".txt"
    return re.sub(r"(^|/)images/", r"\1labels/", beside), beside


def _read_labels(file, image, names):
    """Return (objects, problems) of a text file; the objects are None where it is unreadable."""
    try:
        lines = read_text(file, remedy="").splitlines()
    except UserError as error:
        return None, [Problem(ProblemKind.UNREADABLE_ANNOTATION, shorten(file), str(error))]
    try:
        width, height = image_size(image)
    except UserError:
        return [], []  # the doctor reports the image
    objects, problems = [], []
    for number, words in enumerate(map(str.split, lines), start=1):
        try:
            label, cx, cy, w, h = map(float, words[:5])
            name = names[label]
            if len(words) > 6:  # a sixth number is a confidence, more are a polygon
                raise ValueError
        except (ValueError, KeyError):
            if words:
                problems.append(Problem(
                    ProblemKind.BAD_OBJECT, f"{shorten(file)}, line {number}",
                    f"{' '.join(words)[:60]!r} is not a known class and four fractions"))
            continue
        box = ((cx - w / 2) * width, (cy - h / 2) * height,
               (cx + w / 2) * width, (cy + h / 2) * height)
        objects.append(SourceObject(name, box, False, f"line {number}"))
    return objects, problems


def yolo_names(folder: Path) -> dict[int, str]:
    """Return {number: class name} of a YOLO folder.

    They come from a .yaml file, classes.txt or *.names in the folder or its `labels`, else in the
    folder above. Raises UserError where no file has them or two files disagree.
    """
    for parents in ([folder, folder / "labels"], [folder.parent]):
        files = [file for parent in parents for file in sorted(parent.glob("*"))]
        named = [(file, names) for file in files if (names := _names_in(file))]
        for file, names in named:
            if names != named[0][1]:
                raise UserError(f"{shorten(named[0][0])} and {shorten(file)} disagree about the "
                                f"classes: {named[0][1]!s:.100} and {names!s:.100}; correct one.")
        if named:
            return named[0][1]
    raise UserError(f"{shorten(folder)}: no class names; put a data.yaml or classes.txt there.")


def _names_in(file):
    """Return {number: class name} of a file that has some, else {}."""
    if file.suffix in (".yaml", ".yml"):
        names = load_yaml(file).get("names") or {}
        names = dict(enumerate(names)) if isinstance(names, list) else names
        try:
            return {int(number): plain_name(name) for number, name in names.items()}
        except (AttributeError, TypeError, ValueError):
            raise UserError(f"{shorten(file)}: names must be a list, or a mapping from numbers, of "
                            "texts; quote numbers and words such as 'yes'.") from None
    if file.name in NAME_FILES or file.suffix == ".names":
        lines = read_text(file, remedy="").splitlines()
        return {number: plain_name(line) for number, line in enumerate(lines) if line.strip()}
    return {}


def load_yaml(file: Path) -> dict:
    """Return the values of a YAML file, {} where it is no mapping; UserError for broken YAML."""
    try:
        values = yaml.safe_load(read_text(file, remedy=""))
    except yaml.YAMLError as error:
        raise UserError(f"{shorten(file)}: not readable YAML ({' '.join(str(error).split()):.200})."
                        ) from None
    return values if isinstance(values, dict) else {}
