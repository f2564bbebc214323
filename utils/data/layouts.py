"""What a path of data holds: its format, the images of its annotations, and its own split."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from utils.cli import UserError, read_text, shorten
from utils.data.box_formats import VOC, edges_of_all
from utils.data.coco import read_coco
from utils.data.csv_table import HEADER, find_columns, read_csv
from utils.data.sources import Annotation, ImageIndex, Problem, tails, walk_files
from utils.data.splits import RECORD, SPLIT_OF, SPLITS
from utils.data.voc import read_voc
from utils.data.yolo import YAML, pair_labels, read_yolo, split_values
from utils.image import IMAGE_SUFFIXES

# Formats, and the endings of their files; of several in one folder the first is read.
SUFFIXES = {"voc": ".xml", "coco": ".json", "csv": ".csv", "yolo": ".txt"}
BOXES = {"voc": VOC, "coco": "xywh", "csv": "xyxy", "yolo": "cxcywh_fractions"}


class Source(NamedTuple):
    """The annotations under one path."""

    form: str  # of SUFFIXES
    annotations: list[Annotation]
    members: dict[str, list[str]]  # split -> keys; train has those that the data puts nowhere
    class_names: list[str]  # in the order of the source; [] where it has no list
    problems: list[Problem]
    messages: list[str]


def find_roots(path: Path) -> list[Path]:
    """Return the VOC folders under a path if each has split files, or the only one, else `path`."""
    parents = [relative.rpartition("Annotations/") for relative in walk_files(path, (".xml",))]
    roots = [path / parent for parent in sorted({parent for parent, *_ in parents})]
    are_voc = (all(folder for _, folder, _ in parents)
               and all((root / "JPEGImages").is_dir() for root in roots)
               and (len(roots) == 1 or all((root / "ImageSets/Main").is_dir() for root in roots)))
    return roots if roots and are_voc else [path]


def read_source(path: Path, form: str = "auto", *, images_path: Path | None = None,
                box_format: str = "auto", unlabelled: str = "auto") -> Source:
    """Read a folder, or one annotation file; UserError where there is nothing to be read.

    `form` is one of SUFFIXES or "auto", `box_format` one of BOX_FORMATS or "auto". Images without
    annotation are "background" or "unused"; with "auto" they are what the format means by that.
    """
    path = Path(os.path.abspath(path))
    path = path.parent if path.suffix in YAML else path
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; correct the path.")
    folder = path if path.is_dir() else path.parent
    form, files, messages = _find_files(path, form, images_path or folder)
    jpegs = folder / "JPEGImages"
    images = ImageIndex(images_path or (jpegs if form == "voc" and jpegs.is_dir() else folder))
    class_names, told = [], {}  # {key: split}
    if form == "yolo":
        annotations, problems, class_names = read_yolo(folder, images)
    elif form == "voc":
        annotations, problems = read_voc(files)
        annotations = images.match(annotations)
    else:
        annotations, problems, class_names, told, unread = _read_tables(form, files, images)
        messages += unread
    more, faults = _find_unlabelled(form, annotations, images, unlabelled)
    empty = [item for item in annotations if form == "coco" and not item.objects]
    if unlabelled == "unused":
        annotations = [item for item in annotations if item not in empty]
    elif empty:
        messages.append(f"{len(empty)} images without objects are background; unlabelled = 'unused' "
                        "leaves them out")
    annotations, problems = annotations + more, problems + faults
    if not told:
        told, notes = _tell_splits(annotations, folder, images)
        messages += notes
    members, keys = {split: [] for split in SPLITS}, {}
    for item in annotations:
        split = told.get(item.key, "")
        keys[item.key] = f"{split}/{item.key}" if form == "yolo" else item.key
        if split is None:
            problems.append(Problem("in no split", item.origin, "the split files do not name it"))
        else:
            members[split or "train"].append(keys[item.key])
    annotations = [item._replace(key=keys[item.key]) for item in annotations]
    annotations, note = edges_of_all(annotations, BOXES[form], box_format)
    messages = list(filter(None, [*messages, note]))
    return Source(form, annotations, members, class_names, problems, messages)


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


def _find_files(path, form, image_folder):
    """Return (format, {relative path: annotation file}, messages) of a file or folder."""
    if path.is_file():
        form = {".json": "coco", ".csv": "csv"}.get(path.suffix) if form == "auto" else form
        if form not in ("coco", "csv"):
            raise UserError(f"{path}: neither a folder, nor a .json of COCO or a .csv; name the "
                            "folder of the data.")
        return form, {path.name: path}, []
    images = walk_files(image_folder, IMAGE_SUFFIXES)
    others = {name: file for name, file in walk_files(path, (*SUFFIXES.values(),)).items()
              if not name.endswith(RECORD)}
    found = {name: {key: file for key, file in others.items() if key.lower().endswith(suffix)}
             for name, suffix in SUFFIXES.items()}
    found |= {"yolo": pair_labels(found["yolo"], images),
              "coco": _choose(_is_coco, found["coco"], form == "coco"),
              "csv": _choose(_is_table, found["csv"], form == "csv")}
    present = [name for name in SUFFIXES if found[name] and form in ("auto", name)]
    if not present:
        endings = Counter(os.path.splitext(key)[1] for key in others)
        raise UserError(
            f"{path}: no annotations; they are .xml files of Pascal VOC, .json of COCO, .csv with "
            f"a first row like {HEADER}, or YOLO's .txt named as the images; it has "
            f"{', '.join(f'{count} {ending}' for ending, count in endings.items()) or 'none'}, and "
            f"{len(images)} images; docs/data.md names converters.")
    form, *rest = present
    messages = [f"{len(found[name])} {SUFFIXES[name]} files are not read; annotation_format = "
                f"{name!r} would read them" for name in rest]
    inside = {key.removeprefix("Annotations/"): file for key, file in found[form].items()
              if key.startswith("Annotations/") and form == "voc"}
    return form, inside or found[form], messages


def _choose(is_usable, files, otherwise_all):
    usable = {key: file for key, file in files.items() if is_usable(file)}
    return usable or (files if otherwise_all else {})


def _is_coco(file):
    data = file.read_bytes()
    return b'"images"' in data and b'"annotations"' in data and b'"categories"' in data


def _is_table(file):
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        return {*HEADER.split(",")} <= {*find_columns(lines.readline())[0]}


def _read_tables(form, files, images):
    """Return (annotations, problems, class names, {key: split}, messages) of JSON or CSV files.

    One is read for each split that their names or folders mean, or else the only one.
    """
    instances = {key: file for key, file in files.items()
                 if key.rpartition("/")[2].startswith("instances_")}
    tables = {key: split_of(os.path.splitext(key)[0]) for key in instances or files}
    tables = {key: names for key, names in tables.items() if names[0]} or tables
    splits = [split for split, _ in tables.values()]
    if len({*splits}) < len(splits):
        raise UserError(f"{', '.join(tables)}: several files for one split; name one in "
                        "annotation_path, and those of val and test in val_path and test_path.")
    items, problems, class_names = [], [], []
    for key, (split, word) in tables.items():
        rows, faults, *names = (read_coco if form == "coco" else read_csv)(files[key])
        # An image of this name may be in the folders of several splits.
        folder = "/".join(filter(None, [os.path.dirname(key), word]))
        items += [(split, row._replace(key=f"{folder}/{row.key}")) for row in rows]
        problems += faults
        class_names += names[0] if names else []
    matched = images.match([row for _, row in items])
    annotations = [row._replace(key=f"{split}/{row.file_name}")
                   for (split, _), row in zip(items, matched)]
    told = {row.key: split for (split, _), row in zip(items, annotations) if split}
    unread = [key for key in files if key not in tables]
    message = [f"{', '.join(unread[:3])}{' ..' if unread[3:] else ''}: not read; name it in "
               "annotation_path, val_path or test_path to use it"] if unread else []
    return annotations, problems, class_names, told, message


def _find_unlabelled(form, annotations, images, unlabelled):
    """Return (annotations of images that have none but are background, problems)."""
    used = {item.image for item in annotations}
    folders = {path.parent for path in used if path}
    more, problems = [], []
    for relative, path in images.paths.items():
        if path in used:
            continue
        is_background = unlabelled == "background" or (
            unlabelled == "auto" and form == "yolo" and path.parent in folders)
        if is_background:
            more.append(Annotation(os.path.splitext(relative)[0], shorten(path), path, [], None))
        if is_background or form in ("voc", "yolo"):  # other images may lie beside a table
            problems.append(Problem("no label file" if is_background else "no annotation",
                                    shorten(path), "unlabelled = 'background' or 'unused' decides"))
    return more, problems


def _tell_splits(annotations, folder, images):
    """Return ({key: split}, messages) by split files, else by folders; None for those left out."""
    relatives = {path: relative for relative, path in images.paths.items()}
    listed, messages = _read_split_files(folder, images)
    if listed:
        told = {item.key: listed.get(relatives[item.image]) if item.image else ""
                for item in annotations}
    else:
        told = {item.key: split_of(os.path.dirname(item.key))[0]
                or split_of(os.path.dirname(relatives.get(item.image, "")))[0]
                for item in annotations}
    return told if "train" in told.values() else {}, messages


def _read_split_files(folder, images):
    """Return ({relative path of an image: split}, messages) of the split files in a folder.

    Those are what data.yaml or darknet's .data names, or else train.txt, val.txt and the like.
    """
    files, values = sorted([*folder.glob("*"), *folder.glob("ImageSets/*")]), {}
    for file in files:
        if file.suffix in (*YAML, ".data"):
            values |= split_values(file)
    values = {key: values[key] for key in SPLIT_OF if values.get(key)} or {
        name: [file.relative_to(folder).as_posix()] for file in files if file.suffix == ".txt"
        and (name := file.stem.lower().removesuffix("_list")) in SPLIT_OF}
    splits, messages = {}, []
    for key, texts in sorted(values.items(), key=lambda pair: [*SPLIT_OF].index(pair[0])):
        for text in texts:
            members = _listed_images(text, folder, images)
            splits = dict.fromkeys(members, SPLIT_OF[key]) | splits
            if not members:
                messages.append(f"{shorten(folder)}: {key} = {text} names no image of this data")
    return splits, messages


def _listed_images(text, folder, images):
    """Return the images in a folder or text file, whose path may be that of another machine."""
    paths = [folder / tail for tail in tails(text) if (folder / tail).exists()]
    if not paths:
        return []
    if paths[0].is_dir():
        return [key for key, path in images.paths.items() if path.is_relative_to(paths[0])]
    found = map(images.index.find_line, read_text(paths[0], remedy="").splitlines())
    return [image for image in found if image]
