"""All figures of a set of detections, as values and as text."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.data.annotations import Record
from utils.evaluation.assignment import FlatDetections, assign_voc, flatten_records
from utils.evaluation.coco_ap import SIZES, CocoResult, evaluate_coco
from utils.evaluation.confidence import best_confidence
from utils.evaluation.detection_files import image_ids
from utils.evaluation.errors import Errors, confusion_matrix, cost_of_errors, find_errors
from utils.evaluation.voc_ap import (VOC_IOU, ClassResult, at_confidence, best_f1, class_results,
                                     mean_ap, pooled_result)


class Measurement(NamedTuple):
    """What was measured by every rule, and what goes wrong."""

    class_names: Sequence[str]
    records: Sequence[Record]
    by_iou: dict[float, list[ClassResult]]  # by threshold of VOC's rule, then by class
    results: list[ClassResult]  # by class, at the first threshold
    pooled: ClassResult  # of all classes as one, at the first threshold
    coco: CocoResult
    errors: Errors
    ap50: float  # COCO's AP at IoU 0.5
    costs: dict[str, float]  # by how much it would rise
    confidence: float  # that people use, else the one with the best F1 of all classes
    working_errors: Errors  # of the detections above it
    confusion: np.ndarray  # (K + 1, K + 1) counts of them, true by detected, background last


def measure(detections: FlatDetections, records: Sequence[Record], class_names: Sequence[str],
            ious: Sequence[float] = (VOC_IOU,), *, confidence: float | None = None) -> Measurement:
    """Score the detections of records by the rules of VOC and COCO, and sort the errors.

    `ious` are the thresholds of VOC's rule; COCO's figures and the errors have their own. None for
    a `confidence` is the one with the best F1.
    """
    objects, number = flatten_records(records), len(class_names)
    assignments = {iou: assign_voc(detections, objects, iou) for iou in ious}
    by_iou = {iou: class_results(assigned, number) for iou, assigned in assignments.items()}
    pooled = pooled_result(by_iou[ious[0]])
    if confidence is None:
        confidence = (best_f1(pooled) or {"confidence": 0.0})["confidence"]
    above = detections.scores > confidence
    working = FlatDetections(*(field[above] for field in detections))
    id_rank = np.argsort(np.argsort(image_ids(records)))  # COCO's tools go by ids
    by_id = (boxes._replace(image=id_rank[boxes.image]) for boxes in (detections, objects))
    errors = find_errors(detections, objects)
    return Measurement(
        class_names, records, by_iou, by_iou[ious[0]], pooled, evaluate_coco(*by_id, number),
        errors, *cost_of_errors(errors, number), confidence, find_errors(working, objects),
        confusion_matrix(working, objects, number))


def val_figures(results: Sequence[ClassResult], class_names: Sequence[str]) -> dict[str, Any]:
    """Return what train.py stores with the weights that had these results on val, in plain types.

    Detection takes the confidence of all classes, since ONNX's NMS has one threshold.
    """
    figures, confidence = {"val_map": mean_ap(results)}, best_confidence(results)
    if confidence is not None:
        figures |= {"confidence": confidence, "confidence_from": "best F1 on val",
                    "confidence_by_class": {name: best_confidence([result])
                                            for name, result in zip(class_names, results)}}
    return figures


def as_values(measurement: Measurement) -> dict[str, Any]:
    """Return all figures for JSON, None for what has no meaning."""
    coco, errors = measurement.coco, measurement.errors
    names, results = measurement.class_names, measurement.results

    def figures(result, label=None):
        return {"objects": result.num_objects, "detections": result.num_detections,
                "ap_area": result.ap_area, "ap_11_point": result.ap_11_point,
                "ap_50_95": coco.figure("AP50:95", label),
                **{f"ap_{size}": coco.figure(f"AP {size}", label) for size in list(SIZES)[1:]},
                "at_confidence": at_confidence(result, measurement.confidence),
                "best_f1": best_f1(result)}

    # Mean APs, but precision, recall and F1 of all classes as one.
    total = measurement.pooled._replace(ap_area=mean_ap(results),
                                        ap_11_point=mean_ap(results, "ap_11_point"))
    classes = {name: figures(result, label)
               for label, (name, result) in enumerate(zip(names, results))}
    kinds = {kind: {"count": len(errors.rows_of(kind)), "cost": cost}
             for kind, cost in measurement.costs.items()}
    values = {
        "iou": next(iter(measurement.by_iou)), "images": len(measurement.records),
        "map_area": total.ap_area, "map_11_point": total.ap_11_point, "coco": coco.figures(),
        "best_f1": best_f1(measurement.pooled), "classes": classes, "all_classes": figures(total),
        "by_iou": {f"{iou:g}": {
            "map_area": mean_ap(by_class), "map_11_point": mean_ap(by_class, "ap_11_point"),
            "ap_area": {name: result.ap_area for name, result in zip(names, by_class)}}
            for iou, by_class in measurement.by_iou.items()},
        "errors": {"ap50": measurement.ap50, **kinds},
        "confusion": {"confidence": measurement.confidence,
                      "true_by_found": [*names, "background"],
                      "matrix": measurement.confusion.tolist()}}
    return json.loads(json.dumps(values), parse_constant=lambda nan: None)


def figure_text(value: Any, decimals: int = 4) -> str:
    """Return a figure for people, a dash where it has no meaning."""
    if value is None or value != value:
        return "-"
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def format_results(results: Sequence[ClassResult], class_names: Sequence[str],
                   columns: Sequence[Sequence[str | float]] = ()) -> str:
    """Return a table by class, as text; `columns` add a heading, the classes' figures, a mean."""
    rows = [["AP area", "AP 11pt", "objects", "candidates", "conf.", "best F1"]]
    for result in results:
        best = best_f1(result) or {"confidence": "-", "f1": "-"}
        rows.append([result.ap_area, result.ap_11_point, result.num_objects, result.num_detections,
                     str(best["confidence"]), best["f1"]])
    rows.append([mean_ap(results), mean_ap(results, "ap_11_point"), "", "", "", ""])
    for column in columns:
        rows = [[*row, figure] for row, figure in zip(rows, column)]
    names = ["class", *class_names, "mean"]
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}} " + "".join(f" {figure_text(value):>10}" for value in row)
                     for name, row in zip(names, rows))


def format_measurement(measurement: Measurement) -> str:
    """Return the figures as text: the table by class, COCO's twelve, and what to make of them."""
    results, class_names = measurement.results, measurement.class_names
    columns = [[f"AP {iou:g}", *(result.ap_area for result in others), mean_ap(others)]
               for iou, others in [*measurement.by_iou.items()][1:]]
    columns += [["AP50:95", *(measurement.coco.figure("AP50:95", label)
                              for label in (*range(len(class_names)), None))]]
    lines = [format_results(results, class_names, columns)]
    figures = [f"{name} {figure_text(value)}" for name, value in measurement.coco.figures().items()]
    lines += ["COCO: " + ", ".join(figures[:6]), "COCO: " + ", ".join(figures[6:])]
    absent = [name for name, result in zip(class_names, results) if not result.num_objects]
    if absent:
        lines.append(f"classes without objects, not in the mean: {', '.join(absent):.200}")
    best = best_f1(measurement.pooled)
    used = at_confidence(measurement.pooled, measurement.confidence)
    for name, point in (("F1", used), ("best F1", best)) if best else ():
        lines.append(f"all classes together, at confidence {point['confidence']:g}: {name} "
                     "{1} (precision {2}, recall {3})".format(*map(figure_text, point.values())))
    if not mean_ap(results) > 0.05:
        lines.append("mAP is near 0: train longer, and look at report.html; if boxes fit there and "
                     "classes\n  do not, the order of the class names differs.")
    lines += [f"mAP@{iou:g} {mean_ap(by_class):.4f} (area), "
              f"{mean_ap(by_class, 'ap_11_point'):.4f} (11-point)"
              for iou, by_class in measurement.by_iou.items()]
    return "\n".join(lines)
