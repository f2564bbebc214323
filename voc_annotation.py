"""Turn annotations into the lists that train.py and get_map.py read, and examine them on the way.

Reads the folder that annotation_path names; writes 2007_train.txt, 2007_val.txt, 2007_test.txt and
dataset_report.html. When you run it again with more images, old ones keep their split.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from tqdm.contrib.concurrent import thread_map

from nets.backbones import BACKBONES
from nets.ssd import build_spec
from utils.cli import UserError, check_fields, make_folder, resolve, run, shorten
from utils.data.annotations import (NO_CLASSES, Record, list_text, read_class_names,
                                    write_together)
from utils.data.box_formats import BOX_FORMATS
from utils.data.dataset_report import examine, format_section
from utils.data.doctor import Doctor, inspect_image
from utils.data.layouts import SUFFIXES, Source, find_roots, read_source
from utils.data.sources import Annotation, Problem
from utils.data.splits import RECORD, SPLITS, Splits, fill_splits, split_files, voc_splits
from utils.multibox.spec import SSDSpec
from utils.page import write_page


@dataclass(frozen=True)
class AnnotationSettings:
    """Where the data is and how it is split."""

    # ---- The one line to edit ----
    # The folder of your images and annotations, or a COCO .json, or a .csv file.
    annotation_path: str = ""

    # ---- Data ----
    # A text file with your class names, one a line, as in the annotations; "" takes theirs.
    classes_path: str = ""
    # Without annotation_path: the folder that holds VOC2007.
    VOCdevkit_path: str = "VOCdevkit"
    # VOC07+12 as in the papers: ("2007", "2012"), train_on = "trainval", val_share = 0.
    years: tuple[str, ...] = ("2007",)
    # Data of val and test that has a folder or file of its own; a split in one folder is found.
    val_path: str = ""
    test_path: str = ""
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


def main(settings: AnnotationSettings) -> None:
    """Read and split the annotations, examine them, report, and write the lists."""
    check_fields(settings, {"val_share": (0, 1), "test_share": (0, 1)})
    spec, paper = specs_to_examine(settings)
    names = read_class_names(settings.classes_path) if settings.classes_path else ()
    sources = read_sources(settings)
    class_names = names or names_from_data(sources.values())
    for root, source in sources.items():
        print(f"{shorten(root)}: {len(source.annotations)} images of {source.form}",
              *source.messages, sep="\n")
    print(f"classes: {', '.join(class_names)}")
    annotations, splits, problems = split_sources(settings, sources)
    members = {split: [annotations[key] for key in keys if key in annotations]
               for split, keys in splits.members.items()}
    images = {item.image: None for items in members.values() for item in items if item.image}
    facts = thread_map(inspect_image, images, max_workers=8, desc="images", disable=None)
    doctor = Doctor(class_names, dict(zip(images, facts)), spec.size, spec.tile)
    doctor.problems += problems
    lists = {split: list(filter(None, map(doctor.record, members[split]))) for split in members}
    doctor.check_lists(lists)
    sections = examine(lists, doctor, spec, paper, seed=settings.seed)
    print("\n".join(format_section(section) for section in sections if not section.images))
    misspelt = unknown_names(doctor.unknown, class_names, lists)
    path = make_folder(settings.lists_dir) / "dataset_report.html"
    write_page(path, "Dataset report", sections)
    print(f"report: {shorten(path)}\n")
    if misspelt:
        raise UserError(f"{settings.classes_path}: {' '.join(misspelt)} Spell it as the annotations "
                        "do, or delete its line; no lists were written.")
    if settings.strict and doctor.problems:
        raise UserError(f"{len(doctor.problems)} problems and strict = True: no lists written.")
    write_lists(settings, lists, class_names, splits, doctor)


def specs_to_examine(settings: AnnotationSettings) -> tuple[SSDSpec, SSDSpec]:
    """Return the spec that train.py would train, and the same with the paper's priors."""
    try:
        spec = paper = replace(
            build_spec(settings.backbone, settings.input_shape[0]), tile=settings.tile,
            input_shape=settings.input_shape, letterbox=settings.letterbox_image)
        if settings.anchors_size:
            spec = replace(spec, anchors_size=settings.anchors_size)
        if settings.aspect_ratios:
            spec = replace(spec, aspect_ratios=(settings.aspect_ratios,) * len(paper.grids))
        return spec, paper
    except ValueError as error:
        raise UserError(f"{error}; change it in the settings.") from None


def read_sources(settings: AnnotationSettings) -> dict[Path, Source]:
    """Return {path: what it holds}: of annotation_path, or else of VOC's years."""
    def read(path):
        return read_source(path, settings.annotation_format, images_path=images,
                           box_format=settings.box_format, unlabelled=settings.unlabelled)

    images = resolve(settings.images_path) if settings.images_path else None
    others = {"val": settings.val_path, "test": settings.test_path}
    others = {split: resolve(path) for split, path in others.items() if path}
    if not settings.annotation_path:
        if others or settings.annotation_format not in ("auto", "voc"):
            raise UserError("set annotation_path, which names the data to train on.")
        roots = [resolve(settings.VOCdevkit_path) / f"VOC{year}" for year in settings.years]
        missing = [root for root in roots if not root.exists()]
        if missing:
            raise UserError(f"{missing[0]}: no such folder; set annotation_path to the folder of "
                            "your data, or VOCdevkit_path to the one that holds VOC2007.")
        return {root: read(root) for root in roots}
    if settings.VOCdevkit_path != AnnotationSettings.VOCdevkit_path:
        raise UserError("annotation_path and VOCdevkit_path name data both; set one of them.")
    path = resolve(settings.annotation_path)
    if not others:
        return {root: read(root) for root in find_roots(path)}
    source = read(path)
    for split, other_path in others.items():
        other = read(other_path)
        items = [item._replace(key=f"{split} {item.key}") for item in other.annotations]
        source = Source(source.form, source.annotations + items,
                        source.members | {split: [item.key for item in items]},
                        source.class_names + other.class_names,
                        source.problems + other.problems, source.messages + other.messages)
    return {path: source}


def names_from_data(sources: Sequence[Source]) -> tuple[str, ...]:
    """Return the classes that have objects, in the order of the data's own list, else sorted."""
    counts = Counter(thing.name for source in sources for item in source.annotations
                     for thing in item.objects or ())
    listed = [name for source in sources for name in source.class_names] or sorted(counts)
    names = tuple(name for name in dict.fromkeys(listed)
                  if counts[name] and name and name.lower() not in NO_CLASSES)
    if not names:
        raise UserError("the annotations hold no object of a class, so there is nothing to learn.")
    return names


def split_sources(settings: AnnotationSettings, sources: dict[Path, Source]
                  ) -> tuple[dict[str, Annotation], Splits, list[Problem]]:
    """Return the annotations of all sources by key, their splits, completed, and the problems."""
    shares = {"val": settings.val_share, "test": settings.test_share}
    annotations, problems, joined = {}, [], Splits({split: [] for split in SPLITS}, {}, [], [])
    for root, source in sources.items():
        by_key = {item.key: item for item in source.annotations}
        image_sets, problems = root / "ImageSets/Main", problems + source.problems
        has_split = source.members["val"] or source.members["test"]
        if split_files(image_sets) or (root / "Annotations").is_dir() and not has_split:
            splits = voc_splits(image_sets, [*by_key], shares, settings.seed,
                                overwrite=settings.overwrite_splits,
                                train_on_val=settings.train_on == "trainval")
            listed = set().union(*splits.members.values())
            problems += [Problem("split names nothing", f"ImageSets/Main: {key}",
                                 "no such XML file") for key in sorted(listed - set(by_key))]
            problems += [Problem("in no split", f"{key}.xml", "to use it, add it to train.txt")
                         for key in sorted(set(by_key) - listed)]
        else:
            record = root / RECORD if root.is_dir() else root.with_name(f"{root.stem}_{RECORD}")
            splits = fill_splits(source.members, record, shares, settings.seed,
                                 overwrite=settings.overwrite_splits)
        for split, members in splits.members.items():
            joined.members[split].extend(f"{root}/{key}" for key in members)
        annotations |= {f"{root}/{key}": item for key, item in by_key.items()}
        joined.files.update(splits.files)
        joined.retired.extend(splits.retired)
        joined.messages.extend(splits.messages)
    return annotations, joined, problems


def unknown_names(unknown: Counter[str], class_names: Sequence[str],
                  lists: dict[str, list[Record]]) -> list[str]:
    """Print the names that are not in the class list; return those that it spells otherwise."""
    labels = {label for records in lists.values() for record in records for label in record.labels}
    by_lower = {name.lower(): name for name in class_names}
    misspelt = []
    for name, count in unknown.most_common():
        nearest = get_close_matches(name.lower(), by_lower, n=1)
        hint = f"; did you mean {by_lower[nearest[0]]!r}?" if nearest else ""
        print(f"not in the class list: {name!r}, {count} objects left out{hint}")
        if nearest and class_names.index(by_lower[nearest[0]]) not in labels:
            misspelt.append(f"{by_lower[nearest[0]]!r} has no object; did you mean {name!r}, which has "
                            f"{count}?")
    return misspelt


def write_lists(settings: AnnotationSettings, lists: dict[str, list[Record]],
                class_names: tuple[str, ...], splits: Splits, doctor: Doctor) -> None:
    """Write the lists and split files together; refuse a list without any object."""
    for split, records in lists.items():
        if (records or split == "train") and not any(len(record.labels) for record in records):
            reason = "see the problems above, or try another seed"
            if doctor.unknown:
                reason = (f"{doctor.unknown.total()} objects are of classes that are not in "
                          f"{settings.classes_path or 'the data'}; correct that list")
            raise UserError(f"the {split} split has no usable object; {reason}. No list written.")
    year = settings.years[0] if len(settings.years) == 1 else "2007"
    folder = make_folder(settings.lists_dir)
    paths = {split: folder / f"{year}_{split}.txt" for split in lists}
    texts = {paths[split]: list_text(lists[split], class_names) for split in lists if lists[split]}
    old = splits.retired + [path for path in paths.values() if path not in texts and path.exists()]
    if not settings.classes_path:
        texts[folder / f"{year}_classes.txt"] = "\n".join([*class_names, ""])
    for path in splits.files:
        make_folder(path.parent)
    write_together(texts | splits.files, old)
    for split, path in paths.items():
        print(f"{shorten(path)}: {len(lists[split])} of {len(splits.members[split])} images usable")
    print("\n".join(splits.messages + [f"{path} is now {path.name}.old" for path in old]))


if __name__ == "__main__":
    run(main, AnnotationSettings)
