"""The page of a measurement: its figures, and the images behind them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.annotations import Record
from utils.evaluation.assignment import Assignment, Found, Objects, assign_voc
from utils.evaluation.coco_ap import SIZES, CocoResult, evaluate_coco
from utils.evaluation.errors import (BACKGROUND, FOREGROUND, KINDS, Confusion, ErrorKind, Errors,
                                     confuse, cost_of_errors, find_errors)
from utils.evaluation.gallery import (Scene, cell_id, draw_groups, fullest_cells,
                                      group_cells, group_errors)
from utils.evaluation.voc_ap import (VOC_IOU, BestF1, ClassResult, best_f1, class_results,
                                     f1_score, mean_ap, pooled_result)
from utils.page import Cell, Chart, Section, write_page

POINTS = 200  # of a curve on the page: one a pixel
CLASS_FIGURES = {"ap_50_95": "AP50:95", "ap_small": "AP small", "ap_medium": "AP medium",
                 "ap_large": "AP large"}  # of COCO's, by class
WIDEST = 20  # classes of a confusion matrix that is shown whole


class Measurement(NamedTuple):
    """What was measured by every rule, and what goes wrong."""

    class_names: Sequence[str]
    images: int
    assignment: Assignment  # by VOC's rule
    results: list[ClassResult]  # VOC's, by class
    pooled: ClassResult  # all classes as one
    coco: CocoResult
    errors: Errors
    ap50: float  # COCO's AP at IoU 0.5
    costs: dict[ErrorKind, float]  # by how much it would rise
    confusion: Confusion  # above the confidence with the best F1 of all classes


def measure(found: Found, objects: Objects, class_names: Sequence[str], ids: Sequence[int]
            ) -> Measurement:
    """Score detections by the rules of VOC and COCO, and sort the errors.

    `ids` are those of the images in COCO's files: its tools go by them where scores are tied.
    """
    rank = np.argsort(np.argsort(ids))
    by_id = [part._replace(image=rank[part.image]) for part in (found, objects)]
    assignment, number = assign_voc(found, objects, VOC_IOU), len(class_names)
    pooled = pooled_result(assignment)
    errors, best = find_errors(found, objects), best_f1(pooled)
    return Measurement(
        class_names, len(ids), assignment, class_results(assignment, number), pooled,
        evaluate_coco(*by_id, number), errors, *cost_of_errors(errors, number),
        confuse(found, objects, number, best.confidence if best else 0.0))


def as_values(it: Measurement, confidence: float) -> dict:
    """Return all figures for programs to read; None stands for what has no meaning.

    `confidence` is the one that images are looked at with.
    """
    def known(value):
        return None if math.isnan(value) else value

    def by_class(label, result):
        figures = {"objects": result.num_objects, "detections": result.num_detections,
                   "ap_area": result.ap_area, "ap_11_point": result.ap_11_point,
                   **{key: it.coco.figure(name, label) for key, name in CLASS_FIGURES.items()}}
        return {**{key: known(value) for key, value in figures.items()},
                "at_confidence": known_parts(at_confidence(result, confidence)),
                "best_f1": known_parts(best_f1(result))}

    def known_parts(at):
        return at and {key: known(value) for key, value in at._asdict().items()}

    return {"iou": VOC_IOU, "images": it.images, "map_area": known(mean_ap(it.results)),
            "map_11_point": known(mean_ap(it.results, "ap_11_point")),
            "coco": {name: known(value) for name, value in it.coco.figures().items()},
            "best_f1": known_parts(best_f1(it.pooled)),
            "classes": {name: by_class(label, result) for label, (name, result) in enumerate(
                zip(it.class_names, it.results))},
            "errors": {"ap50": known(it.ap50), "iou_foreground": FOREGROUND,
                       "iou_background": BACKGROUND,
                       **{kind.name.lower(): {"count": len(it.errors.chosen(kind)),
                                              "cost": known(it.costs[kind])} for kind in KINDS}},
            "confusion": {"confidence": it.confusion.confidence, "iou": FOREGROUND,
                          "true_by_found": [*it.class_names, "background"],
                          "matrix": it.confusion.matrix.tolist()}}


def at_confidence(result: ClassResult, confidence: float) -> BestF1:
    """Return what the detections of a class find that score more than a confidence.

    nan where that has no meaning.
    """
    kept = int((result.scores > confidence).sum())
    if not result.num_objects:
        return BestF1(confidence, *[math.nan] * 3)
    recall, precision = (float(curve[kept - 1]) if kept else 0.0
                         for curve in (result.recall, result.precision))
    f1 = float(f1_score(precision, recall))
    return BestF1(confidence, f1, precision if kept else math.nan, recall)


def write_report(path: Path, title: str, it: Measurement, values: dict, *,
                 records: Sequence[Record], origin: str) -> None:
    """Write the page as one HTML file that needs no other, under 10 MB.

    `values` are those of `as_values`; `records` are those measured on, for their images; `origin`
    says which detections these are. UserError where the file cannot be written.
    """
    scene = Scene(records, it.class_names, it.assignment.objects, it.confusion)
    galleries = draw_groups([*group_errors(scene, it.errors, it.costs), *group_cells(scene)])
    best = best_f1(it.pooled)
    looking = (f"To look at images, a confidence of {best.confidence:g} gives the best F1 of all "
               f"classes together, {best.f1:.4f} (recall {best.recall:.4f}, precision "
               f"{best.precision:.4f})." if best else "No object was found.")
    write_page(path, title, [
        Section("Summary", _summary_rows(it, values), text=f"{origin} {looking}"),
        Section("Classes", _class_rows(values["classes"]), charts=_charts(it), text=(
            "Recall, precision and F1 at predict.py's confidence, and at the one with the best F1 "
            "of the class.")),
        Section("Sizes of objects", _size_rows(it), text=(
            "COCO's AP50:95 by area: small up to 32 x 32 pixels of the image, medium up to 96 x "
            "96, large above.")),
        Section("Kinds of error", _error_rows(it), galleries=galleries[:len(KINDS)], text=(
            f"TIDE's kinds, over all detections. COCO's AP at IoU {FOREGROUND:g} is "
            f"{_number(it.ap50)}; each kind costs what it would rise by were that kind alone "
            "mended. The costliest examples are below: cyan is true, red is found.")),
        Section("Confusion matrix", _confusion_rows(it.confusion, it.class_names),
                galleries=galleries[len(KINDS):], text=(
            f"Detections above a confidence of {it.confusion.confidence:g} (the best F1) at IoU "
            f"{FOREGROUND:g}, rows true, columns found. Row background: found where nothing is. "
            "Column background: objects not found."))])


def _summary_rows(it, values):
    """Return the table of the figures for all classes."""
    rows = {"figure": "value",
            "mAP at IoU 0.5, area under the curve (VOC 2010 and later)": values["map_area"],
            "mAP at IoU 0.5, 11 points (VOC 2007)": values["map_11_point"],
            **{f"COCO's {name}": values["coco"][name]
               for name in ("AP50:95", "AP50", "AP75", "AR 100")},
            "images": it.images, "objects that count": it.pooled.num_objects,
            "detections": it.pooled.num_detections}
    return [[name, _number(value)] for name, value in rows.items()]


def _class_rows(classes):
    """Return the table by class, with what the chosen and the best confidence do."""
    rows = [["class", "objects", "found", "AP area", "AP 11pt", "AP50:95",
             *["confidence", "F1", "precision", "recall"] * 2]]
    for name, of in classes.items():
        figures = [of[key] for key in ("objects", "detections", "ap_area", "ap_11_point",
                                       "ap_50_95")]
        rows.append([name, *figures, *of["at_confidence"].values(),
                     *(of["best_f1"].values() if of["best_f1"] else [None] * 4)])
    return [[_number(cell) for cell in row] for row in rows]


def _charts(it):
    """Return the precision-recall and F1 curves of all classes together and of each."""
    charts = []
    for name, result in [("all classes as one", it.pooled), *zip(it.class_names, it.results)]:
        best = best_f1(result)
        if not best:
            continue
        charts += [Chart(f"{name}: AP {result.ap_area:.3f}", "recall", "precision",
                         _thin(result.recall, result.precision)),
                   Chart(f"{name}: best F1 {best.f1:.3f} at {best.confidence:g}", "confidence",
                         "F1", _thin(result.scores, f1_score(result.precision, result.recall)),
                         best.confidence)]
    return charts


def _thin(x, y):
    """Return the first point of a curve in each pixel of its x, and the last one of all."""
    x = np.clip(x, 0, 1)  # scores of others may be of another range
    places = np.flatnonzero(np.diff(np.round(x * POINTS), prepend=-1))
    return [(float(x[k]), float(y[k])) for k in (*places, -1)]


def _size_rows(it):
    """Return AP and number of objects by class and size."""
    objects = it.assignment.objects
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


def _error_rows(it):
    """Return the table of the kinds of error, each leading to its examples."""
    return [["kind", "number", "costs"], *(
        [Cell(f"{kind.name.lower()}: {kind.value}", link=kind.name.lower()),
         str(len(it.errors.chosen(kind))), _number(it.costs[kind])] for kind in KINDS)]


def _confusion_rows(confusion, class_names):
    """Return the matrix, its cells leading to examples; of many classes the fullest cells."""
    matrix, names = confusion.matrix, [*class_names, "background"]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    cells = fullest_cells(matrix)
    linked = set(map(tuple, cells))

    def cell(row, column):
        return Cell(matrix[row, column] or "", shade=0.7 * shares[row, column],
                    link=cell_id(row, column) * ((row, column) in linked))

    if len(class_names) > WIDEST:
        return [["true", "found", "number"], *(
            [names[row], names[column], cell(row, column)] for row, column in cells)]
    return [["true \\ found", *names], *(
        [name, *(cell(row, column) for column in range(len(names)))]
        for row, name in enumerate(names))]


def _number(value):
    """Return a figure for people, a dash where it has no meaning; texts as they are."""
    if value is None or value != value:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
