"""What a path of data holds: its format, the images of its annotations, and its own split."""

import os
import re
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from utils.cli import UserError, read_text, shorten, walk_files
from utils.data.box_formats import VOC, read_boxes
from utils.data.coco import read_coco
from utils.data.csv_table import read_csv
from utils.data.sources import LINE_END, ROLE, Annotation, ImageIndex, Problem, tails
from utils.data.splits import RECORD, SPLIT_OF, SPLITS
from utils.data.voc import read_voc
from utils.data.yolo import YAML, load_yaml, read_yolo, yolo_names

# Formats, and the endings of their files; of several in one folder the first is read.
SUFFIXES = {"voc": ".xml", "coco": ".json", "yolo": ".txt", "csv": ".csv"}
BOXES = {"voc": VOC, "coco": "xywh", "yolo": "cxcywh_fractions", "csv": "xyxy"}
TABLES = {"coco": read_coco, "csv": read_csv}  # of many images


class Source(NamedTuple):
    """The annotations under one path."""

    annotations: list[Annotation]
    members: dict[str, list[str]]  # split -> keys; train has those that the data puts nowhere
    problems: list[Problem]
    messages: list[str]


def read_source(path: Path, form: str = "auto", *, images_path: Path | None = None,
                box_format: str = "auto", unlabelled: str = "auto") -> Source:
    """Read a folder, or one annotation file; UserError where there is nothing to be read.

    `form` is one of SUFFIXES or "auto", `box_format` one of BOX_FORMATS or "auto". Images without
    annotation are "background" or "unused"; with "auto" they are what the format means by that.
    """
    path = Path(os.path.abspath(path))
    path = path.parent if path.suffix in YAML else path
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; set annotation_path to your data.")
    folder = path if path.is_dir() else path.parent
    images = ImageIndex(images_path or folder)
    form, files, messages = _find_files(path, form, images)
    rows, problems = _read_files(form, files, folder)
    paths = images.match([item for _, item in rows])
    rows = [(split, image, item) for (split, item), image in zip(rows, paths)]
    if form == "coco" and unlabelled == "unused":
        rows = [row for row in rows if row[-1].objects]
    more, faults = _find_unlabelled(form, rows, images, unlabelled)
    listed, notes = _read_split_files(folder, images)
    rows, problems, messages = rows + more, problems + faults, messages + notes
    splits = [listed.get(image) if listed and image
              else split or split_of(os.path.dirname(image or ""))[0] for split, image, _ in rows]
    splits = splits if listed or "train" in splits else [""] * len(rows)
    members, annotations = {split: [] for split in SPLITS}, []
    for split, (_, image, item) in zip(splits, rows):
        key = ROLE.sub("", item.key)
        if form != "voc":  # the record of drawn splits has them like this
            key = f"{split}/{item.file_name or os.path.splitext(image or item.key)[0]}"
        annotations.append(item._replace(key=key, image=images.paths.get(image)))
        if split is None:
            problems.append(Problem("in no split", item.origin, "the split files do not name it"))
        else:
            members[split or "train"].append(key)
    annotations, note = read_boxes(annotations, BOXES[form], box_format)
    return Source(annotations, members, problems, [*filter(None, [*messages, note])])


@lru_cache
def split_of(path: str) -> tuple[str, str]:
    """Return the split that a path without ending means, and its word for it, or two "".

    The last part with such a word counts: train, Valid, val2017, train_labels, obj_train_data.
    """
    for part in reversed(path.split("/")):
        for word in re.split(r"[\W_]+", part):
            split = SPLIT_OF.get(word.lower().rstrip("0123456789"))
            if split:
                return split, word
    return "", ""


def _find_files(path, form, images):
    """Return (format, {relative path: annotation file}, messages) of a file or folder."""
    if path.is_file():
        form = {".json": "coco", ".csv": "csv"}.get(path.suffix) if form == "auto" else form
        if form not in TABLES:
            raise UserError(f"{path}: no folder, .json of COCO or .csv; name the data's folder.")
        return form, {path.name: path}, []
    files = images.files if path == images.folder else walk_files(path)
    found = {name: {key: file for key, file in files.items() if key.lower().endswith(suffix)
                    and form in ("auto", name) and _looks_like(name, key, file, images)}
             for name, suffix in SUFFIXES.items()}
    form, *others = [name for name in SUFFIXES if found[name]] or [""]
    if not form:
        raise UserError(f"{path}: no annotations beside {len(images.paths)} images; docs/data.md "
                        "has the formats that are read, and converters.")
    messages = [f"{len(found[name])} {SUFFIXES[name]} files are not read; annotation_format = "
                f"{name!r} would read them" for name in others]
    tables = _choose_tables(found[form]) if form in TABLES else found[form]
    unread = [key for key in found[form] if key not in tables]
    if unread:
        messages.append(f"not read: {', '.join(unread[:3])}{' ..' if unread[3:] else ''}; put "
                        "train, val or test into its name, or name it in annotation_path")
    return form, tables, messages


def _looks_like(form, key, file, images):
    """Return whether a file with the ending of a format may be of it."""
    if form == "coco":
        data = b"" if key.endswith(RECORD) else file.read_bytes()
        return all(word in data for word in (b'"images"', b'"annotations"', b'"categories"'))
    in_labels = "labels/" in key.lower() and not key.endswith("classes.txt")
    return form != "yolo" or in_labels or images.find(os.path.splitext(key)[0]) is not None


def _choose_tables(files):
    """Return the files of a split each, by their names or folders, or else the only file."""
    instances = [key for key in files if os.path.basename(key).startswith("instances_")]
    splits = {key: split_of(os.path.splitext(key)[0])[0] for key in instances or files}
    keys = [*filter(splits.get, splits)] or [*splits]
    if len({splits[key] for key in keys}) < len(keys):
        raise UserError(f"{', '.join(keys)}: several files for one split; put one of "
                        "each into a folder, or name one in annotation_path.")
    return {key: files[key] for key in keys}


def _read_files(form, files, folder):
    """Return ([(split of the file or "", annotation)], problems) of the files of a format."""
    rows, problems, read = [], [], read_voc
    if form == "yolo":
        read = partial(read_yolo, names=yolo_names(folder), has_keypoints=any(
            "kpt_shape" in load_yaml(file) for file in folder.glob("*.y*ml")))
    for key, file in files.items():
        if form in TABLES:
            split, word = split_of(os.path.splitext(key)[0])
            items, faults = TABLES[form](file)
            # An image of this name may be in the folders of several splits.
            parents = f"{os.path.dirname(key)}/{word}"
            items = [item._replace(key=f"{parents}/{item.key}") for item in items]
        else:
            split, _ = split_of(os.path.dirname(key))
            items, faults = read(file, key)
        rows += [(split, item) for item in items]
        problems += faults
    if rows and all(item.objects is None for _, item in rows):
        raise UserError(f"{problems[0].where}: {problems[0].what}.")
    return rows, problems


def _find_unlabelled(form, rows, images, unlabelled):
    """Return ([("", image, annotation)] of images that are background by this alone, problems)."""
    stems = {os.path.splitext(image)[0] for _, image, _ in rows if image}
    folders = {os.path.dirname(stem) for stem in stems}
    more, problems = [], []
    for image, path in images.paths.items():
        stem = os.path.splitext(image)[0]
        is_background = unlabelled == "background" or (
            unlabelled == "auto" and form == "yolo" and os.path.dirname(image) in folders)
        if stem not in stems and (is_background or form not in TABLES):
            kind = "no label file" if is_background else "no annotation"
            problems.append(Problem(kind, shorten(path), "see the setting unlabelled"))
            if is_background:
                more.append(("", image, Annotation(stem, shorten(path), None, [], None)))
    return more, problems


def _read_split_files(folder, images):
    """Return ({relative path of an image: split}, messages) of data.yaml, .data, or train.txt .."""
    values = {}
    for file in sorted(folder.glob("*")):
        if file.suffix in (*YAML, ".data"):
            values |= load_yaml(file)
    if not any(values.get(key) for key in SPLIT_OF):
        values = {file.stem.lower().removesuffix("_list"): [file.name]
                  for file in folder.glob("*.txt")}
        for sets in folder.glob("**/ImageSets/Main"):  # of VOC and its years
            words = {file: file.stem.lower() for file in sorted(sets.glob("*.txt"))}
            if not SPLIT_OF.keys() & words.values():  # VoTT has those of classes alone: cat_val
                words = {file: word.rpartition("_")[2] for file, word in words.items()}
            for file, word in words.items():
                values.setdefault(word, []).append(file.relative_to(folder).as_posix())
    root = values["path"] if isinstance(values.get("path"), str) else ""
    splits, messages = {}, []
    for key in SPLIT_OF:
        texts = values.get(key) or []
        texts = texts if isinstance(texts, list) else [texts]
        for text in filter(lambda text: isinstance(text, str), texts):  # not nested aliases
            found, split = _listed_images(f"{root}/{text}", folder, images), SPLIT_OF[key]
            others = [image for image in found if splits.get(image, split) != split]
            splits = dict.fromkeys(filter(None, found), split) | splits
            if None in found or not found:
                messages.append(f"{shorten(folder)}: {key} = {text}: {found.count(None)} of "
                                f"{len(found)} lines name no image there")
            if others and key != "trainval":
                messages.append(f"{shorten(folder)}: {key} = {text}: {len(others)} of its images "
                                "are in another split too, and stay there")
    return splits, messages


def _listed_images(text, folder, images):
    """Return the images in a folder, or those (None: unknown) that a text file names."""
    # The path may be that of another machine.
    paths = [folder / tail for tail in tails(text) if (folder / tail).exists()]
    if not paths:
        return []
    if paths[0].is_dir():
        return [image for image, path in images.paths.items() if path.is_relative_to(paths[0])]
    lines = read_text(paths[0], remedy="").splitlines()
    return [images.find(LINE_END.sub("", line.strip())) for line in lines if line.strip()]
