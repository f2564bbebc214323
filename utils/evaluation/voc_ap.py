"""Average precision as PASCAL VOC defines it, on arrays: no files, no plots."""

import math
from typing import NamedTuple

import numpy as np

from utils.evaluation.assignment import (Assignment, assign_voc, flatten_detections,
                                         flatten_records)

VOC_IOU = 0.5


class ClassResult(NamedTuple):
    """How well one class was found."""

    ap_area: float  # area under the precision-recall curve (VOC 2010 and later); nan: no objects
    ap_11_point: float  # mean of 11 interpolated precisions (VOC 2007); nan: no objects
    num_objects: int  # difficult ones left out
    num_detections: int
    scores: np.ndarray  # (D,) of the detections that count, highest first
    precision: np.ndarray  # (D,) at each of these scores
    recall: np.ndarray  # (D,); empty without objects


class BestF1(NamedTuple):
    """The confidence at which F1, the harmonic mean of precision and recall, is highest."""

    confidence: float  # three decimals, just below the score: boxes must be above it
    f1: float
    precision: float
    recall: float


def evaluate_voc(detections, records, num_classes, *, iou_threshold=VOC_IOU):
    """Score detections the way the VOC development kit does (see assignment.py).

    Args:
        detections: one an image, with NumPy fields boxes (N, 4) xyxy, scores (N,), labels (N,).
        records: one an image, in the same order, with boxes_px (G, 4) in the same unit and
            origin, labels (G,), difficult (G,).
        num_classes: without background.
        iou_threshold: 0.5 in VOC.

    Returns:
        list of num_classes ClassResult.
    """
    if len(detections) != len(records):
        raise ValueError(f"{len(detections)} images of detections, {len(records)} records")
    return class_results(assign_voc(flatten_detections(detections), flatten_records(records),
                                    iou_threshold), num_classes)


def class_results(assignment: Assignment, num_classes: int, *, row: int = 0) -> list[ClassResult]:
    """Return the ClassResult of each class at one of an assignment's thresholds."""
    bounds = np.searchsorted(assignment.found.labels[assignment.order], np.arange(num_classes + 1))
    objects = np.bincount(assignment.objects.labels[assignment.counted], minlength=num_classes)
    return [_result(assignment, assignment.order[start:stop], int(total), row)
            for start, stop, total in zip(bounds[:-1], bounds[1:], objects)]


def pooled_result(assignment: Assignment, *, row: int = 0) -> ClassResult:
    """Return the ClassResult of all classes taken as one: what one confidence for all does."""
    order = assignment.order[np.argsort(-assignment.found.scores[assignment.order], kind="stable")]
    return _result(assignment, order, int(assignment.counted.sum()), row)


def _result(assignment, order, num_objects, row):
    """Return the ClassResult of some detections, best score first, and a number of objects."""
    kept = order[~assignment.ignored[row, order]]
    precision, recall = precision_recall(assignment.matched[row, kept] >= 0, num_objects)
    aps = [rule(precision, recall) if num_objects else float("nan")
           for rule in (area_under_curve, eleven_points)]
    return ClassResult(*aps, num_objects, len(order), assignment.found.scores[kept], precision,
                       recall)


def best_f1(result: ClassResult) -> BestF1 | None:
    """Return where F1 is highest; None for a class without objects or none of them found.

    Detections of equal score come and go together. Of equal F1 the highest confidence counts.
    """
    scores, precision, recall = result.scores, result.precision, result.recall
    if not recall.any():
        return None
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    f1 = f1_score(precision[last], recall[last])
    best = last[f1.argmax()]
    return BestF1((math.ceil(float(scores[best]) * 1000) - 1) / 1000, float(f1.max()),
                  float(precision[best]), float(recall[best]))


def f1_score(precision, recall):
    """Return the harmonic mean of precisions and recalls, 0 where both are 0."""
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def mean_ap(results, field="ap_area"):
    """Return the mean AP over the classes that have objects; nan where none has."""
    values = [getattr(result, field) for result in results if result.num_objects]
    return float(np.mean(values)) if values else float("nan")


def precision_recall(right, num_objects):
    """Return (precision, recall), each (D,), after each of D detections sorted by score.

    Both are empty where there are no objects: recall has no meaning then.
    """
    if num_objects == 0:
        return np.zeros(0), np.zeros(0)
    hits = np.cumsum(right)
    return hits / np.arange(1, len(hits) + 1), hits / num_objects


def area_under_curve(precision, recall):
    """Return the area under the curve made monotone from the right (VOC 2010 and later).

    0 for no detections.
    """
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * precision[1:]))


def eleven_points(precision, recall):
    """Return the mean of the best precision at recall >= 0, 0.1, .. 1 (VOC 2007)."""
    return mean_precision(precision, recall, np.arange(11) / 10)


def mean_precision(precision, recall, levels):
    """Return the mean of the best precision at recall >= each of some levels."""
    highest = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(np.mean(highest[np.searchsorted(recall, levels)]))
