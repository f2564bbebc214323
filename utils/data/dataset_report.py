"""The dataset doctor's report: text for the screen, and one HTML file with images."""

from dataclasses import replace

import numpy as np

from utils.multibox.boxes import area
from utils.cli import UserError
from utils.data.prior_fit import covered
from utils.data.samples import choose_samples, draw_record
from utils.data.sources import ProblemKind
from utils.image import boxes_to_input, load_image
from utils.page import Section, image_uri, new_figure, write_page
from utils.multibox.spec import TILES
from utils.tiling import boxes_in_windows, window_grid

SHOWN_PROBLEMS = 10  # of a kind on the screen; the HTML file has all
SAMPLES = 12  # images on the contact sheet
# Sides of objects in pixels of the network's input, as square roots of their areas.
SIZE_GROUPS = (("tiny, under 8 px", 0, 8), ("small, 8 to 32 px", 8, 32),
               ("medium, 32 to 96 px", 32, 96), ("large, over 96 px", 96, np.inf))
# Tiles to choose from, in sides of the network's input; of how many images the choice is made.
TILE_SCALES, TILE_RECORDS = (0.5, 0.75, 1, 1.5, 2, 3, 4, 6), 1000


def count_table(lists, class_names):
    """Return rows of images and objects by class and split, header first."""
    columns = [["class", *class_names, "all", "without objects"]]
    for split, records in lists.items():
        counts = np.array([np.bincount(record.labels, minlength=len(class_names))
                           for record in records], dtype=int).reshape(-1, len(class_names))
        background = int((counts.sum(1) == 0).sum())
        columns += [
            [f"{split} images", *(counts > 0).sum(0).tolist(), len(records), background],
            [f"{split} objects", *counts.sum(0).tolist(), int(counts.sum()), "-"]]
    return [list(map(str, row)) for row in zip(*columns)]


def format_table(rows):
    """Return rows of strings as aligned lines, the first column to the left."""
    first, *others = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)])
                     for row in rows)


def by_kind(problems):
    """Return [(summary, problems)] of each kind that there is, in the order of ProblemKind."""
    groups = [(kind, [problem for problem in problems if problem.kind == kind])
              for kind in ProblemKind]
    return [(f"{len(mine)} x {kind} ({kind.decision})", mine) for kind, mine in groups if mine]


def format_problems(problems):
    """Return the problems by kind, the first of each kind in full."""
    lines = []
    for summary, mine in by_kind(problems):
        lines.append(summary)
        lines += [f"    {problem.where}: {problem.what}" for problem in mine[:SHOWN_PROBLEMS]]
        if len(mine) > SHOWN_PROBLEMS:
            lines.append(f"    and {len(mine) - SHOWN_PROBLEMS} more, all in the report")
    return "\n".join(lines) or "no problems found"


def objects_at_input(lists, facts, spec):
    """Return (boxes (N, 4) as fractions of the network's input, labels (N,)) of all splits.

    With a tile they are fractions of the window that counts, and may reach out of it.
    """
    boxes, labels = [np.zeros((0, 4))], [np.zeros(0, dtype=np.int64)]
    for records in lists.values():
        for record in records:
            width, height = facts[record.path].size
            if spec.tile:
                boxes.append(boxes_in_windows(record.boxes_px, (width, height), spec.tile))
            else:
                fractions = record.boxes_px / (width, height, width, height)
                boxes.append(boxes_to_input(fractions, width, height, spec))
            labels.append(record.labels)
    return np.concatenate(boxes), np.concatenate(labels)


def suggest_tile(lists, facts, spec, match_iou, *, seed=0):
    """Return (tile, share of objects covered, mean windows an image) of the best `tile`.

    That is the largest, with the fewest windows, of those that cover about as much as the best;
    0 where images are no larger than windows would be. Images without objects are left out, and
    large lists are judged by a sample.
    """
    records = [record for split in lists.values() for record in split if len(record.labels)]
    if len(records) > TILE_RECORDS:
        chosen = np.random.default_rng(seed).choice(len(records), TILE_RECORDS, replace=False)
        records = [records[k] for k in chosen]
    sizes = [facts[record.path].size for record in records]
    found = {}
    for tile in (0, *(round(spec.size * scale) for scale in TILE_SCALES)):
        if TILES[0] <= tile <= 0.8 * np.median([max(size) for size in sizes]) or not tile:
            tiled = replace(spec, tile=tile)
            boxes, _ = objects_at_input({"": records}, facts, tiled)
            found[tile] = float(covered(boxes, tiled, match_iou).mean())
    best = max(tile for tile in found if found[tile] >= max(found.values()) - 0.02)
    best = 0 if found[0] >= found[best] else best
    windows = [len(window_grid(*size, best)[0]) if best else 1 for size in sizes]
    return best, found[best], float(np.mean(windows))


def coverage_table(boxes, labels, class_names, spec, match_iou):
    """Return rows of the share of objects whose best prior is a positive, by class and size."""
    has_prior = covered(boxes, spec, match_iou)
    sides = np.sqrt(area(boxes)) * spec.size
    groups = [(name, labels == label) for label, name in enumerate(class_names)]
    groups += [(name, (sides >= low) & (sides < high)) for name, low, high in SIZE_GROUPS]
    groups.append(("all", np.ones(len(boxes), dtype=bool)))
    return [["objects", "number", f"best prior IoU >= {match_iou:g}"],
            *([name, str(int(mask.sum())), f"{has_prior[mask].mean():.1%}" if mask.any() else "-"]
              for name, mask in groups)]


def plot_boxes(boxes, spec):
    """Return [(caption, figure)] of the distributions of box sizes and aspect ratios."""
    figure, axes = new_figure(f"Objects at {spec.size} x {spec.size}", "side in pixels", "objects")
    # Bins of their own: of equal numbers NumPy would make none.
    axes.hist(np.sqrt(area(boxes)) * spec.size, bins=np.linspace(0, spec.size, 61))
    for size in spec.anchors_size:
        axes.axvline(size, color="tab:orange", linewidth=1)
    other, axes = new_figure("Aspect ratios", "width / height, logarithmic", "objects")
    ratios = np.log2(np.divide(*(boxes[:, 2:] - boxes[:, :2]).T))
    axes.hist(ratios.clip(-3.5, 3.5), bins=np.linspace(-3.5, 3.5, 57))
    axes.set_xticks(range(-3, 4), ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    return [("sizes of the objects, as square roots of their areas; lines: sizes of the priors",
             figure), ("aspect ratios of the objects", other)]


def contact_sheet(lists, class_names, seed):
    """Return [(caption, PIL image)] of annotated samples, spread over the classes."""
    split_of = {record.path: split for split, records in lists.items() for record in records}
    records = [record for split in lists.values() for record in split]
    sheet = []
    for record in choose_samples(records, SAMPLES, seed=seed):
        try:
            image = load_image(record.path)
        except UserError:  # gone since it was inspected
            continue
        sheet.append((f"{split_of[record.path]}: {record.path.name}",
                      draw_record(record, image, class_names)))
    return sheet


def write_html(path, *, tables, problems, suggestion, figures, images):
    """Write the report as one file that needs no other.

    Args:
        path: Path.
        tables: {heading: rows}.
        problems: list of Problem.
        suggestion: text on priors.
        figures, images: lists of (caption, matplotlib figure or PIL image).

    Raises UserError where the file cannot be written.
    """
    kinds = [Section(summary, [["where", "what"],
                               *([problem.where, problem.what] for problem in of_kind)])
             for summary, of_kind in by_kind(problems)]
    sections = [*(Section(heading, rows) for heading, rows in tables.items()),
                Section("Better priors", text=suggestion),
                Section("Problems", text="" if kinds else "none", details=kinds),
                *(Section(heading, images=[(name, image_uri(item)) for name, item in items])
                  for heading, items in (("Boxes", figures), ("Samples", images)))]
    write_page(path, "Dataset report", [section for section in sections if any(section[1:])])
