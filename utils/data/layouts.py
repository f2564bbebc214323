"""How tools lay out a COCO, YOLO or CSV source, and which split they mean."""

import os
import re
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.coco import read_coco
from utils.data.csv_table import read_csv
from utils.data.sources import Annotation, Problem, tails
from utils.data.splits import RECORD, SPLITS
from utils.data.yolo import load_yaml, read_yolo

# What tools call the splits; a year may follow.
SPLIT_OF = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
NAME = rf"((?:{'|'.join(SPLIT_OF)})\d*)"
# Annotation files: a pattern below annotation_path, whose group names the split, and the folders
# where the images may lie. The first pattern with a file counts.
LAYOUTS = [(rf"annotations/instances_{NAME}\.json", ("{0}", "images/{0}", "images")),  # COCO's
           (r"annotations/instances_()[^/]*\.json", ("images",)),  # CVAT's
           (rf"{NAME}/[^/]+", ("{0}",)),  # Roboflow's
           (r"()[^/]+", ())]
READERS = {"coco": (".json", read_coco), "csv": (".csv", read_csv)}
Part = tuple[str, list[Annotation], list[Problem]]  # split or ""


def read_parts(form: str, path: Path, images: Path | None = None) -> list[Part]:
    """Read a source with its own split, where it has one.

    `form` is "coco", "yolo" or "csv"; `path` is a file, or a folder as in LAYOUTS or of YOLO.
    `images` is the folder of the images of a .json or .csv file, None the usual one.
    """
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; set annotation_path.")
    if form == "yolo":
        return _read_yolo_parts(path)
    suffix, read = READERS[form]
    files = _annotation_files(suffix, path) if path.is_dir() else {"": (path, path.parent)}
    return [(split, *read(file, images or folder)) for split, (file, folder) in files.items()]


def split_of(name: str) -> str:
    """Return the split that a name such as train, Valid or val2017 means, or ""."""
    return SPLIT_OF.get(re.sub(r"\d+$", "", name.lower()), "")


def _annotation_files(suffix, path):
    """Return {split or "": (annotation file, folder of images)} of the first layout that fits."""
    files = {file.relative_to(path).as_posix(): file
             for file in sorted([*path.glob(f"*{suffix}"), *path.glob(f"*/*{suffix}")])
             if not file.name.endswith(RECORD)}
    for pattern, folders in LAYOUTS:
        matches = [match for name in files if (match := re.fullmatch(pattern, name, re.I))]
        parts = {}
        for match in matches:
            parents = [path / folder.format(match[1]) for folder in folders]
            folder = next((parent for parent in parents if parent.is_dir()), path)
            parts[split_of(match[1])] = files[match[0]], folder
        if len(parts) < len(matches):
            raise UserError(f"{path}: several files for one split; name one in annotation_path.")
        if parts:
            return parts
    raise UserError(f"{path}: no {suffix} file in it; name the file in annotation_path.")


def _read_yolo_parts(folder):
    """Return the parts of a YOLO folder by its YAML files, else by the names of its folders."""
    items, problems = read_yolo(folder)
    images = {item.image.relative_to(folder).as_posix(): item for item in items}
    splits = {}  # image -> split that a YAML file names
    for file in sorted(folder.glob("*.y*ml")):
        values = load_yaml(file)
        for key, split in SPLIT_OF.items():
            texts = values.get(key) or []
            for text in texts if isinstance(texts, list) else [texts]:
                members = _listed_images(f"{values.get('path') or ''}/{text}", folder, images)
                splits = dict.fromkeys(members, split) | splits
    parts = {split: [] for split in (*SPLITS, "")}
    for image, item in images.items():
        split = splits.get(image) or split_of(image.lower().removeprefix("images/").split("/")[0])
        if splits and not split:
            problems.append(Problem("in no split", shorten(item.image), "not in the YAML file"))
        else:
            parts[split].append(item)
    return [(split, members, [] if split else problems) for split, members in parts.items()]


def _listed_images(path, folder, images):
    """Return the images in a folder, or in a text file of paths, which may be another machine's."""
    path = next((tail for tail in tails(path) if (folder / tail).exists()), "")
    if path and (folder / path).is_file():
        lines = read_text(folder / path, remedy="").splitlines()
        return [tail for line in lines for tail in tails(line.strip()) if tail in images]
    return [image for image in images if image.startswith(f"{path}/")]
