"""The page of a measurement: its figures, its curves, and the images behind the errors."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from utils.cli import UserError
from utils.data.samples import choose_window, draw_window
from utils.evaluation.errors import KINDS, ErrorKind
from utils.evaluation.measurement import Measurement
from utils.evaluation.voc_ap import f1_score
from utils.image import load_image
from utils.page import Section, image_uri, new_figure, write_page

MAX_EXAMPLES = 8  # images of a kind of error
DETECTED, TRUE = range(2)  # of two colours: red and cyan, which nearly all eyes tell apart
read_image = lru_cache(maxsize=8)(load_image)  # several examples may lie in one image


def plot_curves(measurement: Measurement) -> Figure:
    """Draw precision over recall and F1 over confidence, of every class that has objects."""
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, result in [("all classes as one", measurement.pooled),
                         *zip(measurement.class_names, measurement.results)]:
        if result.num_objects:
            left.plot(result.recall, result.precision, label=f"{name} {result.ap_area:.3f}")
            right.plot(result.scores, f1_score(result.precision, result.recall))
    left.set(title="Precision and recall at IoU 0.5", xlabel="recall", ylabel="precision")
    right.set(title="F1 at IoU 0.5", xlabel="confidence", ylabel="F1")
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    if 0 < len(left.lines) <= 25:
        left.legend(fontsize=8)
    return figure


def plot_errors(values: dict[str, Any]) -> Figure:
    """Draw what each kind of error costs, from the values of results.json."""
    figure, axes = new_figure("What each kind of error costs", "", "AP at IoU 0.5")
    rows = {kind.name.lower(): values["errors"][kind.name.lower()] for kind in KINDS}
    axes.bar([f"{name}\n{row['count']}" for name, row in rows.items()],
             [row["cost"] or 0 for row in rows.values()])  # None without objects
    return figure


def plot_confusion(values: dict[str, Any]) -> Figure:
    """Draw the confusion matrix, shaded by shares of a row, from the values of results.json."""
    confusion = values["confusion"]
    names, matrix = confusion["true_by_found"], np.array(confusion["matrix"])
    figure, axes = new_figure(f"Confusion above a confidence of {confusion['confidence']:g}",
                              "detected", "true")
    figure.set_size_inches(max(7, 2 + len(names) / 4), max(4.5, 2 + len(names) / 5))
    shares = matrix / matrix.sum(1, keepdims=True).clip(1)
    axes.grid(False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 6 else 0)
    axes.set_yticks(range(len(names)), names)
    if len(names) <= 21:
        for (row, column), share in np.ndenumerate(shares):
            axes.text(column, row, matrix[row, column] or "", ha="center", va="center",
                      color="white" if share > 0.5 else "black")
    return figure


def write_report(path: Path, title: str, measurement: Measurement, values: dict[str, Any],
                 origin: str) -> None:
    """Write the page as one HTML file that needs no other, under 10 MB.

    `values` are those of `as_values`; `origin` says which detections these are. Raises UserError
    where the file cannot be written.
    """
    write_page(path, title, [
        Section("Summary", _summary_rows(values), origin),
        Section("Classes", _class_rows(values), "APs by size: small are objects of up to 32 x 32 "
                "pixels of the image, medium up to 96 x 96. F1, precision and recall: above "
                "predict.py's confidence, then above the one with the best F1 of the class.",
                [("", image_uri(plot_curves(measurement)))]),
        Section("Kinds of error", _error_rows(values), "TIDE's kinds, over all detections. Each "
                "costs what COCO's AP at IoU 0.5 would rise by if that kind alone were corrected. "
                "The costliest examples: cyan is true, red is detected.",
                details=_error_examples(measurement)),
        Section("Confusion matrix", text="Row background: detected where nothing is. Column "
                "background: objects not found.",
                images=[("", image_uri(plot_confusion(values)))])])


def _summary_rows(values):
    """Return the table of the figures for all classes."""
    best = values["best_f1"] or {}
    rows = {"figure": "value",
            "mAP at IoU 0.5, area under the curve (VOC 2010 and later)": values["map_area"],
            "mAP at IoU 0.5, 11 points (VOC 2007)": values["map_11_point"],
            **{f"COCO's {name}": value for name, value in values["coco"].items()},
            "best F1 of all classes as one": best.get("f1"),
            "confidence with the best F1, for predict.py": best.get("confidence")}
    return [[name, _cell(value)] for name, value in rows.items()]


def _class_rows(values):
    """Return the table by class."""
    rows = [["class", "objects", "detections", "AP area", "AP 11pt", "AP50:95", "small", "medium",
             "large", "confidence", "F1", "precision", "recall", "confidence", "best F1",
             "precision", "recall"]]
    for name, row in values["classes"].items():
        *figures, at_confidence, best = row.values()
        best = best or dict.fromkeys(at_confidence)
        rows.append([name, *map(_cell, [*figures, *at_confidence.values(), *best.values()])])
    return rows


def _error_rows(values):
    """Return the table of the kinds of error."""
    rows = [["kind", "number", "cost"]]
    for kind in KINDS:
        row = values["errors"][kind.name.lower()]
        rows.append([f"{kind.name.lower()}: {kind.value}", _cell(row["count"]), _cell(row["cost"])])
    return rows


def _cell(value):
    """Return a figure for people, a dash where it has no meaning."""
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _error_examples(measurement):
    """Return Sections of the costliest images of each kind of error.

    False positives of the highest scores, and the largest objects missed of the rarest classes.
    """
    errors, objects = measurement.errors, measurement.assignment.objects
    detections, counts = errors.assignment.detections, np.bincount(objects.labels, minlength=1)
    sections = []
    for kind in KINDS:
        rows = errors.rows_of(kind)
        if kind is ErrorKind.MISSED:
            rows = rows[np.lexsort((-objects.area[rows], counts[objects.labels[rows]]))]
            pairs = [(-1, row) for row in rows[:MAX_EXAMPLES]]
        else:
            rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
            pairs = [(row, errors.target[row]) for row in rows[:MAX_EXAMPLES]]
        heading = (f"{kind.name.capitalize()}: {len(rows)}, costing "
                   f"{measurement.costs[kind]:.4f}; {kind.value}")
        images = []
        for pair in pairs:
            try:
                images.append(_draw_example(measurement, *pair))
            except UserError:  # a report without this image still has all figures
                continue
        sections.append(Section(heading, images=images))
    return sections


def _draw_example(measurement, row, target):
    """Return (caption, data URI) of one of the detections and one of the objects, by rows, or -1.

    All ground truth in view is drawn; those two have a text. Raises UserError for a bad image.
    """
    detections, objects = measurement.assignment.detections, measurement.assignment.objects
    names, marked = measurement.class_names, []  # (box, colour, text)
    if target >= 0:
        marked.append((objects.boxes[target], TRUE, f"true {names[objects.labels[target]]}"))
    if row >= 0:
        text = f"detected {names[detections.labels[row]]} {detections.scores[row]:.2f}"
        marked.append((detections.boxes[row], DETECTED, text))
    boxes, colours, texts = zip(*marked)
    index = detections.image[row] if row >= 0 else objects.image[target]
    path, context = measurement.records[index].path, objects.boxes[objects.image == index]
    image = read_image(path)
    height, width = image.shape[:2]
    extent = np.concatenate([np.min(boxes, 0)[:2], np.max(boxes, 0)[2:]])
    extent = extent.clip(0, (width, height, width, height))
    thumbnail = draw_window(
        image, choose_window(extent[None], width, height, zoom=2.2),
        np.concatenate([context, boxes]), [TRUE] * len(context) + [*colours],
        [""] * len(context) + [*texts], 2, side=256)
    return f"{path.name}: {', '.join(texts)}", image_uri(thumbnail)
