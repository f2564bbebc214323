"""The dataset doctor's report: text for the screen, and one HTML file with images."""

import base64
import html
import io
from collections import Counter

import numpy as np
from PIL import Image

from utils.data.doctor import KINDS
from utils.data.prior_fit import MATCH_IOU, best_ious
from utils.draw import draw_boxes
from utils.image import boxes_to_input, load_image
from utils.page import new_figure

SHOWN_PROBLEMS = 10  # of a kind on the screen; the HTML file has all
SAMPLES = 12  # images on the contact sheet
SAMPLE_SIDE = 320
# Sides of objects in pixels of the network's input, as square roots of their areas.
SIZE_GROUPS = (("tiny, under 8 px", 0, 8), ("small, 8 to 32 px", 8, 32),
               ("medium, 32 to 96 px", 32, 96), ("large, over 96 px", 96, np.inf))

STYLE = """body{font:15px/1.5 sans-serif;max-width:1080px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:2px 8px;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%}summary{cursor:pointer}"""


def count_table(lists, class_names):
    """Return rows of images and objects by class and split, header first."""
    rows = [["class", *(f"{split} {what}" for split in lists for what in ("images", "objects"))]]
    for label, name in enumerate(class_names):
        row = [name]
        for records in lists.values():
            counts = [int((record.labels == label).sum()) for record in records]
            row += [str(sum(count > 0 for count in counts)), str(sum(counts))]
        rows.append(row)
    row = ["all"]
    for records in lists.values():
        row += [str(len(records)), str(sum(len(record.labels) for record in records))]
    background = ["without objects"]
    for records in lists.values():
        background += [str(sum(len(record.labels) == 0 for record in records)), "-"]
    return [*rows, row, background]


def format_table(rows):
    """Return rows of strings as aligned lines, the first column to the left."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) if k == 0 else cell.rjust(width)
                               for k, (cell, width) in enumerate(zip(row, widths)))
                     for row in rows)


def format_problems(problems):
    """Return the problems by kind, the first of each kind in full."""
    lines = []
    for kind, decision in KINDS.items():
        mine = [problem for problem in problems if problem.kind == kind]
        if not mine:
            continue
        lines.append(f"{len(mine)} x {kind} ({decision})")
        lines += [f"    {problem.where}: {problem.what}" for problem in mine[:SHOWN_PROBLEMS]]
        if len(mine) > SHOWN_PROBLEMS:
            lines.append(f"    and {len(mine) - SHOWN_PROBLEMS} more, all in the report")
    return "\n".join(lines) or "no problems found"


def objects_at_input(lists, facts, spec):
    """Return (boxes (N, 4) as fractions of the network's input, labels (N,)) of all splits."""
    boxes, labels = [np.zeros((0, 4))], [np.zeros(0, dtype=np.int64)]
    for records in lists.values():
        for record in records:
            width, height = facts[record.path].size
            fractions = record.boxes_px / (width, height, width, height)
            boxes.append(boxes_to_input(fractions, width, height, spec))
            labels.append(record.labels)
    return np.concatenate(boxes), np.concatenate(labels)


def coverage_table(boxes, labels, class_names, spec):
    """Return rows of the share of objects whose best prior has IoU >= 0.5, by class and size."""
    covered = best_ious(boxes, spec) >= MATCH_IOU
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) * spec.size
    groups = [(name, labels == label) for label, name in enumerate(class_names)]
    groups += [(name, (sides >= low) & (sides < high)) for name, low, high in SIZE_GROUPS]
    groups.append(("all", np.ones(len(boxes), dtype=bool)))
    return [["objects", "number", f"best prior IoU >= {MATCH_IOU}"],
            *([name, str(int(mask.sum())), f"{covered[mask].mean():.1%}" if mask.any() else "-"]
              for name, mask in groups)]


def plot_boxes(boxes, spec):
    """Return a figure with the distributions of box sizes and aspect ratios."""
    figure, axes = new_figure(f"Objects at {spec.size} x {spec.size}", "side in pixels", "objects")
    sides = (boxes[:, 2:] - boxes[:, :2]) * spec.size
    axes.hist(np.sqrt(sides.prod(1)), bins=40)
    for size in spec.anchors_size:
        axes.axvline(size, color="tab:orange", linewidth=1)
    other, axes = new_figure("Aspect ratios", "width / height, logarithmic", "objects")
    axes.hist(np.log2(sides[:, 0] / sides[:, 1]), bins=40)
    axes.set_xticks(range(-3, 4), ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    return figure, other


def contact_sheet(lists, class_names, seed):
    """Return PIL images of annotated samples, spread over the splits and classes."""
    records = [record for records in lists.values() for record in records if len(record.labels)]
    order = np.random.default_rng(seed).permutation(len(records))
    shown, sheet = Counter(), []
    # Rarest classes first: they are where mistakes hide.
    for _ in range(min(SAMPLES, len(records))):
        k = min(order, key=lambda k: min(shown[int(label)] for label in records[k].labels))
        order = order[order != k]
        record = records[k]
        shown.update(set(record.labels.tolist()))
        texts = [class_names[label] + (" (difficult)" if hard else "")
                 for label, hard in zip(record.labels, record.difficult)]
        image = draw_boxes(load_image(record.path), record.boxes_px, record.labels, texts,
                           len(class_names))
        image.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE), Image.Resampling.BILINEAR)
        sheet.append(image)
    return sheet


def write_html(path, *, title, tables, problems, suggestion, figures, images):
    """Write the report as one file that needs no other.

    Args:
        path: Path.
        title: str.
        tables: {heading: rows}.
        problems: list of doctor.Problem.
        suggestion: text on priors.
        figures: matplotlib figures.
        images: PIL images.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for heading, rows in tables.items():
        parts.append(f"<h2>{html.escape(heading)}</h2>{_html_table(rows)}")
    parts.append(f"<pre>{html.escape(suggestion)}</pre><h2>Problems</h2>")
    for kind, decision in KINDS.items():
        mine = [problem for problem in problems if problem.kind == kind]
        if mine:
            rows = [["where", "what"], *([problem.where, problem.what] for problem in mine)]
            parts.append(f"<details><summary>{len(mine)} x {kind} ({decision})</summary>"
                         f"{_html_table(rows)}</details>")
    parts += ["<p>none</p>"] * (not problems) + ["<h2>Boxes</h2>"]
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=90, format="png")
        parts.append(_html_image(buffer, "png"))
    parts.append("<h2>Samples</h2>")
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=85)
        parts.append(_html_image(buffer, "jpeg"))
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><title>{html.escape(title)}</title>"
                    f"<style>{STYLE}</style>" + "\n".join(parts), encoding="utf-8")


def _html_table(rows):
    cells = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
             for tag, row in zip(["th"] + ["td"] * len(rows), rows)]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _html_image(buffer, kind):
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/{kind};base64,{data}">'
