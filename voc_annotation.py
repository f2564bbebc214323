"""Turn annotations into the lists that train.py and get_map.py read, and examine them on the way.

Expects VOCdevkit/VOC2007/Annotations (XML) and VOCdevkit/VOC2007/JPEGImages; writes the splits to
ImageSets/Main, the lists 2007_train.txt, 2007_val.txt, 2007_test.txt, and dataset_report.html.
Run it again when images were added: old ones keep their split.
"""

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from tqdm import tqdm

from nets.backbones import BACKBONES
from nets.ssd import build_spec
from train import TrainSettings
from utils.cli import UserError, make_folder, resolve, run, shorten
from utils.data.annotations import list_text, nearest_name, read_class_names, write_together
from utils.data.dataset_report import (contact_sheet, count_table, coverage_table, format_problems,
                                       format_table, objects_at_input, plot_boxes, suggest_tile,
                                       write_html)
from utils.data.doctor import Doctor, check_classes, check_splits
from utils.data.image_check import inspect_images
from utils.data.layouts import read_parts
from utils.data.prior_fit import suggest_priors
from utils.data.sources import Annotation, Problem, ProblemKind, walk_files
from utils.data.splits import RECORD, SPLITS, fill_splits, voc_splits
from utils.data.voc import read_voc

# Windows are advised where they cover this much more of the objects than better priors alone.
TILE_GAIN = 0.1


@dataclass(frozen=True)
class AnnotationSettings:
    """Where the data is and how it is split."""

    # ---- The one line to edit ----

    # A text file with your class names, one a line, spelt as in the XML files.
    classes_path: str = "model_data/voc_classes.txt"

    # ---- Data ----

    # The folder that holds VOC2007.
    VOCdevkit_path: str = "VOCdevkit"
    # Several together as in ("2007", "2012"). VOC07+12 as in the papers, 16,551 images to train on
    # and 4,952 to test: these two years, train_on = "trainval", val_share = 0.
    years: tuple[str, ...] = ("2007",)
    # voc reads the folders above. coco, yolo and csv read annotation_path.
    annotation_format: Literal["voc", "coco", "yolo", "csv"] = "voc"
    # A COCO .json, a .csv, or a YOLO folder; or a folder with train, valid and test in it, as
    # Roboflow exports them; or COCO's own, with annotations, train2017 and val2017 in it.
    annotation_path: str = ""
    # Folder of the images of a .json or .csv file; "" is the folder of the file.
    images_path: str = ""
    # Where the lists and the report are written; "." is the repo itself.
    lists_dir: str = "."

    # ---- Splits ----

    # Share of the images that get_map.py measures on; the rest is for training. Data that comes
    # with a val split gets no other: then get_map.py is to measure on 2007_val.txt.
    test_share: float = 0.1
    # Share that train.py chooses the best epoch by; 0 for none.
    val_share: float = 0.1
    # trainval adds the val images of split files that came with the data to those to train on;
    # val_share of both together is then taken for val, anew whenever images come or go.
    train_on: Literal["train", "trainval"] = "train"
    # The same seed gives the same split of the same images.
    seed: int = 0
    # False keeps split files that are there already, such as VOC's own, and images where earlier
    # runs put them. True draws all anew; files not drawn here get .old behind their names.
    overwrite_splits: bool = False

    # ---- Checks ----

    # True stops on any problem instead of clipping boxes and leaving hopeless ones out.
    strict: bool = False

    # ---- The network that the report assumes: those of train.py, unless flags say otherwise ----

    input_shape: tuple[int, int] = TrainSettings.input_shape
    backbone: Literal[tuple(BACKBONES)] = TrainSettings.backbone
    tile: int = TrainSettings.tile
    letterbox_image: bool = TrainSettings.letterbox_image
    anchors_size: tuple[float, ...] = TrainSettings.anchors_size
    aspect_ratios: tuple[float, ...] = TrainSettings.aspect_ratios


class Source(NamedTuple):
    """What the settings point to."""

    annotations: dict[str, Annotation]
    splits: dict[str, list[str]]  # split -> keys, some of no readable annotation
    problems: list[Problem]
    files: dict[Path, str]  # split files to write together with the lists
    said: list[str]  # lines for the screen
    retired: list[Path]  # split files to get .old behind their names


def main(settings):
    """Read, split, examine, write, and say what was found."""
    check_settings(settings)
    specs = specs_to_examine(settings)
    class_names = read_class_names(settings.classes_path)
    annotations, splits, faults, files, said, retired = read_source(settings)
    used = {key for keys in splits.values() for key in keys}
    images = [item.image for key, item in annotations.items() if key in used and item.image]
    facts = inspect_images(images, num_threads=min(8, os.cpu_count() or 1), progress=partial(
        tqdm, total=len(set(images)), desc="images", disable=None))
    doctor = Doctor(class_names, facts, settings.input_shape[0], settings.tile)
    doctor.problems += faults
    lists = {name: [record for key in keys if key in annotations
                    and (record := doctor.record(annotations[key]))]
             for name, keys in splits.items()}
    check_splits(doctor, lists)
    check_classes(doctor, lists, class_names)
    report(settings, doctor, lists, class_names, specs)
    if settings.strict and doctor.problems:
        raise UserError(f"{len(doctor.problems)} problems and strict = True: no lists were "
                        "written.")
    write_lists(settings, lists, class_names, files, splits, retired)
    print("\n".join(said))


def check_settings(settings):
    """Raise UserError for settings that cannot work."""
    shares = (settings.test_share, settings.val_share)
    if not (min(shares) >= 0 and sum(shares) < 1):
        raise UserError("val_share and test_share must be at least 0 and below 1 together: got "
                        f"{settings.val_share} and {settings.test_share}.")
    if settings.seed < 0:
        raise UserError(f"seed must be at least 0, got {settings.seed}.")
    if len(set(settings.input_shape)) != 1:
        raise UserError("input_shape must be square, such as (300, 300), "
                        f"got {settings.input_shape}.")
    if settings.annotation_format != "voc" and not settings.annotation_path:
        raise UserError(f"annotation_format is {settings.annotation_format!r}; set annotation_path "
                        "to the file or folder.")
    if settings.annotation_format != "voc" and settings.train_on == "trainval":
        raise UserError("train_on = 'trainval' is for VOC folders; for others name the train and "
                        "val images together in annotation_path.")


def read_source(settings):
    """Return the Source that the settings point to."""
    if settings.annotation_format == "voc":
        return read_voc_years(settings)
    path = resolve(settings.annotation_path)
    images = resolve(settings.images_path) if settings.images_path else None
    annotations, splits, faults = {}, {name: [] for name in SPLITS}, []
    for name, items, problems in read_parts(settings.annotation_format, path, images):
        faults += problems
        keys = [f"{name}/{item.key}" for item in items]
        annotations |= dict(zip(keys, items))
        splits[name or "train"] += keys
    record = path / RECORD if path.is_dir() else path.with_name(f"{path.stem}_{RECORD}")
    found = fill_splits(splits, record, {"val": settings.val_share, "test": settings.test_share},
                        settings.seed, overwrite=settings.overwrite_splits)
    return Source(annotations, found.members, faults, found.files, found.said, [])


def read_voc_years(settings):
    """Return the Source of the VOC folders of all years together."""
    progress = partial(tqdm, desc="annotations", disable=None)
    shares = {"val": settings.val_share, "test": settings.test_share}
    source = Source({}, {name: [] for name in SPLITS}, [], {}, [], [])
    for year in settings.years:
        root = resolve(settings.VOCdevkit_path) / f"VOC{year}"
        items, problems = read_voc(root, progress)
        mine = {item.key: item for item in items}
        ids = list(mine)
        if any(problem.kind == ProblemKind.UNREADABLE_ANNOTATION for problem in problems):
            # These too: repaired, they are to have the split they had.
            ids = [name[:-4] for name in walk_files(root / "Annotations", (".xml",))]
        known = set(ids)
        found = voc_splits(root / "ImageSets" / "Main", ids, shares, settings.seed,
                           overwrite=settings.overwrite_splits,
                           whole=settings.train_on == "trainval")
        problems += [Problem(ProblemKind.SPLIT_NAMES_NOTHING, f"{name}.txt",
                             f"{key!r} has no readable XML file in Annotations")
                     for name, keys in found.members.items() for key in keys if key not in known]
        problems += [Problem(ProblemKind.IN_NO_SPLIT, f"{key}.xml",
                             "in no split file; to use it, add it to train.txt or another in "
                             "ImageSets/Main") for key in found.unlisted]
        source.problems.extend(problems)
        source.annotations.update({f"{year}/{key}": item for key, item in mine.items()})
        for name, keys in found.members.items():
            source.splits[name].extend(f"{year}/{key}" for key in keys)
        source.files.update(found.files)
        source.said.extend(found.said)
        source.retired.extend(found.retired)
    return source


def specs_to_examine(settings):
    """Return the SSDSpec that train.py would train, and the one with the paper's priors."""
    try:
        spec = paper = build_spec(settings.backbone, settings.input_shape[0],
                                  letterbox=settings.letterbox_image, tile=settings.tile)
        if settings.anchors_size:
            spec = replace(spec, anchors_size=settings.anchors_size)
        if settings.aspect_ratios:
            spec = replace(spec, aspect_ratios=(settings.aspect_ratios,) * len(paper.grids))
        return spec, paper
    except ValueError as error:
        raise UserError(f"{error}; change it in the settings.") from None


def report(settings, doctor, lists, class_names, specs):
    """Print the doctor's findings and write dataset_report.html."""
    (spec, paper), match_iou = specs, TrainSettings.match_iou
    boxes, labels = objects_at_input(lists, doctor.facts, spec)
    tables = {"Images and objects": count_table(lists, class_names)}
    text, figures = "", []
    if len(boxes):
        tables["Priors"] = coverage_table(boxes, labels, class_names, spec, match_iou)
        figures = plot_boxes(boxes, spec)
        search = partial(suggest_priors, match_iou=match_iou, seed=settings.seed)
        found = search(boxes, spec, paper)
        tile, share, windows = suggest_tile(lists, doctor.facts, spec, match_iou)
        if not spec.tile and share > found.after + TILE_GAIN:
            text = tile_text(tile, share, windows, found.before)
            spec, paper = replace(spec, tile=tile), replace(paper, tile=tile)
            found = search(objects_at_input(lists, doctor.facts, spec)[0], spec, paper)
        text += suggestion_text(found)
    for heading, rows in tables.items():
        print(f"\n{heading}\n{format_table(rows)}")
    print(text)
    print(f"\nProblems\n{format_problems(doctor.problems)}")
    for name, count in doctor.unknown.most_common():
        nearest = nearest_name(name, class_names)
        hint = f"; did you mean {nearest!r}?" if nearest else ""
        print(f"not in {settings.classes_path}: {name!r}, {count} objects left out{hint}")
    path = make_folder(settings.lists_dir) / "dataset_report.html"
    try:
        write_html(path, tables=tables, problems=doctor.problems,
                   suggestion=text, figures=figures,
                   images=contact_sheet(lists, class_names, settings.seed))
        print(f"report: {shorten(path)}\n")
    except UserError as error:  # the lists matter more
        print(f"no report: {error}\n")


def tile_text(tile, share, windows, before):
    """Return the advice to look at windows, in the form that train.py takes."""
    return (f"small objects in large images: windows cover {share:.1%} of the objects instead of "
            f"{before:.1%}, for train.py:\n  tile = {tile}\n  (detection then looks at "
            f"{windows:.0f} windows of an average image, which takes as many times as long)\n"
            "with it, ")


def suggestion_text(found):
    """Return what the search for better priors found, in the form that train.py takes."""
    if not found.after > found.before:
        return f"these priors cover {found.before:.1%} of the objects; no better ones were found"
    return (f"priors that cover {found.after:.1%} instead of {found.before:.1%}, for train.py:"
            f"\n  anchors_size = {found.anchors_size}\n"
            f"  aspect_ratios = {found.aspect_ratios}")


def write_lists(settings, lists, class_names, files, splits, retired):
    """Write the lists and split files together; refuse a list without any object."""
    for name, records in lists.items():
        if records and not any(len(record.labels) for record in records):
            raise UserError(f"the {name} split has no object of a known class in its "
                            f"{len(records)} images, so no list was written; check "
                            f"{settings.classes_path}, or set another seed where the split was "
                            "drawn.")
    if not lists["train"]:
        raise UserError("no usable image in the train split, so no list was written.")
    folder = make_folder(settings.lists_dir)
    paths = {name: folder / f"2007_{name}.txt" for name in lists}
    stale = [path for name, path in paths.items() if not lists[name] and path.is_file()]
    for path in files:
        make_folder(path.parent)
    texts = {paths[name]: list_text(records, class_names)
             for name, records in lists.items() if records}
    write_together(texts | files, [*stale, *retired])
    for name, path in paths.items():
        why = f" ({len(splits[name])} unusable, see the problems above)" * bool(splits[name])
        now = (f"; the {path.name} of an earlier run is now {path.name}.old" if path in stale
               else f", so no {path.name}")
        print(f"wrote {shorten(path)}: {len(lists[name])} images" if lists[name]
              else f"no images for the {name} split{why}{now}")


if __name__ == "__main__":
    run(main, AnnotationSettings)
