"""Annotations in YOLO's text files."""

import os
import re
from collections import Counter
from pathlib import Path

import yaml

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, ImageIndex, Problem, ProblemKind, SourceObject,
                                unreadable, walk_files)
from utils.image import image_size

IMAGES_FOLDER = re.compile(r"(^|/)images/", re.IGNORECASE)


def read_yolo(folder: Path) -> tuple[list[Annotation], list[Problem]]:
    """Read YOLO text files: a line per object, `class cx cy width height` as fractions.

    Images lie anywhere under the folder; the text file has the image's name and lies beside it, or
    in `labels` where the image lies in `images`. An image without one is background, which a
    Problem reports, but a folder of images without any is not used. For class names see yolo_names.
    Returns one Annotation per used image and the problems. Raises UserError without images, labels
    or class names.
    """
    names, index = yolo_names(folder), ImageIndex(folder)
    texts = {relative.lower(): path for relative, path in walk_files(folder, (".txt",)).items()}
    if not index.paths:
        raise UserError(f"{shorten(folder)}: no images in it; annotation_path must name the "
                        "folder of images and labels.")
    labels = {relative: next((path for path in _label_paths(relative) if path in texts), None)
              for relative in index.paths}
    totals = Counter(os.path.dirname(relative) for relative in labels)
    labelled = Counter(os.path.dirname(relative) for relative, text in labels.items() if text)
    if not labelled:
        raise UserError(f"{shorten(folder)}: no text file of labels for any image; it lies beside "
                        "the image, or in labels/ where the image is in images/.")
    stems = Counter(os.path.splitext(relative)[0] for relative in index.paths)
    annotations, problems = [], list(index.problems)
    for relative, image in index.paths.items():
        if os.path.dirname(relative) not in labelled:
            continue
        file, objects = texts.get(labels[relative]), []
        if file:
            objects, faults = _read_labels(file, image, names)
            problems += faults
        stem = os.path.splitext(relative)[0]
        annotations.append(Annotation(stem if stems[stem] == 1 else relative,
                                      shorten(file or image), image, objects, None))
    for part, total in sorted(totals.items()):
        if part not in labelled:
            problems.append(Problem(
                ProblemKind.NO_ANNOTATION, shorten(folder / part),
                "none of its images has a text file of labels; write empty ones for background"))
        elif labelled[part] < total:
            problems.append(Problem(
                ProblemKind.NO_LABEL_FILE, shorten(folder / part),
                f"{total - labelled[part]} of {total} images; write empty text files for those "
                "without objects, and move those not labelled yet elsewhere"))
    problems += [Problem(ProblemKind.IMAGE_MISSING, shorten(texts[text]),
                         "no image for this file of labels")
                 for text in sorted(set(texts) - set(labels.values()))
                 if "labels/" in text and not text.endswith("classes.txt")]
    return annotations, problems


def _label_paths(relative):
    """Return where the text file of an image may lie, in lower case: in labels, or beside it."""
    beside = os.path.splitext(relative.lower())[0] + ".txt"
    return IMAGES_FOLDER.sub(r"\1labels/", beside), beside


def _read_labels(file, image, names):
    """Return (objects, problems) of a text file; the objects are None where it is unreadable."""
    try:
        lines = read_text(file, remedy="").splitlines()
    except UserError as error:
        return None, [unreadable(error)]
    try:
        width, height = image_size(image)
    except UserError:
        return [], []  # the doctor reports the image
    objects, problems = [], []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            # A sixth number is a confidence; more are a polygon or key points.
            label, cx, cy, w, h, *_ = map(float, words)
            if len(words) > 6:
                raise ValueError
            name = names[label]
        except (ValueError, KeyError):
            problems.append(Problem(
                ProblemKind.BAD_OBJECT, f"{shorten(file)}, line {number}",
                f"{line.strip()[:60]!r} is not a known class and four fractions"))
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
        files = [file for parent in parents if parent.is_dir() for file in sorted(parent.iterdir())]
        by_file = {file: names for file in files if (names := _names_in(file))}
        for file, names in by_file.items():
            first, expected = next(iter(by_file.items()))
            if names != expected:
                raise UserError(f"{shorten(first)} and {shorten(file)} disagree about the classes: "
                                f"{expected!s:.100} in the first, {names!s:.100} in the second; "
                                "correct or remove one.")
        if by_file:
            return next(iter(by_file.values()))
    raise UserError(f"{shorten(folder)}: no class names; put a data.yaml or classes.txt there.")


def _names_in(file):
    """Return {number: class name} of a file that has some, else {}."""
    if file.suffix in (".yaml", ".yml"):
        names = load_yaml(file).get("names") or {}
        names = dict(enumerate(names)) if isinstance(names, list) else names
        if not (isinstance(names, dict) and all(type(name) in (str, int) for name in names.values())
                and all(str(number).isdecimal() for number in names)):
            raise UserError(f"{shorten(file)}: names must be a list of texts, or a mapping from "
                            f"numbers to texts, got {names!s:.60} (quote words such as 'yes').")
        return {int(number): plain_name(str(name)) for number, name in names.items()}
    if file.name in ("classes.txt", "_darknet.labels") or file.suffix == ".names":
        lines = read_text(file, remedy="").rstrip().splitlines()
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
