"""Turn annotations into the lists that train.py and get_map.py read, and examine them on the way.

Expects VOCdevkit/VOC2007/Annotations (XML) and VOCdevkit/VOC2007/JPEGImages; writes the splits to
ImageSets/Main, the lists 2007_train.txt, 2007_val.txt, 2007_test.txt, and dataset_report.html.
Run it again when images were added: old ones keep their split.
"""

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from tqdm import tqdm

from nets.backbones import BACKBONES
from nets.ssd import build_spec
from utils.cli import UserError, make_folder, resolve, run, shorten
from utils.data.annotations import (Record, list_text, nearest_name, read_class_names,
                                    write_together)
from utils.data.dataset_report import examine, format_section
from utils.data.doctor import Doctor, inspect_images
from utils.data.layouts import read_parts
from utils.data.sources import Annotation, Problem, ProblemKind
from utils.data.splits import RECORD, SPLITS, Splits, fill_splits, voc_splits
from utils.data.voc import read_voc
from utils.multibox.spec import SSDSpec
from utils.page import Section, write_page

Source = tuple[dict[str, Annotation], Splits, list[Problem]]  # annotations by key, their splits


@dataclass(frozen=True)
class AnnotationSettings:
    """Where the data is and how it is split."""

    # ---- The one line to edit ----
    # A text file with your class names, one a line, spelt as in the XML files.
    classes_path: str = "model_data/voc_classes.txt"

    # ---- Data ----
    # The folder that holds VOC2007.
    VOCdevkit_path: str = "VOCdevkit"
    # VOC07+12 as in the papers: ("2007", "2012"), train_on = "trainval", val_share = 0.
    years: tuple[str, ...] = ("2007",)
    # voc reads the folders above. coco, yolo and csv read annotation_path.
    annotation_format: Literal["voc", "coco", "yolo", "csv"] = "voc"
    # A COCO .json, a .csv or a YOLO folder; or a folder with train, valid and test in it; or COCO's
    # own, with annotations, train2017 and val2017 in it.
    annotation_path: str = ""
    # Folder of the images of a .json or .csv file; "" is the folder of the file.
    images_path: str = ""
    # Where the lists and the report are written; "." is the repo itself.
    lists_dir: str = "."

    # ---- Splits ----
    # Share of the images that get_map.py measures on; data that comes with a val split gets none.
    test_share: float = 0.1
    # Share that train.py chooses the best epoch by; 0 for none.
    val_share: float = 0.1
    # trainval trains on the val images of split files that came with the data too, but for a
    # val_share of both together.
    train_on: Literal["train", "trainval"] = "train"
    # The same seed gives the same split of the same images.
    seed: int = 0
    # False keeps split files that are there already, such as VOC's own, and images where earlier
    # runs put them. True draws all anew; files not drawn here get .old behind their names.
    overwrite_splits: bool = False

    # ---- Checks ----
    # True stops on any problem instead of clipping boxes and leaving hopeless ones out.
    strict: bool = False

    # ---- The network that the report assumes; the values of train.py ----
    input_shape: tuple[int, int] = (300, 300)
    backbone: Literal[tuple(BACKBONES)] = "vgg"
    tile: int = 0
    letterbox_image: bool = False
    anchors_size: tuple[float, ...] = ()
    aspect_ratios: tuple[float, ...] = ()


def main(settings: AnnotationSettings) -> None:
    """Read and split the annotations, examine them, report, and write the lists."""
    check_settings(settings)
    spec, paper = specs_to_examine(settings)
    class_names = read_class_names(settings.classes_path)
    read = read_voc_years if settings.annotation_format == "voc" else read_source
    annotations, splits, problems = read(settings)
    used = {key for keys in splits.members.values() for key in keys}
    images = {item.image for key, item in annotations.items() if key in used and item.image}
    facts = inspect_images(images, num_threads=min(8, os.cpu_count() or 1), progress=partial(
        tqdm, total=len(images), desc="images", disable=None))
    doctor = Doctor(class_names, facts, spec.size, spec.tile)
    doctor.problems += problems
    lists = {split: [record for key in keys if key in annotations
                     and (record := doctor.record(annotations[key]))]
             for split, keys in splits.members.items()}
    doctor.check_lists(lists)
    report(settings, doctor, examine(lists, doctor, spec, paper, seed=settings.seed))
    if settings.strict and doctor.problems:
        raise UserError(f"{len(doctor.problems)} problems and strict = True: no lists written.")
    write_lists(settings, lists, class_names, splits)


def check_settings(settings: AnnotationSettings) -> None:
    """Raise UserError for settings that cannot work."""
    shares, is_voc = (settings.val_share, settings.test_share), settings.annotation_format == "voc"
    if min(shares) < 0 or sum(shares) >= 1:
        raise UserError("val_share and test_share must be at least 0 and below 1 together, got "
                        f"{shares[0]} and {shares[1]}.")
    if settings.seed < 0:
        raise UserError(f"seed must be at least 0, got {settings.seed}.")
    if settings.input_shape[0] != settings.input_shape[1]:
        raise UserError(f"input_shape must be square, got {settings.input_shape}.")
    if not is_voc and (not settings.annotation_path or settings.train_on == "trainval"):
        raise UserError(f"annotation_format {settings.annotation_format!r} needs annotation_path, "
                        "and has no train_on = 'trainval'.")


def specs_to_examine(settings: AnnotationSettings) -> tuple[SSDSpec, SSDSpec]:
    """Return the spec that train.py would train, and the same with the paper's priors."""
    try:
        spec = paper = build_spec(settings.backbone, settings.input_shape[0],
                                  letterbox=settings.letterbox_image, tile=settings.tile)
        if settings.anchors_size:
            spec = replace(spec, anchors_size=settings.anchors_size)
        if settings.aspect_ratios:
            spec = replace(spec, aspect_ratios=(settings.aspect_ratios,) * len(paper.grids))
    except ValueError as error:
        raise UserError(f"{error}; change it in the settings.") from None
    return spec, paper


def read_source(settings: AnnotationSettings) -> Source:
    """Read a COCO, YOLO or CSV source and complete its splits."""
    path = resolve(settings.annotation_path)
    images = resolve(settings.images_path) if settings.images_path else None
    annotations, members, problems = {}, {split: [] for split in SPLITS}, []
    for split, items, faults in read_parts(settings.annotation_format, path, images):
        by_key = {f"{split}/{item.key}": item for item in items}
        annotations |= by_key
        members[split or "train"] += by_key
        problems += faults
    record = path / RECORD if path.is_dir() else path.with_name(f"{path.stem}_{RECORD}")
    splits = fill_splits(members, record, {"val": settings.val_share, "test": settings.test_share},
                         settings.seed, overwrite=settings.overwrite_splits)
    return annotations, splits, problems


def read_voc_years(settings: AnnotationSettings) -> Source:
    """Read the VOC folders of all years together, and complete the splits of each."""
    shares = {"val": settings.val_share, "test": settings.test_share}
    annotations, problems, joined = {}, [], Splits({split: [] for split in SPLITS}, {}, [], [])
    for year in settings.years:
        root = resolve(settings.VOCdevkit_path) / f"VOC{year}"
        items, faults = read_voc(root, partial(tqdm, desc="annotations", disable=None))
        keys = [item.key for item in items]
        splits = voc_splits(root / "ImageSets" / "Main", keys, shares, settings.seed,
                            overwrite=settings.overwrite_splits,
                            train_on_val=settings.train_on == "trainval")
        problems += faults
        for split, members in splits.members.items():
            joined.members[split].extend(f"{year}/{key}" for key in members)
            problems += [Problem(ProblemKind.SPLIT_NAMES_NOTHING, f"{split}.txt",
                                 f"{key!r} has no XML file in Annotations")
                         for key in sorted(set(members) - set(keys))]
        unlisted = set(keys).difference(*splits.members.values())
        problems += [Problem(ProblemKind.IN_NO_SPLIT, f"{key}.xml", "in no split file; to use it, "
                             "add it to train.txt or another in ImageSets/Main")
                     for key in sorted(unlisted)]
        annotations |= {f"{year}/{item.key}": item for item in items}
        joined.files.update(splits.files)
        joined.retired.extend(splits.retired)
        joined.messages.extend(splits.messages)
    return annotations, joined, problems


def report(settings: AnnotationSettings, doctor: Doctor, sections: list[Section]) -> None:
    """Print the doctor's findings and write dataset_report.html."""
    print("\n".join(format_section(section) for section in sections if not section.images))
    for name, count in doctor.unknown.most_common():
        nearest = nearest_name(name, doctor.class_names)
        hint = f"; did you mean {nearest!r}?" if nearest else ""
        print(f"not in {settings.classes_path}: {name!r}, {count} objects left out{hint}")
    path = make_folder(settings.lists_dir) / "dataset_report.html"
    try:
        write_page(path, "Dataset report", sections)
        print(f"report: {shorten(path)}\n")
    except UserError as error:  # the lists matter more
        print(f"no report: {error}\n")


def write_lists(settings: AnnotationSettings, lists: dict[str, list[Record]],
                class_names: tuple[str, ...], splits: Splits) -> None:
    """Write the lists and split files together; refuse a list without any object."""
    for split, records in lists.items():
        if records and not any(len(record.labels) for record in records):
            raise UserError(f"the {split} split has no object of a known class: no list was "
                            f"written; check {settings.classes_path}, or try another seed.")
    if not lists["train"]:
        raise UserError("no usable image in the train split: no list was written.")
    is_one_year = settings.annotation_format == "voc" and len(settings.years) == 1
    year, folder = settings.years[0] if is_one_year else "2007", make_folder(settings.lists_dir)
    paths = {split: folder / f"{year}_{split}.txt" for split in lists}
    texts = {paths[split]: list_text(records, class_names)
             for split, records in lists.items() if records}
    stale = [path for path in paths.values() if path not in texts and path.is_file()]
    for path in splits.files:
        make_folder(path.parent)
    write_together(texts | splits.files, [*stale, *splits.retired])
    for split, path in paths.items():
        print(f"wrote {shorten(path)}: {len(lists[split])} images" if lists[split] else
              f"no images for the {split} split ({len(splits.members[split])} unusable)")
    for path in stale:
        print(f"{path.name} of an earlier run is now {path.name}.old")
    if year != "2007":
        print(f'set train_list = "{shorten(paths["train"])}", and val_list and test_list like it')
    print("\n".join(splits.messages))


if __name__ == "__main__":
    run(main, AnnotationSettings)
