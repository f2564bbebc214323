"""The page of a measurement: its figures, its curves, and the images behind the errors."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from utils.cli import UserError
from utils.data.samples import choose_window, draw_window
from utils.evaluation.errors import KINDS
from utils.evaluation.measurement import Measurement, figure_text
from utils.evaluation.voc_ap import f1_score
from utils.image import load_image
from utils.page import Section, image_uri, new_figure, write_page

MAX_EXAMPLES = 8  # images of a kind of error
DETECTED, TRUE = range(2)  # of two colours: red and cyan, which nearly all eyes tell apart


def plot_curves(measurement: Measurement) -> Figure:
    """Draw precision over recall and F1 over confidence, of every class that has objects."""
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    iou = next(iter(measurement.by_iou))
    names = ["all classes as one", *(f"{name} {result.ap_area:.3f}" for name, result in zip(
        measurement.class_names, measurement.results))]
    for name, result in zip(names, [measurement.pooled, *measurement.results]):
        if result.num_objects:
            left.plot(result.recall, result.precision, label=name)
            right.plot(result.scores, f1_score(result.precision, result.recall))
    left.set(title=f"Precision and recall at IoU {iou:g}", xlabel="recall", ylabel="precision")
    right.set(title=f"F1 at IoU {iou:g}", xlabel="confidence", ylabel="F1")
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    if 0 < len(left.lines) <= 25:
        left.legend(fontsize=8)
    return figure


def plot_confusion(values: dict[str, Any]) -> Figure:
    """Draw the confusion matrix, shaded by shares of a row, from the values of results.json."""
    confusion = values["confusion"]
    names, matrix = confusion["true_by_found"], np.array(confusion["matrix"])
    figure, axes = new_figure(f"Confusion above {confusion['confidence']}", "detected", "true")
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
    """Write the page, with `as_values` of the measurement and the origin of the detections."""
    write_page(path, title, [
        Section("Summary", _summary_rows(values), origin),
        Section("Classes", _class_rows(values), "Candidates are all detections. Small "
                "are objects of up to 32 x 32 pixels of the image, medium up to 96 x 96.",
                [("", image_uri(plot_curves(measurement)))]),
        Section("Kinds of error", _error_rows(values), "TIDE's kinds, over all detections. Each "
                "costs what COCO's AP at IoU 0.5 would rise by if that kind alone were corrected. "
                f"Examples are errors above a confidence of {measurement.confidence}, the highest "
                "scores first: cyan is true, red is detected.",
                details=[_error_examples(measurement, kind) for kind in KINDS]),
        Section("Confusion matrix", images=[("", image_uri(plot_confusion(values)))],
                text="Row background: detected where nothing is; column background: not found.")])


def _summary_rows(values):
    rows = {"figure": "value"}
    for iou, row in values["by_iou"].items():
        rows[f"mAP at IoU {iou}, area under the curve (VOC 2010 and later)"] = row["map_area"]
        rows[f"mAP at IoU {iou}, 11 points (VOC 2007)"] = row["map_11_point"]
    rows |= {f"COCO's {name}": value for name, value in values["coco"].items()}
    return [[name, figure_text(value)] for name, value in rows.items()]


def _class_rows(values):
    confidence = values["all_classes"]["at_confidence"]["confidence"]
    rows = [["class", "objects", "candidates", "AP area", "AP 11pt", "AP50:95", "small", "medium",
             "large", *(f"{name} above {confidence}" for name in ("F1", "precision", "recall")),
             "best F1", "precision", "recall", "above"]]
    for name, row in [*values["classes"].items(), ("all classes", values["all_classes"])]:
        *figures, at_confidence, best = row.values()
        best = best or {}
        figures += [part.get(key) for part in (at_confidence, best)
                    for key in ("f1", "precision", "recall")]
        rows.append([name, *map(figure_text, figures), str(best.get("confidence", "-"))])
    return rows


def _error_rows(values):
    rows = [[f"{kind}: {meaning}", *map(figure_text, values["errors"][kind].values())]
            for kind, meaning in KINDS.items()]
    return [["kind", "number", "cost"], *rows]


def _error_examples(measurement, kind):
    """Return a Section of errors: of the highest scores, or the largest objects missed."""
    errors = measurement.working_errors
    rows, detections, objects = errors.rows_of(kind), *errors.assignment[:2]
    worth = objects.area if kind == "missed" else detections.scores
    images = []
    for row in rows[np.argsort(-worth[rows], kind="stable")][:MAX_EXAMPLES]:
        pair = (-1, row) if kind == "missed" else (row, errors.target[row])
        with contextlib.suppress(UserError):  # without this image the report has all figures
            images.append(_draw_example(measurement, *pair))
    return Section(f"{kind.capitalize()}: {len(rows)}; {KINDS[kind]}", images=images)


def _draw_example(measurement, row, target):
    """Return (caption, data URI) of a detection and an object, by rows or -1, among the others."""
    detections, objects = measurement.working_errors.assignment[:2]
    names, word = measurement.class_names, "true" if row >= 0 else "missed"
    image = detections.image[row] if row >= 0 else objects.image[target]
    in_image = np.flatnonzero(objects.image == image)
    boxes, colours = objects.boxes[in_image], [TRUE] * len(in_image)
    texts = [f"{word} {names[objects.labels[k]]}" if k == target else "" for k in in_image]
    if row >= 0:
        boxes, colours = np.vstack([boxes, detections.boxes[row]]), [*colours, DETECTED]
        texts.append(f"detected {names[detections.labels[row]]} {detections.scores[row]:.2f}")
    path = measurement.records[image].path
    pixels = load_image(path)
    height, width = pixels.shape[:2]
    marked = boxes[[text != "" for text in texts]].clip(0, (width, height, width, height))
    extent = np.concatenate([marked[:, :2].min(0), marked[:, 2:].max(0)])[None]
    window = choose_window(extent, width, height, zoom=2.2)
    thumbnail = draw_window(pixels, window, boxes, colours, texts, 2, side=256)
    return f"{path.name}: {', '.join(filter(None, texts))}", image_uri(thumbnail)
