"""Average precision as PASCAL VOC defines it, on arrays: no files, no plots."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from utils.data.annotations import Record
from utils.detections import Detections
from utils.evaluation.assignment import (Assignment, assign_voc, flatten_detections,
                                         flatten_records)

VOC_IOU = 0.5


class ClassResult(NamedTuple):
    """How well one class was detected."""

    ap_area: float  # area under the precision-recall curve (VOC 2010 and later); nan: no objects
    ap_11_point: float  # mean of 11 interpolated precisions (VOC 2007); nan: no objects
    num_objects: int  # without difficult ones
    num_detections: int
    scores: np.ndarray  # (D,) of the detections that count, highest first
    precision: np.ndarray  # (D,) at each of these scores
    recall: np.ndarray  # (D,); empty without objects


class OperatingPoint(NamedTuple):
    """What the detections that score more than a confidence achieve; nan: no meaning."""

    confidence: float
    f1: float  # harmonic mean of precision and recall
    precision: float
    recall: float


def evaluate_voc(detections: Sequence[Detections], records: Sequence[Record], num_classes: int, *,
                 iou_threshold: float = VOC_IOU) -> list[ClassResult]:
    """Score detections the way the VOC development kit does (see assignment.py).

    Args:
        detections: one an image, with boxes (N, 4) xyxy, scores (N,), labels (N,).
        records: one an image, in the same order; boxes in the same unit and origin.
        num_classes: without background.

    Returns:
        list of num_classes ClassResult.
    """
    if len(detections) != len(records):
        raise ValueError(f"{len(detections)} images of detections, {len(records)} records")
    return class_results(assign_voc(flatten_detections(detections), flatten_records(records),
                                    iou_threshold), num_classes)


def class_results(assignment: Assignment, num_classes: int) -> list[ClassResult]:
    """Return the ClassResult of each class."""
    labels = assignment.detections.labels[assignment.order]
    bounds = np.searchsorted(labels, np.arange(1, num_classes))
    totals = np.bincount(assignment.objects.labels[assignment.counted], minlength=num_classes)
    return [_result(assignment, rows, int(total))
            for rows, total in zip(np.split(assignment.order, bounds), totals)]


def pooled_result(assignment: Assignment) -> ClassResult:
    """Return the ClassResult of all classes taken as one: what one confidence for all achieves."""
    order = assignment.order
    order = order[np.argsort(-assignment.detections.scores[order], kind="stable")]
    return _result(assignment, order, int(assignment.counted.sum()))


def _result(assignment, order, num_objects):
    """Return the ClassResult of some detections, best score first, and a number of objects."""
    kept = order[~assignment.ignored[order]]
    precision, recall = precision_recall(assignment.matched[kept] >= 0, num_objects)
    area = points = float("nan")
    if num_objects:
        area, points = area_under_curve(precision, recall), eleven_points(precision, recall)
    return ClassResult(area, points, num_objects, len(order), assignment.detections.scores[kept],
                       precision, recall)


def at_confidence(result: ClassResult, confidence: float) -> OperatingPoint:
    """Return what the detections that score more than a confidence achieve."""
    kept = int((result.scores > confidence).sum())
    if not result.num_objects:
        return OperatingPoint(confidence, *[float("nan")] * 3)
    if not kept:
        return OperatingPoint(confidence, 0.0, float("nan"), 0.0)
    precision, recall = float(result.precision[kept - 1]), float(result.recall[kept - 1])
    return OperatingPoint(confidence, float(f1_score(precision, recall)), precision, recall)


def best_f1(result: ClassResult) -> OperatingPoint | None:
    """Return where F1 is highest, of confidences in thousandths; the highest one of equals.

    None for a class without objects, or none of them detected.
    """
    if not result.recall.any():
        return None
    # Just below each score, with room for its rounding; each one's figures are those of what
    # scores more than it.
    thousandths = np.unique(np.floor(result.scores.astype(np.float64) * 1000 - 1e-3))[::-1]
    confidences = thousandths / 1000
    last = np.searchsorted(-result.scores, -confidences.astype(result.scores.dtype)) - 1
    best = f1_score(result.precision[last], result.recall[last]).argmax()
    return at_confidence(result, float(confidences[best]))


def f1_score(precision: np.ndarray | float, recall: np.ndarray | float) -> np.ndarray | float:
    """Return the harmonic mean of precisions and recalls, 0 where both are 0."""
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def mean_ap(results: Sequence[ClassResult],
            rule: Literal["ap_area", "ap_11_point"] = "ap_area") -> float:
    """Return the mean AP over the classes that have objects; nan where none has."""
    values = [getattr(result, rule) for result in results if result.num_objects]
    return float(np.mean(values)) if values else float("nan")


def precision_recall(right: np.ndarray, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (precision, recall), each (D,), after each of D detections sorted by score.

    `right` is (D,) bool. Both are empty where there are no objects: recall has no meaning then.
    """
    if num_objects == 0:
        return np.zeros(0), np.zeros(0)
    hits = np.cumsum(right)
    return hits / np.arange(1, len(hits) + 1), hits / num_objects


def area_under_curve(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the area under the curve made monotone from the right; 0 for no detections."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * precision[1:]))


def eleven_points(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the mean of the best precision at recall >= 0, 0.1, .. 1 (VOC 2007)."""
    return mean_precision(precision, recall, np.arange(11) / 10)


def mean_precision(precision: np.ndarray, recall: np.ndarray, levels: np.ndarray) -> float:
    """Return the mean of the best precision at recall >= each of some levels."""
    highest = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(np.mean(highest[np.searchsorted(recall, levels)]))
