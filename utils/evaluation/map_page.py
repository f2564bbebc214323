"""The page of a measurement: its figures, and the images behind them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.annotations import Record
from utils.evaluation.assignment import Found, Objects
from utils.evaluation.coco_ap import SIZES, CocoResult
from utils.evaluation.errors import (BACKGROUND, FOREGROUND, KINDS, Confusion, ErrorKind, Errors,
                                     confuse, cost_of_errors, find_errors)
from utils.evaluation.gallery import (Scene, cell_id, draw_groups, fullest_cells,
                                      group_cells, group_errors)
from utils.evaluation.voc_ap import ClassResult, best_f1, mean_ap
from utils.page import Cell, Chart, Section, write_page

POINTS = 200  # of a curve on the page: one a pixel
WIDEST = 20  # classes of a confusion matrix that is shown whole


class Analysis(NamedTuple):
    """What goes wrong in a measurement."""

    errors: Errors
    base: float  # COCO's AP at IoU 0.5
    costs: dict[ErrorKind, float]  # by how much it would rise
    confusion: Confusion


def analyse(found: Found, objects: Objects, num_classes: int, confidence: float) -> Analysis:
    """Find the errors, what they cost, and what is confused above a confidence."""
    errors = find_errors(found, objects)
    return Analysis(errors, *cost_of_errors(errors, num_classes),
                    confuse(found, objects, num_classes, confidence))


def analysis_figures(analysis: Analysis, class_names: Sequence[str]) -> dict:
    """Return the figures of an Analysis for programs to read."""
    kinds = {kind.name.lower(): {"count": len(analysis.errors.chosen(kind)),
                                 "cost": analysis.costs[kind]} for kind in KINDS}
    confusion = analysis.confusion
    return {"errors": {"ap50": analysis.base, "iou_foreground": FOREGROUND,
                       "iou_background": BACKGROUND, "kinds": kinds},
            "confusion": {"confidence": confusion.confidence, "iou": FOREGROUND,
                          "rows": "true", "columns": "found",
                          "names": [*class_names, "background"],
                          "matrix": confusion.matrix.tolist()}}


class Measurement(NamedTuple):
    """What was measured by every rule, and by which thresholds."""

    class_names: Sequence[str]
    results: list[ClassResult]  # VOC's, by class
    pooled: ClassResult  # all classes as one
    coco: CocoResult
    confidence: float  # to look at images with
    scoring_confidence: float  # below which no detections were kept
    analysis: Analysis  # above the best confidence for all classes


def write_report(path: Path, title: str, it: Measurement, records: Sequence[Record]) -> None:
    """Write the page as one HTML file that needs no other, under 10 MB.

    `records` are those measured on, for their images; UserError where the file cannot be written.
    """
    analysis, objects = it.analysis, it.analysis.errors.assignment.objects
    scene = Scene(records, it.class_names, objects, analysis.confusion)
    galleries = draw_groups([*group_errors(scene, analysis.errors, analysis.costs),
                             *group_cells(scene)])
    kinds = len(ErrorKind)
    write_page(path, title, [
        _summary(it, len(records)),
        Section("Classes", _class_rows(it), charts=_charts(it)),
        Section("Sizes of objects", _size_rows(it, objects), text=(
            "COCO's AP50:95 by area: small up to 32 x 32 pixels of the image, medium up to 96 x "
            "96, large above.")),
        Section("Kinds of error", _error_rows(analysis), galleries=galleries[:kinds], text=(
            f"TIDE's kinds, over all detections. Each costs so much of COCO's AP at IoU "
            f"{FOREGROUND:g}, which is {_number(analysis.base)}: it would rise by that were this "
            "kind of error mended alone. The costliest examples are below: cyan is true, red is "
            "found.")),
        Section("Confusion matrix", _confusion_rows(analysis.confusion, it.class_names),
                galleries=galleries[kinds:], text=(
            f"Detections above a confidence of {analysis.confusion.confidence:g} (the best F1) at "
            f"IoU {FOREGROUND:g}, rows true, columns found. Row background: found where nothing "
            "is. Column background: objects not found.")),
    ])


def _summary(it, images):
    """Return the Section of the figures for all classes."""
    best = at_confidence(it.pooled, it.analysis.confusion.confidence)
    rows = [["figure", "value"],
            ["mAP at IoU 0.5, area under the curve (VOC 2010 and later)", mean_ap(it.results)],
            ["mAP at IoU 0.5, 11 points (VOC 2007)", mean_ap(it.results, "ap_11_point")],
            *([f"COCO's {name}", it.coco.figure(name)]
              for name in ("AP50:95", "AP50", "AP75", "AR 100")),
            ["images", images], ["objects that count", it.pooled.num_objects],
            ["detections", it.pooled.num_detections]]
    text = (f"The APs take all detections above a confidence of {it.scoring_confidence:g}. To look "
            f"at images, {best.confidence:g} gives the best F1, {_number(best.f1)}: recall "
            f"{_number(best.recall)}, precision {_number(best.precision)}.")
    return Section("Summary", [[name, _number(value)] for name, value in rows], text=text)


def _class_rows(it):
    """Return the table by class, with what the chosen and the best confidence do."""
    columns = ["recall", "precision", "F1"]
    rows = [["class", "objects", "detections", "AP area", "AP 11 points", "AP50:95",
             *(f"{name} at {it.confidence:g}" for name in columns), "best confidence",
             *(f"{name} there" for name in columns)]]
    for label, (name, result) in enumerate(zip(it.class_names, it.results)):
        best = best_f1(result)
        there = at_confidence(result, best.confidence if best else math.nan)
        rows.append([name, result.num_objects, result.num_detections, result.ap_area,
                     result.ap_11_point, it.coco.figure("AP50:95", label),
                     *at_confidence(result, it.confidence)[1:],
                     f"{best.confidence:g}" if best else "-", *there[1:]])
    return [[_number(cell) for cell in row] for row in rows]


def _charts(it):
    """Return the precision-recall and F1 curves of all classes together and of each."""
    charts = []
    for name, result in [("all classes as one", it.pooled), *zip(it.class_names, it.results)]:
        best = best_f1(result)
        if not best:
            continue
        f1 = 2 * result.precision * result.recall / np.maximum(
            result.precision + result.recall, 1e-12)
        charts += [Chart(f"{name}: AP {result.ap_area:.3f}", "recall", "precision",
                         _thin(result.recall, result.precision)),
                   Chart(f"{name}: best F1 {best.f1:.3f} at {best.confidence:g}", "confidence",
                         "F1", _thin(result.scores, f1), best.confidence)]
    return charts


def _thin(x, y):
    """Return the first point of a curve in each pixel of its x, and the last one of all."""
    places = np.flatnonzero(np.diff(np.round(x * POINTS), prepend=-1))
    return [(float(x[k]), float(y[k])) for k in (*places, -1)]


def _size_rows(it, objects):
    """Return AP and number of objects by class and size."""
    sizes = [size for size in SIZES if size != "all"]
    rows = [["class", *(f"{size}{what}" for size in sizes for what in (" AP", " objects"))]]
    for label, name in [(None, "all classes"), *enumerate(it.class_names)]:
        mine = ~objects.difficult & (True if label is None else objects.labels == label)
        row = [name]
        for size in sizes:
            low, high = SIZES[size]
            row += [it.coco.figure(f"AP {size}", label), int(
                (mine & (objects.area >= low) & (objects.area <= high)).sum())]
        rows.append([_number(cell) for cell in row])
    return rows


def _error_rows(analysis):
    """Return the table of the kinds of error, each leading to its examples."""
    return [["kind", "number", "costs"], *(
        [Cell(f"{kind.name.lower()}: {kind.value}", link=kind.name.lower()),
         str(len(analysis.errors.chosen(kind))), _number(analysis.costs[kind])]
        for kind in KINDS)]


def _confusion_rows(confusion, class_names):
    """Return the matrix, its cells leading to examples; of many classes the fullest cells."""
    matrix, names = confusion.matrix, [*class_names, "background"]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    cells = fullest_cells(matrix)
    table = [[Cell(count or "", shade=0.7 * share,
                   link=cell_id(row, column) * ([row, column] in cells))
              for column, (count, share) in enumerate(zip(matrix[row], shares[row]))]
             for row in range(len(names))]
    if len(class_names) <= WIDEST:
        return [["true \\ found", *names], *([name, *row] for name, row in zip(names, table))]
    return [["true", "found", "number"], *(
        [names[row], names[column], table[row][column]] for row, column in cells)]


def _number(value):
    """Return a number for people, a dash where there is none; texts as they are."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}"
    return str(value)


class At(NamedTuple):
    """What a confidence does to a class; nan where that has no meaning."""

    confidence: float
    recall: float
    precision: float
    f1: float


def at_confidence(result: ClassResult, confidence: float) -> At:
    """Return what the detections of a class that score more than a confidence find."""
    kept = int((result.scores > confidence).sum())
    if not result.num_objects:
        return At(confidence, *[math.nan] * 3)
    if not kept:
        return At(confidence, 0.0, math.nan, 0.0)
    recall, precision = float(result.recall[kept - 1]), float(result.precision[kept - 1])
    f1 = 2 * recall * precision / max(recall + precision, 1e-12)
    return At(confidence, recall, precision, f1)
