"""The dataset doctor's report, as sections of a page that are printed too."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from utils.data.annotations import Record
from utils.data.doctor import Doctor
from utils.data.prior_fit import covered, suggest_priors
from utils.data.samples import choose_samples, draw_record
from utils.data.sources import DECISIONS, Problem
from utils.image import boxes_to_input, load_image
from utils.multibox.boxes import area
from utils.multibox.spec import TILES, SSDSpec
from utils.page import Section, image_uri
from utils.tiling import boxes_in_windows

MATCH_IOU = 0.5  # a prior with this IoU is a positive, as train.py has it
SHOWN_PROBLEMS = 10  # of a kind on the screen; the page has all of them
SAMPLES = 12  # images on the contact sheet
SIZE_GROUPS = (("tiny, under 8 px", 0, 8), ("small, 8 to 32 px", 8, 32),
               ("medium, 32 to 96 px", 32, 96), ("large, over 96 px", 96, np.inf))  # roots of areas
TILE_GAIN = 0.1  # a tile is advised where it covers this much more objects than better priors
TILE_SCALES = (0.5, 0.75, 1, 1.5, 2, 3, 4, 6)  # tiles to choose from, in sides of the input
TILE_IMAGES = 1000  # images that are enough to choose
Objects = Sequence[tuple[np.ndarray, tuple[int, int]]]  # (G, 4) xyxy in pixels, (width, height)


def examine(lists: Mapping[str, Sequence[Record]], doctor: Doctor, spec: SSDSpec, paper: SSDSpec,
            *, seed: int) -> list[Section]:
    """Return the report's sections; `spec` is to be trained, and `paper` is it with its priors."""
    names = doctor.class_names
    sections = [Section("Images and objects", count_table(lists, names))]
    records = [record for split in lists.values() for record in split if len(record.labels)]
    if records:
        objects = [(record.boxes_px, doctor.facts[record.path].size) for record in records]
        labels = np.concatenate([record.labels for record in records])
        table = coverage_table(boxes_at_input(objects, spec), labels, names, spec)
        sections.append(Section("Priors", table, advise(objects, spec, paper, seed)))
    images = [(record.path.name, image_uri(draw_record(record, load_image(record.path), names)))
              for record in choose_samples(records, SAMPLES, seed=seed)]
    return [*sections, Section("Samples", images=images), problem_section(doctor.problems)]


def format_section(section: Section) -> str:
    """Return a section as text for the screen: aligned columns, the first problems of each kind."""
    lines = ["", section.heading]
    widths = [max(map(len, column)) for column in zip(*section.rows)]
    for row in section.rows:
        lines.append("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]))
    if section.text:
        lines.append(section.text)
    for part in section.details:
        lines += [part.heading, *(f"    {where}: {what}"
                                  for where, what in part.rows[1:SHOWN_PROBLEMS + 1])]
    return "\n".join(lines)


def problem_section(problems: Sequence[Problem]) -> Section:
    """Return the section that lists the problems by kind."""
    details = []
    for kind, decision in DECISIONS.items():
        rows = [[problem.where, problem.what] for problem in problems if problem.kind == kind]
        if rows:
            heading = f"{len(rows)} x {kind} ({decision})"
            details.append(Section(heading, [["where", "what"], *rows]))
    return Section("Problems", text="" if details else "no problems found", details=details)


def count_table(lists: Mapping[str, Sequence[Record]], class_names: Sequence[str]
                ) -> list[list[str]]:
    """Return the numbers of images and objects by class and split."""
    columns, classes = [["class", *class_names, "all", "without objects"]], range(len(class_names))
    for split, records in lists.items():
        labels = [record.labels.tolist() for record in records]
        images = Counter(label for members in labels for label in set(members))
        objects = Counter(label for members in labels for label in members)
        columns += [
            [f"{split} images", *(images[k] for k in classes), len(labels), labels.count([])],
            [f"{split} objects", *(objects[k] for k in classes), objects.total(), "-"]]
    return [list(map(str, row)) for row in zip(*columns)]


def coverage_table(boxes: np.ndarray, labels: np.ndarray, class_names: Sequence[str],
                   spec: SSDSpec) -> list[list[str]]:
    """Return the share of objects whose best prior is a positive, by class and size."""
    has_prior = covered(boxes, spec, MATCH_IOU)
    sides = np.sqrt(area(boxes)) * spec.size
    groups = [(name, labels == label) for label, name in enumerate(class_names)]
    groups += [(name, (sides >= low) & (sides < high)) for name, low, high in SIZE_GROUPS]
    rows = [["objects", "number", f"best prior IoU >= {MATCH_IOU:g}"]]
    for name, mask in [*groups, ("all", labels >= 0)]:
        rows.append([name, str(mask.sum()), f"{has_prior[mask].mean():.1%}" if mask.any() else "-"])
    return rows


def advise(objects: Objects, spec: SSDSpec, paper: SSDSpec, seed: int) -> str:
    """Return what the search for better priors, or for a tile, suggests for train.py."""
    boxes = boxes_at_input(objects, spec)
    suggestion = suggest_priors(boxes, spec, paper, match_iou=MATCH_IOU, seed=seed)
    before, after = f"{suggestion.before:.1%}", f"{suggestion.after:.1%}"
    tile, share = (0, 0.0) if spec.tile else suggest_tile(objects, spec)
    if tile and share > suggestion.after + TILE_GAIN:
        return (f"small objects in large images: tiles cover {share:.1%} of them instead of "
                f"{before}:\n  tile = {tile}\nset it here, run this again, and set it in train.py")
    if suggestion.after > suggestion.before:
        return (f"priors that cover {after} instead of {before}, for train.py:\n  anchors_size = "
                f"{suggestion.anchors_size}\n  aspect_ratios = {suggestion.aspect_ratios}")
    return f"these priors cover {before} of the objects; none cover more"


def boxes_at_input(objects: Objects, spec: SSDSpec) -> np.ndarray:
    """Return the (N, 4) boxes, xyxy in fractions of the network's input, or else of their tile."""
    return np.concatenate([
        boxes_in_windows(boxes_px, size, spec.tile) if spec.tile else
        boxes_to_input(boxes_px / (*size, *size), *size, spec) for boxes_px, size in objects])


def suggest_tile(objects: Objects, spec: SSDSpec) -> tuple[int, float]:
    """Return (tile, share of objects covered) of the largest tile that covers about the most."""
    objects = objects[::len(objects) // TILE_IMAGES + 1]
    largest, shares = 0.8 * np.median([max(size) for _, size in objects]), {}
    for tile in (0, *(round(spec.size * scale) for scale in TILE_SCALES)):
        if tile == 0 or TILES[0] <= tile <= largest:
            tiled = replace(spec, tile=tile)
            shares[tile] = covered(boxes_at_input(objects, tiled), tiled, MATCH_IOU).mean()
    best = max(tile for tile in shares if shares[tile] >= max(shares.values()) - 0.02)
    return (best, shares[best]) if shares[best] > shares[0] else (0, shares[0])
