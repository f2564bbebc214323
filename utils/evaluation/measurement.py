"""All figures of a set of detections, as values and as text."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.data.annotations import Record
from utils.evaluation.assignment import FlatDetections, assign_voc, flatten_records
from utils.evaluation.coco_ap import SIZES, CocoResult, evaluate_coco
from utils.evaluation.detection_files import image_ids
from utils.evaluation.errors import Errors, confusion_matrix, cost_of_errors, find_errors
from utils.evaluation.voc_ap import (VOC_IOU, ClassResult, at_confidence, best_f1, class_results,
                                     mean_ap, pooled_result)


class Measurement(NamedTuple):
    """What was measured by every rule, and what goes wrong."""

    class_names: Sequence[str]
    records: Sequence[Record]
    results: list[ClassResult]  # by class
    pooled: ClassResult  # of all classes as one
    coco: CocoResult
    errors: Errors
    ap50: float  # COCO's AP at IoU 0.5
    costs: dict[str, float]  # by how much it would rise
    confidence: float  # with the best F1 of all classes
    confusion: np.ndarray  # (K + 1, K + 1) counts above it, true by detected, background last


def measure(detections: FlatDetections, records: Sequence[Record], class_names: Sequence[str]
            ) -> Measurement:
    """Score the detections of records by the rules of VOC and COCO, and sort the errors."""
    objects, number = flatten_records(records), len(class_names)
    assignment, errors = assign_voc(detections, objects), find_errors(detections, objects)
    pooled = pooled_result(assignment)
    best = best_f1(pooled) or {"confidence": 0.0}
    id_rank = np.argsort(np.argsort(image_ids(records)))  # COCO's tools go by ids
    by_id = (boxes._replace(image=id_rank[boxes.image]) for boxes in (detections, objects))
    return Measurement(
        class_names, records, class_results(assignment, number), pooled,
        evaluate_coco(*by_id, number), errors, *cost_of_errors(errors, number),
        best["confidence"], confusion_matrix(detections, objects, number, best["confidence"]))


def as_values(measurement: Measurement, confidence: float) -> dict[str, Any]:
    """Return all figures for JSON, None for what has no meaning; `confidence` is predict.py's."""
    results, coco, errors = measurement.results, measurement.coco, measurement.errors
    classes = {
        name: {"objects": result.num_objects, "detections": result.num_detections,
               "ap_area": result.ap_area, "ap_11_point": result.ap_11_point,
               "ap_50_95": coco.figure("AP50:95", label),
               **{f"ap_{size}": coco.figure(f"AP {size}", label) for size in list(SIZES)[1:]},
               "at_confidence": at_confidence(result, confidence), "best_f1": best_f1(result)}
        for label, (name, result) in enumerate(zip(measurement.class_names, results))}
    kinds = {kind: {"count": len(errors.rows_of(kind)), "cost": cost}
             for kind, cost in measurement.costs.items()}
    values = {
        "iou": VOC_IOU, "images": len(measurement.records),
        "map_area": mean_ap(results), "map_11_point": mean_ap(results, "ap_11_point"),
        "coco": coco.figures(), "best_f1": best_f1(measurement.pooled), "classes": classes,
        "errors": {"ap50": measurement.ap50, **kinds},
        "confusion": {"confidence": measurement.confidence,
                      "true_by_found": [*measurement.class_names, "background"],
                      "matrix": measurement.confusion.tolist()}}
    return json.loads(json.dumps(values), parse_constant=lambda nan: None)


def format_results(results: Sequence[ClassResult], class_names: Sequence[str],
                   coco: CocoResult | None = None) -> str:
    """Return a table by class, as text: AP, COCO's if given, counts, and the best F1 and where."""
    rows = [["AP area", "AP 11pt", "objects", "found", "conf.", "best F1"]]
    for result in results:
        best = best_f1(result) or {"confidence": "-", "f1": "-"}
        rows.append([result.ap_area, result.ap_11_point, result.num_objects, result.num_detections,
                     best["confidence"], best["f1"]])
    rows.append([mean_ap(results), mean_ap(results, "ap_11_point"), "", "", "", ""])
    if coco:
        figures = [coco.figure("AP50:95", label) for label in range(len(class_names))]
        figures = ["AP50:95", *figures, coco.figure("AP50:95")]
        rows = [[*row, figure] for row, figure in zip(rows, figures)]
    names = ["class", *class_names, "mean"]
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}} " + "".join(f"{_number(value):>9}" for value in row)
                     for name, row in zip(names, rows))


def format_measurement(measurement: Measurement) -> str:
    """Return the figures as text: the table by class, COCO's twelve, and what to make of them."""
    results, class_names = measurement.results, measurement.class_names
    lines = [format_results(results, class_names, measurement.coco)]
    figures = [f"{name} {_number(value)}" for name, value in measurement.coco.figures().items()]
    lines += ["COCO: " + ", ".join(figures[:6]), "COCO: " + ", ".join(figures[6:])]
    absent = [name for name, result in zip(class_names, results) if not result.num_objects]
    if absent:
        lines.append(f"classes without objects, not in the mean: {', '.join(absent):.200}")
    best = best_f1(measurement.pooled)
    if best:
        lines.append(f"best F1 of all classes together: {best['f1']:.4f} (precision "
                     f"{best['precision']:.4f}, recall {best['recall']:.4f});\n"
                     f"  for predict.py: --confidence {best['confidence']:.3f}")
    if not mean_ap(results) > 0.05:
        lines.append("mAP is near 0: train longer, and look at report.html; if boxes fit there and "
                     "classes\n  do not, the order of the class names differs.")
    return "\n".join(lines)


def _number(value):
    """Return a figure as text, a dash where it has no meaning."""
    return f"{value:.4f}".replace("nan", "-") if isinstance(value, float) else str(value)
