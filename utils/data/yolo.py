"""Annotations in YOLO's text files."""

import os
import re

from utils.cli import UserError, read_text, shorten
from utils.data.sources import Annotation, Problem, ProblemKind, SourceObject, unreadable, walk_files
from utils.image import IMAGE_SUFFIXES, image_size


def read_yolo(folder):
    """Read YOLO text files: a line an object, `class cx cy width height` as fractions.

    Images lie anywhere under the folder; the text file has the image's name and lies beside
    it, or in `labels` where the image lies in `images`. Class names come from data.yaml,
    classes.txt or obj.names, in the folder, its `labels`, or the one above.

    Returns and raises as read_voc.
    """
    names = yolo_names(folder)
    annotations, problems, used = [], [], set()
    for relative, image in walk_files(folder, IMAGE_SUFFIXES).items():
        place = os.path.splitext(relative)[0] + ".txt"
        beside = folder / place
        labels = folder / re.sub(r"(^|/)images/", r"\1labels/", place)
        file = labels if labels.is_file() else beside
        objects = []
        used.add(file)
        try:
            size = image_size(image)
        except UserError:
            size = None  # the doctor will say so
        if size and file.is_file():
            try:
                objects, faults = _yolo_objects(file, size, names)
            except UserError as error:
                problems.append(unreadable(error))
                continue
            problems += faults
        annotations.append(Annotation(os.path.splitext(relative)[0], shorten(file), image,
                                      objects, None))
    problems += [Problem(ProblemKind.IMAGE_MISSING, shorten(file), "no image for this file of labels")
                 for relative, file in walk_files(folder, (".txt",)).items()
                 if "labels/" in relative and file not in used and file.name != "classes.txt"]
    if not annotations:
        raise UserError(f"{shorten(folder)}: no images in it; annotation_path must name the "
                        "folder of images and labels.")
    return annotations, problems


def _yolo_objects(file, size, names):
    width, height = size
    objects, problems = [], []
    for number, line in enumerate(read_text(file, remedy="").splitlines(), start=1):
        if not line.split():
            continue
        try:
            # A sixth number is a confidence; more are a polygon or key points.
            label, cx, cy, w, h, *_ = (float(value) for value in line.split())
            if len(line.split()) > 6:
                raise ValueError
            if label < 0 or label != int(label):
                raise IndexError
            name = names[int(label)]
        except (ValueError, IndexError, OverflowError):
            problems.append(Problem(ProblemKind.BAD_OBJECT, f"{shorten(file)}, line {number}",
                                    f"{line.strip()[:60]!r} is not a known class and four "
                                    "fractions"))
            continue
        box = ((cx - w / 2) * width, (cy - h / 2) * height,
               (cx + w / 2) * width, (cy + h / 2) * height)
        objects.append(SourceObject(name, box, False, f"line {number}"))
    return objects, problems


def yolo_names(folder):
    """Return the class names of a YOLO folder in the order of their numbers.

    Raises UserError where no file has them.
    """
    for place in (folder, folder / "labels", folder.parent):
        for name in ("classes.txt", "obj.names", "_darknet.labels"):
            if (place / name).is_file():
                lines = read_text(place / name, remedy="").splitlines()
                return [line.strip() for line in lines if line.strip()]
        for name in ("data.yaml", "data.yml"):
            if (place / name).is_file():
                names = _yaml_names(read_text(place / name, remedy=""))
                if names:
                    return names
    raise UserError(f"{shorten(folder)}: no class names; put a data.yaml or classes.txt there.")


def _yaml_names(text):
    """Return `names` of a data.yaml: an inline list, a block list, or a mapping from numbers."""
    lines = [re.sub(r"(^|\s)#.*", "", line).rstrip() for line in text.splitlines()]
    start = next((k for k, line in enumerate(lines) if line.startswith("names:")), None)
    if start is None:
        return []
    body = [lines[start].removeprefix("names:")]
    for line in lines[start + 1:]:
        if line and not line.startswith((" ", "\t", "-", "]", "}")):
            break
        body.append(line)
    inline = "\n".join(body).strip()
    if inline.startswith(("[", "{")):
        items = re.findall(r"(?:\d+\s*:\s*)?(?:'[^']*'|\"[^\"]*\")"
                           r"|[^,\[\]{}\s'\"][^,\[\]{}\n]*", inline)
    else:
        items = [line.strip().removeprefix("-") for line in body]
    items = [item.strip() for item in items if item.strip()]
    numbered = [re.fullmatch(r"(\d+)\s*:\s*(.*)", item) for item in items]
    if items and all(numbered):
        items = [match[2] for match in sorted(numbered, key=lambda match: int(match[1]))]
    return [item.strip("'\"") for item in items]
