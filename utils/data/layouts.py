"""How tools lay out a COCO, YOLO or CSV source, and which split they mean."""

import os
import re
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.coco import read_coco
from utils.data.csv_table import read_csv
from utils.data.sources import Annotation, Problem, ProblemKind, tails
from utils.data.splits import RECORD, SPLITS
from utils.data.yolo import load_yaml, read_yolo

# What tools call the splits; a year may follow.
SPLIT_OF = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
NAME = rf"((?:{'|'.join(SPLIT_OF)})\d*)"
# Annotation files: a pattern below annotation_path, whose group names the split, and the folders
# where the images may lie. The first pattern with a file counts.
LAYOUTS = {
    "coco": [(rf"annotations/instances_{NAME}\.json", ("{0}", "images/{0}", "images")),  # COCO's
             (r"annotations/instances_()[^/]*\.json", ("images",)),  # CVAT's
             (rf"{NAME}/[^/]+\.json", ("{0}",)),  # Roboflow's
             (r"()[^/]+\.json", ())],
    "csv": [(rf"{NAME}/[^/]+\.csv", ("{0}",)), (r"()[^/]+\.csv", ())],
}
READERS = {"coco": read_coco, "csv": read_csv}
Part = tuple[str, list[Annotation], list[Problem]]  # split or ""


def read_parts(form: str, path: Path, images: Path | None = None) -> list[Part]:
    """Read a source with its own split, where it has one.

    `form` is "coco", "yolo" or "csv"; `path` is a file, or a folder as in LAYOUTS or of YOLO.
    `images` is the folder of the images of a .json or .csv file, None the usual one. Raises
    UserError for a path that is missing or has no annotation file.
    """
    path = Path(os.path.abspath(path))
    if not path.exists() or form == "yolo" and not path.is_dir():
        raise UserError(f"{path}: no such {'folder' if form == 'yolo' else 'file or folder'}; set "
                        "annotation_path.")
    if form == "yolo":
        return _read_yolo_parts(path)
    files = _annotation_files(form, path) if path.is_dir() else {"": (path, path.parent)}
    return [(split, *READERS[form](file, images or folder))
            for split, (file, folder) in files.items()]


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
            if match := re.fullmatch(pattern, relative, re.IGNORECASE):
                split = split_of(match[1])
                if split in parts:
                    raise UserError(f"{shorten(parts[split][0])} and {shorten(file)}: two files for"
                                    f" {split or 'all images'}; move one elsewhere, or name it in "
                                    "annotation_path.")
                parents = [path / folder.format(match[1]) for folder in folders]
                parts[split] = file, next((p for p in parents if p.is_dir()), path)
        if parts:
            return parts
    raise UserError(f"{shorten(path)}: no annotation file of {form} in it; name the file in "
                    "annotation_path.")


def _read_yolo_parts(folder):
    """Return the parts of a YOLO folder by its YAML file, else by the names of its folders."""
    items, problems = read_yolo(folder)
    images = {item.image.relative_to(folder).as_posix(): item for item in items}
    splits, faults = _yaml_splits(folder, images)
    parts = {split: [] for split in (*SPLITS, "")}
    for image, item in images.items():
        split = splits.get(image) or split_of(image.lower().removeprefix("images/").split("/")[0])
        if splits and not split:
            faults.append(Problem(ProblemKind.IN_NO_SPLIT, shorten(item.image),
                                  "in no place that the YAML file names"))
        else:
            parts[split].append(item)
    return [(split, members, [] if split else problems + faults)
            for split, members in parts.items()]


def _yaml_splits(folder, images):
    """Return ({image: split}, problems) of the YAML file; images are relative paths.

    A split is a folder of images or a text file that lists some, or several of these. Paths are
    often those of another machine: the longest end that is here counts.
    """
    splits, problems = {}, []
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        values = load_yaml(file)
        named = {key: values[key] for key in SPLIT_OF if values.get(key) and "names" in values}
        for key, texts in named.items():
            for text in texts if isinstance(texts, list) else [texts]:
                place = next((tail for tail in tails(f"{values.get('path') or ''}/{text}")
                              if (folder / tail).exists()), None)
                if place is None:
                    members, lost = [], [text]
                elif (folder / place).is_dir():
                    members, lost = [i for i in images if i.startswith(f"{place}/")], []
                else:
                    members, lost = _listed_images(folder / place, folder, images)
                splits = dict.fromkeys(members, SPLIT_OF[key]) | splits
                problems += [Problem(ProblemKind.SPLIT_NAMES_NOTHING, shorten(file), f"{key}: "
                                     f"{line!s:.200} is no place and no image with labels here")
                             for line in lost]
    return splits, problems


def _listed_images(file, folder, images):
    """Return (images, lines without one) of a text file of paths, also of other machines."""
    members, lost = [], []
    for line in filter(None, map(str.strip, read_text(file, remedy="").splitlines())):
        paths = [path for tail in tails(line) for path in (
            tail, (file.parent / tail).relative_to(folder).as_posix()) if path in images]
        members += paths[:1]
        lost += [] if paths else [line]
    return members, lost
