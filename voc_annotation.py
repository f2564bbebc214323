"""Turn annotations into the lists that train.py and get_map.py read, and examine them on the way.

Reads VOCdevkit/VOC2007; writes its ImageSets/Main, 2007_train.txt, 2007_val.txt, 2007_test.txt and
dataset_report.html. When you run it again with more images, old ones keep their split.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nets.backbones import BACKBONES
from nets.ssd import build_spec
from utils.cli import Settings, UserError, check_fields, make_folder, resolve, run, shorten
from utils.data.annotations import Record, list_text, read_class_names, write_together
from utils.data.augment import AUGMENTATIONS
from utils.data.dataset_report import Specs, examine, format_section
from utils.data.doctor import Doctor, ImageFacts, inspect_images
from utils.data.groups import find_candidates
from utils.data.layouts import read_parts
from utils.data.sources import Annotation, Problem
from utils.data.splits import RECORD, SPLITS, Splits, fill_splits, voc_splits
from utils.data.voc import read_voc
from utils.page import write_page

# Annotations by key, their splits, problems, and what their images are.
Source = tuple[dict[str, Annotation], Splits, list[Problem], dict[Path, ImageFacts]]


@dataclass(frozen=True)
class AnnotationSettings(Settings):
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
    # A COCO .json, a .csv, a YOLO folder, or a folder that has a split of its own (docs/data.md).
    annotation_path: str = ""
    # Folder of the images of a .json or .csv file; "" is the folder of the file.
    images_path: str = ""
    lists_dir: str = "."  # of the lists and the report; "." is the repo itself

    # ---- Splits and checks ----
    # Share of the images that get_map.py measures on; data that comes with a val split gets none.
    test_share: float = 0.1
    # Share that train.py chooses the best epoch by; 0 for none.
    val_share: float = 0.1
    # trainval trains on the val images of VOC's split files too, but for val_share of both.
    train_on: Literal["train", "trainval"] = "train"
    seed: int = 0  # the same seed gives the same split of the same images
    # False keeps existing split files, and images in the split of earlier runs. True draws all
    # anew; split files that were not drawn here get .old behind their names.
    overwrite_splits: bool = False
    # True stops on any problem instead of clipping boxes and leaving hopeless ones out.
    strict: bool = False

    # ---- The network that the report assumes; the values of train.py ----
    input_shape: tuple[int, int] = (300, 300)
    backbone: Literal[tuple(BACKBONES)] = "vgg"
    tile: int = 0
    letterbox_image: bool = False
    anchors_size: tuple[float, ...] = ()
    aspect_ratios: tuple[float, ...] = ()
    augmentation: Literal[tuple(AUGMENTATIONS)] = "light"


def main(settings: AnnotationSettings) -> None:
    """Read and split the annotations, examine them, report, and write the lists."""
    check_fields(settings, {"val_share": (0, 1), "test_share": (0, 1)})
    specs = specs_to_examine(settings)
    class_names = read_class_names(settings.classes_path)
    read = read_voc_years if settings.annotation_format == "voc" else read_source
    annotations, splits, problems, facts = read(settings)
    members = {split: [annotations[key] for key in keys if key in annotations]
               for split, keys in splits.members.items()}
    doctor = Doctor(class_names, facts, specs[0])
    doctor.problems += problems
    lists = {split: [record for item in items
                     if (record := doctor.record(item, measured=split != "train"))]
             for split, items in members.items()}
    doctor.check_lists(lists)
    source = settings.annotation_path or settings.VOCdevkit_path
    about = [f"data: {resolve(source)}, read on {time.strftime('%Y-%m-%d %H:%M')}",
             *splits.messages]
    verdict, *sections = examine(lists, doctor, specs, augmentation=settings.augmentation,
                                 about=about, seed=settings.seed)
    print("\n".join(format_section(section) for section in sections if not section.images))
    try:
        if settings.strict and doctor.problems:
            raise UserError(f"{len(doctor.problems)} problems and strict = True: no lists written.")
        write_lists(settings, lists, class_names, splits)
    finally:  # after the lists, which matter more on a full disk
        path = make_folder(settings.lists_dir) / "dataset_report.html"
        write_page(path, "Dataset report", [verdict, *sections])
        print(f"{format_section(verdict)}\nreport: {path}")


def specs_to_examine(settings: AnnotationSettings) -> Specs:
    """Return the spec that train.py would train, and others that it might."""
    try:
        paper, large = (replace(build_spec(settings.backbone, size), tile=settings.tile,
                                letterbox=settings.letterbox_image)
                        for size in (settings.input_shape[0], 512))
        spec = paper = replace(paper, input_shape=settings.input_shape)
        if settings.anchors_size:
            spec = replace(spec, anchors_size=settings.anchors_size)
        if settings.aspect_ratios:
            spec = replace(spec, aspect_ratios=(settings.aspect_ratios,) * len(paper.grids))
        return spec, paper, large
    except ValueError as error:
        raise UserError(f"{error}; change it in the settings.") from None


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
    facts = inspect_images(annotations.values())
    record = path / RECORD if path.is_dir() else path.with_name(f"{path.stem}_{RECORD}")
    splits = fill_splits(members, record, {"val": settings.val_share, "test": settings.test_share},
                         settings.seed, find_candidates(annotations, facts),
                         overwrite=settings.overwrite_splits)
    return annotations, splits, problems, facts


def read_voc_years(settings: AnnotationSettings) -> Source:
    """Read the VOC folders of all years together, and complete the splits of each."""
    shares = {"val": settings.val_share, "test": settings.test_share}
    annotations, problems, facts = {}, [], {}
    joined = Splits({split: [] for split in SPLITS}, {}, [], [])
    for year in settings.years:
        root = resolve(settings.VOCdevkit_path) / f"VOC{year}"
        items, faults = read_voc(root)
        by_key = {item.key: item for item in items}
        facts |= inspect_images(items)
        splits = voc_splits(root / "ImageSets" / "Main", [*by_key], shares, settings.seed,
                            find_candidates(by_key, facts),
                            overwrite=settings.overwrite_splits,
                            train_on_val=settings.train_on == "trainval")
        for split, members in splits.members.items():
            joined.members[split].extend(f"{year}/{key}" for key in members)
        listed = set().union(*splits.members.values())
        problems += faults
        problems += [Problem("split names nothing", f"ImageSets/Main: {key}", "no such XML file")
                     for key in sorted(listed - set(by_key))]
        problems += [Problem("in no split", f"{key}.xml", "to use it, add it to train.txt")
                     for key in sorted(set(by_key) - listed)]
        annotations |= {f"{year}/{item.key}": item for item in items}
        joined.files.update(splits.files)
        joined.retired.extend(splits.retired)
        joined.messages.extend(splits.messages)
    return annotations, joined, problems, facts


def write_lists(settings: AnnotationSettings, lists: dict[str, list[Record]],
                class_names: tuple[str, ...], splits: Splits) -> None:
    """Write the lists and split files together; refuse a list without any object."""
    for split, records in lists.items():
        if (records or split == "train") and not any(len(record.labels) for record in records):
            raise UserError(f"the {split} split has no object of a known class: no list was "
                            f"written; check {settings.classes_path}, or try another seed.")
    year = settings.years[0] if len(settings.years) == 1 else "2007"
    paths = {split: make_folder(settings.lists_dir) / f"{year}_{split}.txt" for split in lists}
    texts = {paths[split]: list_text(lists[split], class_names) for split in lists if lists[split]}
    old = splits.retired + [path for path in paths.values() if path not in texts and path.exists()]
    for path in splits.files:
        make_folder(path.parent)
    write_together(texts | splits.files, old)
    for split, path in paths.items():
        print(f"{shorten(path)}: {len(lists[split])} of {len(splits.members[split])} images usable")
    for path in old:
        print(f"{path} is now {path.name}.old")


if __name__ == "__main__":
    run(main, AnnotationSettings)
