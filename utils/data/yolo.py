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

YAML_SUFFIXES = (".yaml", ".yml")
NAME_FILES = ("classes.txt", "_darknet.labels")
IMAGES_FOLDER = re.compile(r"(^|/)images/", re.IGNORECASE)


def read_yolo(folder: Path) -> tuple[list[Annotation], list[Problem]]:
    """Read YOLO text files: a line an object, `class cx cy width height` as fractions.

    Images lie anywhere under the folder; the text file has the image's name and lies beside
    it, or in `labels` where the image lies in `images`. An image without one is background, which
    a Problem says, but a folder of images without any is not used. For class names see yolo_names.

    Returns and raises as read_voc.
    """
    names, index, texts = yolo_names(folder), ImageIndex(folder), walk_files(folder, (".txt",))
    if not index.by_path:
        raise UserError(f"{shorten(folder)}: no images in it; annotation_path must name the "
                        "folder of images and labels.")
    lower = {relative.lower(): relative for relative in texts}
    choices = {relative: _choices(relative) for relative in index.by_path}
    # In whatever letter case, the same one first.
    labels = {relative: next((lower[path.lower()] if path not in texts else path for path in paths
                              if path.lower() in lower), None)
              for relative, paths in choices.items()}
    labelled = {os.path.dirname(relative) for relative, text in labels.items() if text}
    stems = Counter(os.path.splitext(relative)[0] for relative in index.by_path)
    if not labelled:
        raise UserError(f"{shorten(folder)}: no text file of labels for any image; it lies beside "
                        "the image, or in labels/ where the image is in images/.")
    annotations, problems, background = [], index.unread(), Counter()
    for relative, image in index.by_path.items():
        if os.path.dirname(relative) not in labelled:
            continue
        file, objects = texts.get(labels[relative]), []
        try:
            if file:
                objects, faults = _read_labels(file, image, names)
                problems += faults
            elif odd := [path for path in choices[relative] if os.path.lexists(folder / path)]:
                raise UserError(f"{shorten(folder / odd[0])}: no file that can be read; remove it.")
        except UserError as error:
            problems.append(unreadable(error))
            continue
        background[os.path.dirname(relative)] += not file
        stem = os.path.splitext(relative)[0]
        key = stem if stems[stem] == 1 else relative
        annotations.append(Annotation(key, shorten(file or image), image, objects, None))
    for place, count in sorted(Counter(map(os.path.dirname, index.by_path)).items()):
        if place not in labelled:
            problems.append(Problem(
                ProblemKind.NO_ANNOTATION, shorten(folder / place),
                "none of its images has a text file of labels; write empty ones for background"))
        elif background[place]:
            problems.append(Problem(
                ProblemKind.NO_LABEL_FILE, shorten(folder / place),
                f"{background[place]} of {count} images; write empty text files for those without "
                "objects, and move those not labelled yet elsewhere"))
    unused = set(texts) - set(labels.values())
    problems += [Problem(ProblemKind.IMAGE_MISSING, shorten(texts[relative]),
                         "no image for this file of labels") for relative in sorted(unused)
                 if "labels/" in relative.lower() and texts[relative].name != "classes.txt"]
    return annotations, problems


def _choices(relative):
    """Return where the text file of an image may lie: in labels, or beside it."""
    beside = os.path.splitext(relative)[0] + ".txt"
    return IMAGES_FOLDER.sub(r"\1labels/", beside), beside


def _read_labels(file, image, names):
    """Return (objects, problems) of the text file of an image."""
    try:
        width, height = image_size(image)
    except UserError:
        return [], []  # the doctor will say so
    objects, problems = [], []
    for number, line in enumerate(read_text(file, remedy="").splitlines(), start=1):
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
            problems.append(Problem(ProblemKind.BAD_OBJECT, f"{shorten(file)}, line {number}",
                                    f"{line.strip()[:60]!r} is not a known class and four "
                                    "fractions"))
            continue
        box = ((cx - w / 2) * width, (cy - h / 2) * height,
               (cx + w / 2) * width, (cy + h / 2) * height)
        objects.append(SourceObject(name, box, False, f"line {number}"))
    return objects, problems


def yolo_names(folder: Path) -> dict[int, str]:
    """Return {number: class name} of a YOLO folder.

    From data.yaml, classes.txt, any *.names, or the file that a *.data names; in the folder and
    its `labels`, else in the folder above.

    Raises UserError where no file has them, where one is broken, or where two disagree.
    """
    inside = [path for path in folder.iterdir() if path.is_dir() and path.name.lower() == "labels"]
    for places in ([folder, *inside], [folder.parent]):
        found = [(path, names) for place in places for path in sorted(place.iterdir())
                 if (names := _names_in(path))]
        for path, names in found:
            first, expected = found[0]
            if names != expected:
                shown = [", ".join(f"{number}: {name}" for number, name in sorted(each.items()))
                         for each in (expected, names)]
                raise UserError(f"{shorten(first)} and {shorten(path)} disagree about the classes: "
                                f"{shown[0]:.100} in the first, {shown[1]:.100} in the second; "
                                "remove or mend the wrong one.")
        if found:
            return found[0][1]
    raise UserError(f"{shorten(folder)}: no class names; put a data.yaml or classes.txt there.")


def _names_in(path):
    """Return {number: class name} of a file that has some, else {}."""
    suffix, places = path.suffix.lower(), []
    if suffix in YAML_SUFFIXES:
        return _yaml_names(path, load_yaml(path).get("names"))
    if suffix == ".data" and path.is_file():  # darknet's, with a line such as names = obj.names
        named = re.findall(r"(?m)^\s*names\s*=\s*(.+?)\s*$", read_text(path, remedy=""))
        places = [path.parent / place for name in named for place in (name, name.split("/")[-1])]
    elif path.name.lower() in NAME_FILES or suffix == ".names":
        places = [path]
    file = next((place for place in places if place.is_file()), None)
    # The number is that of the line, also behind a blank one.
    lines = read_text(file, remedy="").rstrip().splitlines() if file else []
    return {number: plain_name(line) for number, line in enumerate(lines) if line.strip()}


def load_yaml(path: Path) -> dict:
    """Return the values of a YAML file, {} where it is no mapping or no YAML file.

    Raises UserError naming a file that cannot be read.
    """
    if path.suffix.lower() not in YAML_SUFFIXES or not path.is_file():
        return {}
    try:
        values = yaml.safe_load(read_text(path, remedy=""))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"{shorten(path)}{where}: not readable YAML ({what}); mend it.") from None
    return values if isinstance(values, dict) else {}


def _yaml_names(path, names):
    """Return {number: class name} of the `names` of a data.yaml, a list or a mapping."""
    names = dict(enumerate(names)) if isinstance(names, list) else names or {}
    found = {}
    for number, name in names.items() if isinstance(names, dict) else [(None, names)]:
        if not re.fullmatch(r"\d{1,9}", str(number)) or type(name) not in (str, int, float):
            raise UserError(f"{shorten(path)}: names must be a list, or a mapping from numbers, of "
                            f"texts; {number!r}: {name!r:.60} is none (quote words such as "
                            "'yes').")
        found[int(number)] = plain_name(str(name))
    return found


def yaml_splits(folder: Path, splits: dict[str, tuple[str, ...]]
                ) -> tuple[dict[str, list[Path]], list[Problem]]:
    """Return ({split: [places]} that a YOLO folder's YAML file names and that exist, problems).

    A place is a folder of images or a text file that lists some. Paths start at `path:` or at the
    file; Roboflow's begin with ../ but start there too. `splits` is {split: what it may be called}.
    """
    found, problems = {split: [] for split in splits}, []
    for file in sorted(folder.iterdir()):
        values = load_yaml(file)
        starts = [folder / str(values.get("path") or "."), folder]
        for split, keys in splits.items() if "names" in values else ():
            given = next((values[key] for key in keys if values.get(key)), [])
            for text in map(str, given if isinstance(given, list) else [given]):
                places = (start / name for start in starts
                          for name in (text, re.sub(r"^(\.\./)+", "", text)))
                # Links may lead elsewhere, as long as they lie here.
                place = next((place.resolve() for place in places if place.exists() and any(
                    Path(spelt(place)).is_relative_to(spelt(folder))
                    for spelt in (os.path.abspath, os.path.realpath))), None)
                if place:
                    found[split].append(place)
                else:
                    problems.append(Problem(ProblemKind.SPLIT_NAMES_NOTHING, shorten(file),
                                            f"{split}: {text[:200]!r} is not in this folder"))
    return {split: places for split, places in found.items() if places}, problems
