"""The dataset doctor's report, as sections of a page that are printed too."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from utils.data.annotations import Record
from utils.data.doctor import Doctor, ImageFacts
from utils.data.prior_fit import covered, suggest_priors
from utils.data.samples import choose_samples, draw_record
from utils.data.sources import Problem, ProblemKind
from utils.image import boxes_to_input, load_image
from utils.multibox.boxes import area
from utils.multibox.spec import TILES, SSDSpec
from utils.page import Section, image_uri, new_figure
from utils.tiling import boxes_in_windows, window_grid

MATCH_IOU = 0.5  # a prior with this IoU is a positive, as train.py has it
SHOWN_PROBLEMS = 10  # of a kind on the screen; the page has all
SAMPLES = 12  # images on the contact sheet
# Sides of objects in pixels of the network's input, as square roots of their areas.
SIZE_GROUPS = (("tiny, under 8 px", 0, 8), ("small, 8 to 32 px", 8, 32),
               ("medium, 32 to 96 px", 32, 96), ("large, over 96 px", 96, np.inf))
TILE_GAIN = 0.1  # a tile is advised where it covers this much more objects than better priors
TILE_SCALES = (0.5, 0.75, 1, 1.5, 2, 3, 4, 6)  # tiles to choose from, in sides of the input
TILE_RECORDS = 1000  # images that are enough to choose
Lists = Mapping[str, Sequence[Record]]  # split -> records
Rows = list[list[str]]  # of a table, header first
Facts = Mapping[Path, ImageFacts]


def examine(lists: Lists, doctor: Doctor, spec: SSDSpec, paper: SSDSpec, *, seed: int
            ) -> list[Section]:
    """Return the sections of the report: counts, priors and advice on them, samples, problems.

    `spec` is the one to train, `paper` the same with the paper's priors.
    """
    boxes, labels = objects_at_input(lists, doctor.facts, spec)
    sections = [Section("Images and objects", count_table(lists, doctor.class_names))]
    if len(boxes):
        sections += [Section("Priors", coverage_table(boxes, labels, doctor.class_names, spec),
                             advise(lists, doctor.facts, boxes, spec, paper, seed)),
                     Section("Boxes", images=plot_boxes(boxes, spec))]
    return [*sections, Section("Samples", images=contact_sheet(lists, doctor.class_names, seed)),
            problem_section(doctor.problems)]


def format_section(section: Section) -> str:
    """Return a section as text for the screen: aligned columns, the first problems of each kind."""
    lines = ["", section.heading]
    if section.rows:
        first, *others = [max(map(len, column)) for column in zip(*section.rows)]
        lines += ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)])
                  for row in section.rows]
    if section.text:
        lines.append(section.text)
    for part in section.details:
        shown = part.rows[1:SHOWN_PROBLEMS + 1]
        lines += [part.heading, *(f"    {where}: {what}" for where, what in shown)]
        if len(part.rows) > len(shown) + 1:
            lines.append(f"    and {len(part.rows) - len(shown) - 1} more, all in the report")
    return "\n".join(lines)


def problem_section(problems: Sequence[Problem]) -> Section:
    """Return the section that lists the problems by kind, in the order of ProblemKind."""
    rows = {kind: [[problem.where, problem.what] for problem in problems if problem.kind is kind]
            for kind in ProblemKind}
    details = [Section(f"{len(found)} x {kind.text} ({kind.decision})", [["where", "what"], *found])
               for kind, found in rows.items() if found]
    return Section("Problems", text="" if details else "no problems found", details=details)


def count_table(lists: Lists, class_names: Sequence[str]) -> Rows:
    """Return the numbers of images and objects by class and split."""
    columns = [["class", *class_names, "all", "without objects"]]
    for split, records in lists.items():
        labels = [record.labels.tolist() for record in records]
        images = Counter(label for members in labels for label in set(members))
        objects = Counter(label for members in labels for label in members)
        classes = range(len(class_names))
        columns += [
            [f"{split} images", *(images[k] for k in classes), len(labels), labels.count([])],
            [f"{split} objects", *(objects[k] for k in classes), objects.total(), "-"]]
    return [list(map(str, row)) for row in zip(*columns)]


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


def advise(lists: Lists, facts: Facts, boxes: np.ndarray, spec: SSDSpec, paper: SSDSpec,
           seed: int) -> str:
    """Return what the search for better priors, and for a tile, suggests for train.py."""
    advice, suggestion = "", suggest_priors(boxes, spec, paper, match_iou=MATCH_IOU, seed=seed)
    tile, share, windows = suggest_tile(lists, facts, spec)
    if not spec.tile and share > suggestion.after + TILE_GAIN:
        advice = (f"small objects in large images: tiles cover {share:.1%} of the objects instead "
                  f"of {suggestion.before:.1%}, for train.py:\n  tile = {tile}\n  (detection then "
                  f"takes {windows:.0f} times as long for an average image)\nwith it, ")
        spec, paper = replace(spec, tile=tile), replace(paper, tile=tile)
        boxes, _ = objects_at_input(lists, facts, spec)
        suggestion = suggest_priors(boxes, spec, paper, match_iou=MATCH_IOU, seed=seed)
    if suggestion.after > suggestion.before:
        return (f"{advice}priors that cover {suggestion.after:.1%} instead of "
                f"{suggestion.before:.1%}, for train.py:\n  anchors_size = "
                f"{suggestion.anchors_size}\n  aspect_ratios = {suggestion.aspect_ratios}")
    return f"{advice}these priors cover {suggestion.before:.1%} of the objects; none cover more"


def objects_at_input(lists: Lists, facts: Facts, spec: SSDSpec) -> tuple[np.ndarray, np.ndarray]:
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


def suggest_tile(lists: Lists, facts: Facts, spec: SSDSpec) -> tuple[int, float, float]:
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


def plot_boxes(boxes: np.ndarray, spec: SSDSpec) -> list[tuple[str, str]]:
    """Return (caption, data URI) of the distributions of box sizes and of aspect ratios."""
    sizes, axes = new_figure(f"Objects at {spec.size} x {spec.size}", "side in pixels", "objects")
    axes.hist(np.sqrt(area(boxes)) * spec.size, bins=np.linspace(0, spec.size, 61))
    for size in spec.anchors_size:
        axes.axvline(size, color="tab:orange", linewidth=1)
    ratios, axes = new_figure("Aspect ratios", "width / height, logarithmic", "objects")
    sides = boxes[:, 2:] - boxes[:, :2]
    axes.hist(np.log2(sides[:, 0] / sides[:, 1]).clip(-3.5, 3.5), bins=np.linspace(-3.5, 3.5, 57))
    axes.set_xticks(range(-3, 4), ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    return [("square roots of the objects' areas; lines: the same of the priors", image_uri(sizes)),
            ("aspect ratios of the objects", image_uri(ratios))]


def contact_sheet(lists: Lists, class_names: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """Return (caption, data URI) of annotated samples, spread over the classes."""
    split_of = {record.path: split for split, records in lists.items() for record in records}
    records = [record for split in lists.values() for record in split]
    return [(f"{split_of[record.path]}: {record.path.name}",
             image_uri(draw_record(record, load_image(record.path), class_names)))
            for record in choose_samples(records, SAMPLES, seed=seed)]
