"""Turn annotations into the lists that train.py and get_map.py read, and examine them on the way.

Reads the folder that annotation_path names; writes 2007_train.txt, 2007_val.txt, 2007_test.txt and
dataset_report.html. When you run it again with more images, old ones keep their split.
"""

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Literal

from nets.backbones import BACKBONES
from nets.ssd import build_spec
from nets.weights.weight_files import read_detector
from utils.cli import Settings, UserError, check_fields, make_folder, resolve, run, shorten
from utils.data.annotations import (NO_CLASSES, Record, list_text, read_class_names,
                                    write_together)
from utils.data.augment import AUGMENTATIONS
from utils.data.box_formats import BOX_FORMATS
from utils.data.dataset_report import Specs, examine, format_section
from utils.data.doctor import Doctor, ImageFacts, inspect_images
from utils.data.layouts import SUFFIXES, read_source
from utils.data.sources import Annotation, Problem
from utils.data.splits import SPLITS, Splits, find_candidates, make_splits, record_path
from utils.page import write_page


@dataclass(frozen=True)
class AnnotationSettings(Settings):
    """Where the data is and how it is split."""

    # ---- Data: the two lines to edit ----
    # A text file with your class names, one a line, as in the annotations; "" takes theirs.
    classes_path: str = ""
    # The folder of your images and annotations, or a COCO .json, or a .csv file (docs/data.md).
    annotation_path: str = ""

    # ---- More about the data ----
    # Without annotation_path: the folder that holds VOC2007.
    VOCdevkit_path: str = "VOCdevkit"
    # VOC07+12 as in the papers: ("2007", "2012"), train_on = "trainval", val_share = 0.
    years: tuple[str, ...] = ("2007",)
    # Folder of the images; "" looks for them below the folder of the annotations.
    images_path: str = ""
    annotation_format: Literal["auto", *SUFFIXES] = "auto"
    # What the numbers of a box are; auto: what the format says, unless only another reading fits.
    box_format: Literal["auto", *BOX_FORMATS] = "auto"
    # Images without annotation; auto: background for yolo and coco, unused for voc and csv.
    unlabelled: Literal["auto", "background", "unused"] = "auto"
    lists_dir: str = "."  # of the lists and the report; "." is the repo itself

    # ---- Splits and checks ----
    # Share of the images that get_map.py measures on; data that comes with a val split gets none.
    test_share: float = 0.1
    # Share that train.py chooses the best epoch by; 0 for none.
    val_share: float = 0.1
    # trainval trains on the val images of VOC's split files too, but for val_share of both.
    train_on: Literal["train", "trainval"] = "train"
    seed: int = 0  # the same seed gives the same split of the same images
    # False keeps images in the split of earlier runs. True draws anew what did not come with the
    # data.
    overwrite_splits: bool = False

    # ---- The network that the report assumes; the values of train.py ----
    model_path: str = ""  # a detector to begin from, or "coco"; its size and priors count then
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
    annotations, splits, problems, facts = read_data(settings)
    class_names = (read_class_names(settings.classes_path) if settings.classes_path
                   else names_from_data(annotations))
    members = {split: [annotations[key] for key in keys] for split, keys in splits.members.items()}
    doctor = Doctor(class_names, facts, specs[0])
    doctor.problems += problems
    lists = {split: [record for item in items
                     if (record := doctor.record(item, measured=split != "train"))]
             for split, items in members.items()}
    doctor.check_lists(lists)
    source = settings.annotation_path or settings.VOCdevkit_path
    about = [f"data: {resolve(source)}, read on {time.strftime('%Y-%m-%d %H:%M')}",
             f"classes: {', '.join(class_names)}", *splits.messages]
    cards, (verdict, *sections) = examine(lists, doctor, specs, augmentation=settings.augmentation,
                                 about=about, seed=settings.seed)
    print("\n".join(format_section(section) for section in sections if not section.images))
    try:
        check_objects(settings.classes_path, lists, doctor)
        write_lists(settings, lists, class_names, splits)
    finally:  # after the lists, which matter more on a full disk
        path = make_folder(settings.lists_dir) / "dataset_report.html"
        write_page(path, "Dataset report", about[0], cards, [verdict, *sections])
        print(f"{format_section(verdict)}\nreport: {path}")


def specs_to_examine(settings: AnnotationSettings) -> Specs:
    """Return the spec that train.py would train, and others that it might."""
    try:
        if settings.model_path:
            spec = read_detector(settings.model_path)[0].spec
            return replace(spec, tile=settings.tile or spec.tile), None, None
        build = partial(build_spec, settings.backbone, tile=settings.tile,
                        letterbox=settings.letterbox_image)
        spec = build(settings.input_shape[0], anchors_size=settings.anchors_size,
                     aspect_ratios=settings.aspect_ratios)
        return (replace(spec, input_shape=settings.input_shape), build(settings.input_shape[0]),
                build(512))
    except ValueError as error:
        raise UserError(f"{error}; change it in the settings.") from None


def read_data(settings: AnnotationSettings
              ) -> tuple[dict[str, Annotation], Splits, list[Problem], dict[Path, ImageFacts]]:
    """Return the annotations of all sources by key, their splits, problems and images."""
    roots = [resolve(settings.annotation_path)] if settings.annotation_path else [
        resolve(settings.VOCdevkit_path) / f"VOC{year}" for year in settings.years]
    if settings.annotation_path and settings.VOCdevkit_path != AnnotationSettings.VOCdevkit_path:
        raise UserError("annotation_path and VOCdevkit_path both name data; set one of them.")
    images_path = resolve(settings.images_path) if settings.images_path else None
    shares = {"val": settings.val_share, "test": settings.test_share}
    annotations, problems, facts = {}, [], {}
    joined = Splits({split: [] for split in SPLITS}, {}, [])
    for root in roots:
        source = read_source(root, settings.annotation_format, images_path=images_path,
                             box_format=settings.box_format, unlabelled=settings.unlabelled)
        by_key = {item.key: item for item in source.annotations}
        facts |= inspect_images(source.annotations)
        problems += source.problems
        splits = make_splits(source.members, record_path(root), shares, settings.seed,
                             find_candidates(by_key, facts), overwrite=settings.overwrite_splits,
                             train_on_val=settings.train_on == "trainval")
        for split, members in splits.members.items():
            joined.members[split].extend(f"{root}/{key}" for key in members)
        annotations |= {f"{root}/{key}": item for key, item in by_key.items()}
        joined.files.update(splits.files)
        joined.messages.extend([*source.messages, *splits.messages])
    return annotations, joined, problems, facts


def names_from_data(annotations: Mapping[str, Annotation]) -> tuple[str, ...]:
    """Return the classes of the objects, sorted; not the background."""
    names = {thing.name for item in annotations.values() for thing in item.objects or ()}
    names = tuple(sorted(name for name in names if name and name.lower() not in NO_CLASSES))
    if not names:
        raise UserError("the annotations name no class of an object: there is nothing to learn.")
    return names


def check_objects(classes_path: str, lists: Mapping[str, list[Record]], doctor: Doctor) -> None:
    """Raise UserError for a class that the data spells otherwise, or a list without objects."""
    labels = {label for records in lists.values() for record in records for label in record.labels}
    unused = {name.lower(): name for label, name in enumerate(doctor.class_names)
              if label not in labels}
    for name, count in doctor.unknown.most_common():
        for nearest in get_close_matches(name.lower(), unused, n=1):
            raise UserError(f"{classes_path}: {unused[nearest]!r} has no object; did you mean "
                            f"{name!r}, which has {count}? Correct it; no lists were written.")
    for split, records in lists.items():
        if (records or split == "train") and not any(len(record.labels) for record in records):
            raise UserError(f"the {split} split has no usable object ({doctor.unknown.total()} are "
                            "of unknown classes): see the problems above. No list was written.")


def write_lists(settings: AnnotationSettings, lists: dict[str, list[Record]],
                class_names: tuple[str, ...], splits: Splits) -> None:
    """Write the lists and split files together, and the class names that the data has."""
    year = settings.years[0] if len(settings.years) == 1 else "2007"
    folder = make_folder(settings.lists_dir)
    paths = {split: folder / f"{year}_{split}.txt" for split in lists}
    texts = {paths[split]: list_text(lists[split], class_names) for split in lists if lists[split]}
    old = [path for path in paths.values() if path not in texts and path.exists()]
    if not settings.classes_path:
        texts[folder / f"{year}_classes.txt"] = "\n".join([*class_names, ""])
    write_together(texts | splits.files, old)
    for split, path in paths.items():
        print(f"{shorten(path)}: {len(lists[split])} of {len(splits.members[split])} images usable")
    for path in old:
        print(f"{path} is now {path.name}.old")


if __name__ == "__main__":
    gc.disable()  # it would walk again and again through all that is read
    run(main, AnnotationSettings)
