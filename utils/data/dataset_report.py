"""The dataset doctor's report: text for the screen, and one HTML file with images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from utils.data.annotations import Record
from utils.data.doctor import Doctor
from utils.data.image_check import ImageFacts
from utils.data.prior_fit import covered, suggest_priors
from utils.data.samples import choose_samples, draw_record
from utils.data.sources import Problem, ProblemKind
from utils.image import boxes_to_input, load_image
from utils.multibox.boxes import area
from utils.multibox.spec import TILES, SSDSpec
from utils.page import Section, image_uri, new_figure, write_page
from utils.tiling import boxes_in_windows, window_grid

MATCH_IOU = 0.5  # a prior with this IoU is a positive, as train.py has it
SHOWN_PROBLEMS = 10  # of a kind on the screen; the HTML file has all
SAMPLES = 12  # images on the contact sheet
# Sides of objects in pixels of the network's input, as square roots of their areas.
SIZE_GROUPS = (("tiny, under 8 px", 0, 8), ("small, 8 to 32 px", 8, 32),
               ("medium, 32 to 96 px", 32, 96), ("large, over 96 px", 96, np.inf))
TILE_GAIN = 0.1  # a tile is advised where it covers this much more objects than better priors
TILE_SCALES = (0.5, 0.75, 1, 1.5, 2, 3, 4, 6)  # tiles to choose from, in sides of the input
TILE_RECORDS = 1000  # images that are enough to choose
Lists = Mapping[str, Sequence[Record]]  # split -> records
Rows = list[list[str]]  # of a table, header first
Images = dict[str, list[tuple[str, Figure | Image.Image]]]  # heading -> (caption, image)


def examine(lists: Lists, doctor: Doctor, spec: SSDSpec, paper: SSDSpec, *, seed: int
            ) -> tuple[dict[str, Rows], str, Images]:
    """Return ({heading: table}, advice on priors and tile, images) for a report.

    `spec` is the one to train, `paper` the same with the paper's priors.
    """
    names = doctor.class_names
    tables, advice = {"Images and objects": count_table(lists, names)}, ""
    samples = {"Samples": contact_sheet(lists, names, seed)}
    boxes, labels = objects_at_input(lists, doctor.facts, spec)
    if not len(boxes):
        return tables, advice, samples
    tables["Priors"] = coverage_table(boxes, labels, names, spec)
    images = {"Boxes": plot_boxes(boxes, spec)} | samples
    suggestion = suggest_priors(boxes, spec, paper, match_iou=MATCH_IOU, seed=seed)
    tile, share, windows = suggest_tile(lists, doctor.facts, spec)
    if not spec.tile and share > suggestion.after + TILE_GAIN:
        advice = (f"small objects in large images: tiles cover {share:.1%} of the objects instead "
                  f"of {suggestion.before:.1%}, for train.py:\n  tile = {tile}\n  (detection then "
                  f"takes {windows:.0f} times as long for an average image)\nwith it, ")
        spec, paper = replace(spec, tile=tile), replace(paper, tile=tile)
        boxes, _ = objects_at_input(lists, doctor.facts, spec)
        suggestion = suggest_priors(boxes, spec, paper, match_iou=MATCH_IOU, seed=seed)
    if suggestion.after > suggestion.before:
        advice += (f"priors that cover {suggestion.after:.1%} instead of {suggestion.before:.1%}, "
                   f"for train.py:\n  anchors_size = {suggestion.anchors_size}\n"
                   f"  aspect_ratios = {suggestion.aspect_ratios}")
    else:
        advice += f"these priors cover {suggestion.before:.1%} of the objects; no better were found"
    return tables, advice, images


def count_table(lists: Lists, class_names: Sequence[str]) -> Rows:
    """Return the numbers of images and objects by class and split."""
    columns = [["class", *class_names, "all", "without objects"]]
    for split, records in lists.items():
        counts = np.array([np.bincount(record.labels, minlength=len(class_names))
                           for record in records], dtype=int).reshape(-1, len(class_names))
        background = int((counts.sum(1) == 0).sum())
        columns += [
            [f"{split} images", *(counts > 0).sum(0).tolist(), len(records), background],
            [f"{split} objects", *counts.sum(0).tolist(), int(counts.sum()), "-"]]
    return [list(map(str, row)) for row in zip(*columns)]


def format_table(rows: Rows) -> str:
    """Return a table as aligned lines, the first column to the left."""
    first, *others = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)])
                     for row in rows)


def by_kind(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Return {summary: problems} of each kind that occurs, in the order of ProblemKind."""
    groups = {kind: [problem for problem in problems if problem.kind is kind]
              for kind in ProblemKind}
    return {f"{len(group)} x {kind.text} ({kind.decision})": group
            for kind, group in groups.items() if group}


def format_problems(problems: Sequence[Problem]) -> str:
    """Return the problems by kind, the first of each kind in full."""
    lines = []
    for summary, group in by_kind(problems).items():
        lines.append(summary)
        lines += [f"    {problem.where}: {problem.what}" for problem in group[:SHOWN_PROBLEMS]]
        if len(group) > SHOWN_PROBLEMS:
            lines.append(f"    and {len(group) - SHOWN_PROBLEMS} more, all in the report")
    return "\n".join(lines) or "no problems found"


def objects_at_input(lists: Lists, facts: Mapping[Path, ImageFacts], spec: SSDSpec
                     ) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes (N, 4), xyxy fractions of the network's input, and labels (N,) of all.

    With a tile they are fractions of the window that counts, and may reach out of it.
    """
    boxes, labels = [np.zeros((0, 4))], [np.zeros(0, dtype=np.int64)]
    for record in [record for records in lists.values() for record in records]:
        width, height = facts[record.path].size
        if spec.tile:
            boxes.append(boxes_in_windows(record.boxes_px, (width, height), spec.tile))
        else:
            fractions = record.boxes_px / (width, height, width, height)
            boxes.append(boxes_to_input(fractions, width, height, spec))
        labels.append(record.labels)
    return np.concatenate(boxes), np.concatenate(labels)


def suggest_tile(lists: Lists, facts: Mapping[Path, ImageFacts], spec: SSDSpec
                 ) -> tuple[int, float, float]:
    """Return (tile, share of objects covered, mean windows per image) of the best `tile`.

    That is the largest, with the fewest windows, of those that cover about as much as the best;
    0 where images are no larger than windows would be.
    """
    records = [record for split in lists.values() for record in split if len(record.labels)]
    records = records[::-(-len(records) // TILE_RECORDS)]
    sizes = [facts[record.path].size for record in records]
    largest, shares = 0.8 * np.median([max(size) for size in sizes]), {}
    for tile in (0, *(round(spec.size * scale) for scale in TILE_SCALES)):
        if tile == 0 or TILES[0] <= tile <= largest:
            tiled = replace(spec, tile=tile)
            boxes, _ = objects_at_input({"": records}, facts, tiled)
            shares[tile] = float(covered(boxes, tiled, MATCH_IOU).mean())
    best = max(tile for tile in shares if shares[tile] >= max(shares.values()) - 0.02)
    best = 0 if shares[0] >= shares[best] else best
    windows = [len(window_grid(*size, best)[0]) if best else 1 for size in sizes]
    return best, shares[best], float(np.mean(windows))


def coverage_table(boxes: np.ndarray, labels: np.ndarray, class_names: Sequence[str],
                   spec: SSDSpec) -> Rows:
    """Return the share of objects whose best prior is a positive, by class and size."""
    has_prior = covered(boxes, spec, MATCH_IOU)
    sides = np.sqrt(area(boxes)) * spec.size
    groups = [(name, labels == label) for label, name in enumerate(class_names)]
    groups += [(name, (sides >= low) & (sides < high)) for name, low, high in SIZE_GROUPS]
    groups.append(("all", np.ones(len(boxes), dtype=bool)))
    return [["objects", "number", f"best prior IoU >= {MATCH_IOU:g}"],
            *([name, str(int(mask.sum())), f"{has_prior[mask].mean():.1%}" if mask.any() else "-"]
              for name, mask in groups)]


def plot_boxes(boxes: np.ndarray, spec: SSDSpec) -> list[tuple[str, Figure]]:
    """Return (caption, figure) of the distributions of box sizes and of aspect ratios."""
    sizes, axes = new_figure(f"Objects at {spec.size} x {spec.size}", "side in pixels", "objects")
    axes.hist(np.sqrt(area(boxes)) * spec.size, bins=np.linspace(0, spec.size, 61))
    for size in spec.anchors_size:
        axes.axvline(size, color="tab:orange", linewidth=1)
    ratios, axes = new_figure("Aspect ratios", "width / height, logarithmic", "objects")
    sides = boxes[:, 2:] - boxes[:, :2]
    axes.hist(np.log2(sides[:, 0] / sides[:, 1]).clip(-3.5, 3.5), bins=np.linspace(-3.5, 3.5, 57))
    axes.set_xticks(range(-3, 4), ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    return [("sizes of the objects, as square roots of their areas; lines: sizes of the priors",
             sizes), ("aspect ratios of the objects", ratios)]


def contact_sheet(lists: Lists, class_names: Sequence[str], seed: int
                  ) -> list[tuple[str, Image.Image]]:
    """Return (caption, PIL image) of annotated samples, spread over the classes."""
    split_of = {record.path: split for split, records in lists.items() for record in records}
    records = [record for split in lists.values() for record in split]
    return [(f"{split_of[record.path]}: {record.path.name}",
             draw_record(record, load_image(record.path), class_names))
            for record in choose_samples(records, SAMPLES, seed=seed)]


def write_html(path: Path, tables: Mapping[str, Rows], problems: Sequence[Problem], advice: str,
               images: Images) -> None:
    """Write the report as one file that needs no other; UserError where it cannot be written."""
    details = [Section(summary, [["where", "what"],
                                 *([problem.where, problem.what] for problem in group)])
               for summary, group in by_kind(problems).items()]
    sections = [*(Section(heading, rows) for heading, rows in tables.items()),
                Section("Better priors", text=advice or "no objects"),
                Section("Problems", text="" if details else "none", details=details),
                *(Section(heading, images=[(caption, image_uri(image)) for caption, image in items])
                  for heading, items in images.items())]
    write_page(path, "Dataset report", sections)
