"""Turn annotations into the lists that train.py and get_map.py read, and examine them on the way.

Expects VOCdevkit/VOC2007/Annotations (XML) and VOCdevkit/VOC2007/JPEGImages; writes the splits to
ImageSets/Main, the lists 2007_train.txt, 2007_val.txt, 2007_test.txt with 2007_classes.txt, and
dataset_report.html.
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Literal

from tqdm import tqdm

from nets.backbones import BACKBONES
from nets.ssd import build_spec
from utils.cli import UserError, make_folder, resolve, run, shorten
from utils.data.annotations import nearest_name, read_class_names, write_list
from utils.data.coco import read_coco
from utils.data.csv_table import read_csv
from utils.data.dataset_report import (
    contact_sheet,
    count_table,
    coverage_table,
    format_problems,
    format_table,
    objects_at_input,
    plot_boxes,
    write_html,
)
from utils.data.doctor import Doctor, check_classes, check_splits, inspect_images
from utils.data.prior_fit import suggest_priors
from utils.data.sources import Problem
from utils.data.splits import SPLITS, fill_splits, make_splits
from utils.data.voc import read_voc
from utils.data.yolo import read_yolo

# What tools call the folders of a data set that comes already split.
SPLIT_FOLDERS = {"train": ("train",), "val": ("valid", "val", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class AnnotationSettings:
    """Where the data is and how it is split."""

    # ---- The one line to edit ----

    # A text file with your class names, one a line, spelt as in the XML files.
    classes_path: str = "model_data/voc_classes.txt"

    # ---- Data ----

    # The folder that holds VOC2007.
    VOCdevkit_path: str = "VOCdevkit"
    # Several together as in ("2007", "2012") for VOC07+12.
    years: tuple[str, ...] = ("2007",)
    # voc reads the folders above. coco, yolo and csv read annotation_path.
    annotation_format: Literal["voc", "coco", "yolo", "csv"] = "voc"
    # A COCO .json, a .csv, or a YOLO folder; or a folder with train, valid and test in it, as
    # Roboflow exports them.
    annotation_path: str = ""
    # Folder of the images of a .json or .csv file; "" is the folder of the file.
    images_path: str = ""
    # Where the lists and the report are written; "." is the repo itself.
    lists_dir: str = "."

    # ---- Splits ----

    # Share of the images that get_map.py measures on; the rest is for training.
    test_share: float = 0.1
    # Share that train.py chooses the best epoch by.
    val_share: float = 0.1
    # The same seed gives the same split of the same images.
    seed: int = 0
    # False keeps split files that are there already, such as VOC's own.
    overwrite_splits: bool = False

    # ---- Checks ----

    # True stops on any problem instead of clipping boxes and leaving hopeless ones out.
    strict: bool = False
    # Input size that the report looks at objects with; that of train.py.
    input_shape: tuple[int, int] = (300, 300)
    # The backbone of train.py: its priors are examined.
    backbone: Literal[tuple(BACKBONES)] = "vgg"


def main(settings):
    """Read, split, examine, write, and say what was found."""
    check_settings(settings)
    class_names = read_class_names(settings.classes_path)
    annotations, splits, faults = read_source(settings)
    used = {key for keys in splits.values() for key in keys}
    images = [item.image for key, item in annotations.items() if key in used and item.image]
    workers = min(8, os.cpu_count() or 1)
    facts = inspect_images(images, num_threads=workers, progress=partial(
        tqdm, total=len(set(images)), desc="images", disable=None))
    doctor = Doctor(class_names, facts, settings.input_shape[0])
    doctor.problems += faults
    lists = {name: make_records(doctor, annotations, name, keys) for name, keys in splits.items()}
    check_splits(doctor, lists)
    check_classes(doctor, lists, class_names)
    report(settings, doctor, lists, class_names)
    if settings.strict and doctor.problems:
        raise UserError(f"{len(doctor.problems)} problems and strict = True: no lists were "
                        "written.")
    write_lists(settings, lists, class_names)


def check_settings(settings):
    """Raise UserError for settings that cannot work."""
    if not (0 <= settings.test_share and 0 < settings.val_share
            and settings.test_share + settings.val_share < 1):
        raise UserError("val_share must be above 0, test_share at least 0, both below 1 together: "
                        f"got {settings.test_share} and {settings.val_share}.")
    if settings.annotation_format != "voc" and not settings.annotation_path:
        raise UserError(f"annotation_format is {settings.annotation_format!r}; set annotation_path "
                        "to the file or folder.")
    try:
        build_spec(settings.backbone, settings.input_shape[0])
    except ValueError as error:
        raise UserError(f"{error}.") from None


def read_source(settings):
    """Return ({key: Annotation}, {split: keys}, list of Problem)."""
    annotations, splits, faults = {}, {name: [] for name in SPLITS}, []
    if settings.annotation_format == "voc":
        return read_voc_years(settings)
    for name, items, problems in read_parts(settings):
        faults += problems
        keys = [f"{name}/{item.key}" for item in items]
        annotations |= dict(zip(keys, items))
        splits[name or "train"] += keys
    fill_splits(settings, splits)
    return annotations, splits, faults


def read_voc_years(settings):
    """Return what read_source does, of the VOC folders of all years together."""
    progress = partial(tqdm, desc="annotations", disable=None)
    annotations, splits, faults = {}, {name: [] for name in SPLITS}, []
    for year in settings.years:
        root = resolve(settings.VOCdevkit_path) / f"VOC{year}"
        items, problems = read_voc(root, progress)
        mine = {f"{year}/{item.key}": item for item in items}
        annotations |= mine
        faults += problems
        for name, keys in make_splits(settings, root, [item.key for item in items]).items():
            splits[name] += [f"{year}/{key}" for key in keys if f"{year}/{key}" in mine]
            faults += [Problem("split names nothing", f"{name}.txt",
                               f"{key!r} has no readable XML file in Annotations")
                       for key in keys if f"{year}/{key}" not in mine]
    return annotations, splits, faults


def read_parts(settings):
    """Yield (split or "", annotations, problems) of a COCO, YOLO or CSV source."""
    path = resolve(settings.annotation_path)
    if not path.exists():
        raise UserError(f"{shorten(path)}: no such file or folder; set annotation_path.")
    folders = {name: path / folder for name, choices in SPLIT_FOLDERS.items()
               for folder in choices if (path / folder).is_dir()}
    if settings.annotation_format == "yolo" and not folders:
        # Ultralytics keeps images/train beside labels/train.
        items, problems = read_yolo(path)
        for name, choices in SPLIT_FOLDERS.items():
            starts = tuple(f"images/{choice}/" for choice in choices)
            yield name, [item for item in items if item.key.startswith(starts)], []
        starts = tuple(f"images/{choice}/" for choices in SPLIT_FOLDERS.values()
                       for choice in choices)
        yield "", [item for item in items if not item.key.startswith(starts)], problems
        return
    for name, place in (folders or {"": path}).items():
        if settings.annotation_format == "yolo":
            yield name, *read_yolo(place)
            continue
        ending = {"coco": ".json", "csv": ".csv"}[settings.annotation_format]
        files = sorted(place.glob(f"*{ending}")) if place.is_dir() else [place]
        if len(files) != 1:
            raise UserError(f"{shorten(place)}: {len(files)} files ending in {ending}, one is "
                            "needed; name it in annotation_path.")
        reader = {"coco": read_coco, "csv": read_csv}[settings.annotation_format]
        images = resolve(settings.images_path) if settings.images_path else files[0].parent
        yield name, *reader(files[0], images)


def make_records(doctor, annotations, split, keys):
    """Return the records of a split whose images are of use."""
    records = (doctor.record(annotations[key]) for key in keys)
    return [record for record in records if record is not None]


def report(settings, doctor, lists, class_names):
    """Print the doctor's findings and write dataset_report.html."""
    spec = build_spec(settings.backbone, settings.input_shape[0])
    boxes, labels = objects_at_input(lists, doctor.facts, spec)
    tables = {"Images and objects": count_table(lists, class_names)}
    text, figures = "", []
    if len(boxes):
        tables["Priors"] = coverage_table(boxes, labels, class_names, spec)
        text, figures = suggestion_text(suggest_priors(boxes, spec, settings.seed)), \
            plot_boxes(boxes, spec)
    for heading, rows in tables.items():
        print(f"\n{heading}\n{format_table(rows)}")
    print(text)
    print(f"\nProblems\n{format_problems(doctor.problems)}")
    for name, count in doctor.unknown.most_common():
        nearest = nearest_name(name, class_names)
        hint = f"; did you mean {nearest!r}?" if nearest else ""
        print(f"not in {settings.classes_path}: {name!r}, {count} objects left out{hint}")
    path = make_folder(settings.lists_dir) / "dataset_report.html"
    write_html(path, title="Dataset report", tables=tables, problems=doctor.problems,
               suggestion=text, figures=figures,
               images=contact_sheet(lists, class_names, settings.seed))
    print(f"report: {shorten(path)}\n")


def suggestion_text(found):
    """Return what the search for better priors found, in the form that train.py takes."""
    if not found.after > found.before:
        return f"these priors cover {found.before:.1%} of the objects; no better ones were found"
    ratios = f"\n  aspect_ratios = {found.aspect_ratios}" if found.aspect_ratios else ""
    return (f"priors that cover {found.after:.1%} instead of {found.before:.1%}, for train.py:\n"
            f"  anchors_size = {found.anchors_size}{ratios}")


def write_lists(settings, lists, class_names):
    """Write the lists; refuse one without any object."""
    for name, records in lists.items():
        if records and not any(len(record.labels) for record in records):
            raise UserError(f"the {name} split has no object of a known class in its "
                            f"{len(records)} images, so no list was written; check "
                            f"{settings.classes_path} and the splits.")
    if not lists["train"]:
        raise UserError("no usable image in the train split, so no list was written.")
    for name, records in lists.items():
        path = make_folder(settings.lists_dir) / f"2007_{name}.txt"
        if records:
            write_list(path, records, class_names)
            print(f"wrote {shorten(path)}: {len(records)} images")
        else:
            print(f"no images for the {name} split, so no {path.name}"
                  + path.exists() * "; the one there is of an earlier run, remove it")


if __name__ == "__main__":
    run(main, AnnotationSettings)
