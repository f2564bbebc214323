"""How tools lay out a COCO, YOLO or CSV source, and which split they mean."""

import os
import re
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.coco import read_coco
from utils.data.csv_table import read_csv
from utils.data.sources import Annotation, Problem, ProblemKind
from utils.data.splits import RECORD, SPLITS
from utils.data.yolo import load_yaml, read_yolo

# What tools call the splits; a year may follow.
SPLIT_OF = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
NAME = rf"((?:{'|'.join(SPLIT_OF)})\d*)"
# The files of a source: a pattern below annotation_path, whose group names the split, and where
# the images may lie. The first pattern with a file counts.
LAYOUTS = {
    "coco": [(rf"annotations/instances_{NAME}\.json",  # COCO's own folder
              ("instances_{0}", "{0}", "images/{0}", "images", ".")),
             (r"annotations/instances_()[^/]*\.json", ("images", ".")),  # CVAT's export
             (rf"{NAME}/[^/]+\.json", ("{0}",)),  # Roboflow's export
             (r"()[^/]+\.json", (".",))],
    "csv": [(rf"{NAME}/[^/]+\.csv", ("{0}",)), (r"()[^/]+\.csv", (".",))],
}
READERS = {"coco": read_coco, "csv": read_csv}
Part = tuple[str, list[Annotation], list[Problem]]


def read_parts(form: str, path: Path, images: Path | None = None) -> list[Part]:
    """Read a source with its own split, where it has one.

    `form` is "coco", "yolo" or "csv", `path` a file, or a folder in one of LAYOUTS; a YOLO folder's
    split is in its YAML file or in its folders' names. `images` is the folder of the images of a
    file; None is the usual one. Returns (split or "", annotations, problems) of each part. Raises
    UserError for a path that is missing or in no known layout.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; set annotation_path.")
    if form == "yolo":
        if not path.is_dir():
            raise UserError(f"{path}: annotation_path must name a folder for yolo.")
        return _read_yolo_parts(path)
    if not path.is_dir():
        return [("", *READERS[form](path, images or path.parent))]
    return [(split, *READERS[form](file, images or folder))
            for split, (file, folder) in _annotation_files(form, path).items()]


def split_of(name: str) -> str:
    """Return the split that a name such as train, Valid or val2017 means, or ""."""
    return SPLIT_OF.get(re.sub(r"\d+$", "", name.lower()), "")


def _annotation_files(form, path):
    """Return {split or "": (annotation file, folder of images)} of the first layout that fits."""
    files = {file.relative_to(path).as_posix(): file for file in
             sorted([*path.glob("*"), *path.glob("*/*")]) if not file.name.endswith(RECORD)}
    for pattern, folders in LAYOUTS[form]:
        parts = {}
        for relative, file in files.items():
            match = re.fullmatch(pattern, relative, re.IGNORECASE)
            if not match:
                continue
            split = split_of(match[1])
            if split in parts:
                raise UserError(f"{shorten(parts[split][0])} and {shorten(file)}: two files for "
                                f"{split or 'all images'}; name one of them in annotation_path, or "
                                "move it elsewhere.")
            places = [path / folder.format(match[1]) for folder in folders]
            parts[split] = file, next((place for place in places if place.is_dir()), path)
        if parts:
            return parts
    raise UserError(f"{shorten(path)}: no annotation file for {form} in it; name the file in "
                    "annotation_path.")


def _read_yolo_parts(folder):
    """Return the parts of a YOLO folder by its YAML file, else by the names of its folders."""
    items, problems = read_yolo(folder)
    images = {item.image.relative_to(folder).as_posix(): item for item in items}
    by_yaml, faults = _yaml_splits(folder, set(images))
    problems += faults
    parts = {split: [] for split in (*SPLITS, "")}
    for relative, item in images.items():
        first = re.match(r"(?:images/)?([^/]+)/|", relative, re.IGNORECASE)[1] or ""
        split = by_yaml.get(relative) or split_of(first)
        if by_yaml and not split:
            problems.append(Problem(ProblemKind.IN_NO_SPLIT, shorten(item.image),
                                    "in no place that the YAML file names"))
        else:
            parts[split].append(item)
    return [(split, members, [] if split else problems) for split, members in parts.items()]


def _yaml_splits(folder, images):
    """Return ({image: split}, problems) of the YAML file; images are relative paths.

    A split is a folder of images or a text file that lists some, or several of them.
    """
    splits, problems = {}, []
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        values = load_yaml(file)
        for key in SPLIT_OF if "names" in values else ():
            texts = values.get(key) or []
            for text in texts if isinstance(texts, list) else [texts]:
                place = _find_place(folder, values.get("path"), str(text))
                if place is None:
                    problems.append(Problem(ProblemKind.SPLIT_NAMES_NOTHING, shorten(file),
                                            f"{key}: {text!s:.200} is not in this folder"))
                elif (folder / place).is_dir():
                    prefix = "" if place == "." else f"{place}/"
                    members = [image for image in images if image.startswith(prefix)]
                else:
                    members, faults = _listed_images(folder, place, images)
                    problems += faults
                if place is not None:
                    splits = dict.fromkeys(members, SPLIT_OF[key]) | splits
    return splits, problems


def _find_place(folder, start, text):
    """Return the relative path of what a YAML file names, None where it is not in the folder.

    Paths start at `path:` or at the file; Roboflow's begin with ../ but start there too.
    """
    for place in (folder / str(start or "") / text, folder / text,
                  folder / re.sub(r"^(\.\./)+", "", text)):
        place = Path(os.path.abspath(place))
        if place.is_relative_to(folder) and place.exists():
            return place.relative_to(folder).as_posix()
    return None


def _listed_images(folder, place, images):
    """Return (images that a text file lists, problems); paths of other machines count by ends."""
    beside = os.path.dirname(place)
    lines = [line.strip() for line in read_text(folder / place, remedy="").splitlines()]
    lines = [line for line in lines if line]
    members, lost = [], []
    for line in lines:
        parts = line.replace("\\", "/").split("/")
        tails = ["/".join(parts[k:]) for k in range(len(parts))]
        image = next((path for tail in tails for path in (tail, os.path.join(beside, tail))
                      if path in images), None)
        (members if image else lost).append(image or line)
    return members, [Problem(
        ProblemKind.SPLIT_NAMES_NOTHING, shorten(folder / place),
        f"{len(lost)} of {len(lines)} lines are no image with labels here, such as {lost[0]!r:.200}"
    )] if lost else []
