"""All figures of a set of detections, as values and as text."""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.data.annotations import Record
from utils.evaluation.assignment import (Assignment, FlatDetections, assign_voc, flatten_records,
                                         overlapping_pairs)
from utils.evaluation.coco_ap import CocoResult, evaluate_coco
from utils.evaluation.detection_files import image_ids
from utils.evaluation.errors import (BACKGROUND, FOREGROUND, KINDS, ErrorKind, Errors,
                                     confusion_matrix, cost_of_errors, find_errors)
from utils.evaluation.voc_ap import (VOC_IOU, ClassResult, at_confidence, best_f1, class_results,
                                     mean_ap, pooled_result)

LOW_MAP = 0.05  # a mAP that needs an explanation


class Measurement(NamedTuple):
    """What was measured by every rule, and what goes wrong."""

    class_names: Sequence[str]
    records: Sequence[Record]
    assignment: Assignment  # by VOC's rule
    results: list[ClassResult]  # VOC's, by class
    pooled: ClassResult  # all classes as one
    coco: CocoResult
    errors: Errors
    ap50: float  # COCO's AP at IoU 0.5
    costs: dict[ErrorKind, float]  # by how much it would rise
    confidence: float  # with the best F1 of all classes
    confusion: np.ndarray  # (K + 1, K + 1) counts above it, true by detected, background last


def measure(detections: FlatDetections, records: Sequence[Record], class_names: Sequence[str]
            ) -> Measurement:
    """Score the detections of records by the rules of VOC and COCO, and sort the errors."""
    objects, number = flatten_records(records), len(class_names)
    assignment = assign_voc(detections, objects, VOC_IOU)
    pooled = pooled_result(assignment)
    errors, best = find_errors(detections, objects), best_f1(pooled)
    confidence = best.confidence if best else 0.0
    id_rank = np.argsort(np.argsort(image_ids(records)))  # COCO's tools go by ids
    by_id = (boxes._replace(image=id_rank[boxes.image]) for boxes in (detections, objects))
    return Measurement(
        class_names, records, assignment, class_results(assignment, number), pooled,
        evaluate_coco(*by_id, number), errors, *cost_of_errors(errors, number), confidence,
        confusion_matrix(detections, objects, number, confidence))


def as_values(measurement: Measurement, confidence: float) -> dict[str, Any]:
    """Return all figures in plain types for JSON; None stands for what has no meaning.

    `confidence` is the one that people look at images with.
    """
    coco, best, classes = measurement.coco, best_f1(measurement.pooled), {}
    for label, (name, result) in enumerate(zip(measurement.class_names, measurement.results)):
        class_best = best_f1(result)
        classes[name] = {
            "objects": result.num_objects, "detections": result.num_detections,
            "ap_area": result.ap_area, "ap_11_point": result.ap_11_point,
            "ap_50_95": coco.figure("AP50:95", label),
            **{f"ap_{size}": coco.figure(f"AP {size}", label)
               for size in ("small", "medium", "large")},
            "at_confidence": at_confidence(result, confidence)._asdict(),
            "best_f1": class_best and class_best._asdict()}
    values = {
        "iou": VOC_IOU, "images": len(measurement.records),
        "map_area": mean_ap(measurement.results),
        "map_11_point": mean_ap(measurement.results, "ap_11_point"), "coco": coco.figures(),
        "best_f1": best and best._asdict(), "classes": classes,
        "errors": {"ap50": measurement.ap50, "iou_foreground": FOREGROUND,
                   "iou_background": BACKGROUND,
                   **{kind.name.lower(): {"count": len(measurement.errors.rows_of(kind)),
                                          "cost": measurement.costs[kind]} for kind in KINDS}},
        "confusion": {"confidence": measurement.confidence, "iou": FOREGROUND,
                      "true_by_found": [*measurement.class_names, "background"],
                      "matrix": measurement.confusion.tolist()}}
    return json.loads(json.dumps(values), parse_constant=lambda nan: None)


def format_results(results: Sequence[ClassResult], class_names: Sequence[str],
                   coco: CocoResult | None = None) -> str:
    """Return a table by class, as text: AP, COCO's if given, counts, and the best F1 and where."""
    titles = ["AP area", "AP 11pt", "objects", "found", "conf.", "best F1"]
    rows = [("class", titles)]
    for name, result in zip(class_names, results):
        best = best_f1(result)
        rows.append((name, [result.ap_area, result.ap_11_point, result.num_objects,
                            result.num_detections, *(best[:2] if best else (math.nan, math.nan))]))
    rows.append(("mean", [mean_ap(results), mean_ap(results, "ap_11_point")]))
    if coco:
        labels = [*range(len(class_names)), None]
        figures = ["AP50:95", *(coco.figure("AP50:95", label) for label in labels)]
        rows = [(name, [*values[:2], figure, *values[2:]])
                for (name, values), figure in zip(rows, figures)]
    width = max(5, *map(len, class_names))
    return "\n".join(f"{name:<{width}} " + "".join(f"{_number(value):>9}" for value in values)
                     for name, values in rows)


def format_measurement(measurement: Measurement) -> str:
    """Return the figures as text: the table by class, COCO's twelve, and what to make of them."""
    results, class_names = measurement.results, measurement.class_names
    lines = [format_results(results, class_names, measurement.coco)]
    for kind in ("AP", "AR"):
        figures = {name: value for name, value in measurement.coco.figures().items()
                   if name.startswith(kind)}
        lines.append("COCO: " + ", ".join(f"{name} {_number(value)}"
                                          for name, value in figures.items()))
    unseen = [name for name, result in zip(class_names, results) if not result.num_objects]
    if unseen:
        lines.append(f"classes without objects, not in the mean: {', '.join(unseen):.200}")
    if not mean_ap(results) > LOW_MAP:
        lines.append(_explain(measurement.assignment))
    best = best_f1(measurement.pooled)
    if best:
        lines.append(f"best F1 of all classes together: {best.f1:.4f} at confidence "
                     f"{best.confidence:.3f} (precision {best.precision:.4f}, recall "
                     f"{best.recall:.4f});\n  for predict.py: --confidence {best.confidence:.3f}")
    return "\n".join(lines)


def _explain(assignment):
    """Return what was compared where mAP is near 0."""
    detections, objects = assignment.detections, assignment.objects
    ious = [overlapping_pairs(detections, objects, any_class=any_class)[2].max(initial=0)
            for any_class in (False, True)]
    return (f"mAP is near 0: {len(detections.scores)} detections of {assignment.counted.sum()} "
            f"objects, best score {detections.scores.max(initial=0):.3f}, best IoU "
            f"{ious[0]:.3f} with an object of the class, {ious[1]:.3f} with any.\n  Where both "
            "are low, train longer or check the list; where one is, the order of the classes.")


def _number(value):
    """Return a figure as text, a dash where it has no meaning."""
    return str(value) if isinstance(value, (int, str)) else (
        "-" if math.isnan(value) else f"{value:.4f}")
