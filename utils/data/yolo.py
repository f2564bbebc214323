"""Annotations in YOLO's text files."""

import os
import re
from collections import Counter
from pathlib import Path

import yaml

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import Annotation, ImageIndex, Problem, SourceObject, walk_files
from utils.image import image_size


def read_yolo(folder: Path) -> tuple[list[Annotation], list[Problem]]:
    """Read YOLO text files: a line per object, `class cx cy width height` as fractions.

    They lie beside the images, or in `labels` where those lie in `images`. An image without one is
    background, which a Problem reports; a folder of images without any is not used.
    """
    names, index = yolo_names(folder), ImageIndex(folder)
    texts = {relative.lower(): path for relative, path in walk_files(folder, (".txt",)).items()}
    labels = {}  # image -> its text file, in lower case; both relative
    for image in index.paths:
        beside = os.path.splitext(image.lower())[0] + ".txt"
        apart = re.sub(r"(^|/)images/", r"\1labels/", beside)
        labels[image] = apart if apart in texts else beside
    used = {os.path.dirname(image) for image, text in labels.items() if text in texts}
    if not used:
        raise UserError(f"{shorten(folder)}: no image with a text file beside it or in labels/.")
    stems = Counter(os.path.splitext(image)[0] for image in labels)
    items, problems = [], []
    for image, path in index.paths.items():
        stem, text = os.path.splitext(image)[0], texts.get(labels[image])
        is_used = os.path.dirname(image) in used
        missing = Problem("no label file" if is_used else "no annotation", shorten(path),
                          "write an empty text file if it has no objects")
        objects, faults = _read_labels(text, path, names) if text else ([], [missing])
        problems += faults
        if is_used:
            key = stem if stems[stem] == 1 else image
            items.append(Annotation(key, shorten(text or path), path, objects, None))
    problems += [Problem("image missing", shorten(texts[text]), "labels without image")
                 for text in sorted(set(texts) - set(labels.values()))
                 if "labels/" in text and not text.endswith("classes.txt")]
    return items, problems


def _read_labels(file, image, names):
    """Return (objects, problems) of a text file; the objects are None where it is unreadable."""
    try:
        lines = read_text(file, remedy="").splitlines()
        width, height = image_size(image)
    except UserError as error:
        return None, [Problem("unreadable annotation", shorten(file), str(error))]
    objects, problems = [], []
    for number, words in enumerate(map(str.split, lines), start=1):
        try:
            label, cx, cy, w, h = map(float, words[:5])
            if len(words) > 6:  # a sixth number is a confidence, more are a polygon
                raise ValueError
            box = ((cx - w / 2) * width, (cy - h / 2) * height,
                   (cx + w / 2) * width, (cy + h / 2) * height)
            objects.append(SourceObject(names[label], box, False, f"line {number}"))
        except (ValueError, KeyError):
            if words:
                what = f"not a known class and four fractions: {' '.join(words)[:60]!r}"
                problems.append(Problem("bad object", f"{shorten(file)}, line {number}", what))
    return objects, problems


def yolo_names(folder: Path) -> dict[int, str]:
    """Return {number: class name}; UserError where no file has them or two files disagree."""
    for parents in ([folder, folder / "labels"], [folder.parent]):
        files = [file for parent in parents for file in sorted(parent.glob("*"))]
        named = {shorten(file): names for file in files if (names := _names_in(file))}
        for names in named.values():
            if any(names != others for others in named.values()):
                raise UserError(f"{' and '.join(named)} disagree about the classes; correct one.")
            return names
    raise UserError(f"{shorten(folder)}: no class names; put a data.yaml or classes.txt there.")


def _names_in(file):
    """Return {number: class name} of a file that has some, else {}."""
    names = {}
    if file.suffix in (".yaml", ".yml"):
        names = load_yaml(file).get("names") or {}
    elif file.name in ("classes.txt", "_darknet.labels") or file.suffix == ".names":
        names = read_text(file, remedy="").splitlines()
    names = names if isinstance(names, dict) else dict(enumerate(names))
    return {int(number): plain_name(str(name)) for number, name in names.items() if str(name)}


def load_yaml(file: Path) -> dict:
    """Return the values of a YAML file, {} where it is no mapping; UserError for broken YAML."""
    try:
        values = yaml.safe_load(read_text(file, remedy=""))
    except yaml.YAMLError as error:
        raise UserError(f"{shorten(file)}: {' '.join(str(error).split())}.") from None
    return values if isinstance(values, dict) else {}
