"""Average precision as PASCAL VOC defines it, on arrays: no files, no plots."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.data.annotations import Record
from utils.detections import Detections
from utils.evaluation.assignment import (Assignment, assign_voc, flatten_detections,
                                         flatten_records)

VOC_IOU = 0.5
# VOCap.m's 0:0.1:1. MATLAB counts from both ends: the fourth number is 3 * 0.1, just above 0.3.
# np.arange(0, 1.1, 0.1), which others take, is just above 0.6 and 0.7 too.
RECALLS_11 = np.concatenate([np.arange(6) * 0.1, 1 - np.arange(5)[::-1] * 0.1])


class ClassResult(NamedTuple):
    """How well one class was detected."""

    ap_area: float  # area under the precision-recall curve (VOC 2010 and later); nan: no objects
    ap_11_point: float  # mean of 11 interpolated precisions (VOC 2007); nan: no objects
    num_objects: int  # without difficult ones
    num_detections: int
    scores: np.ndarray  # (D,) of the detections that count, highest first
    precision: np.ndarray  # (D,) at each of these scores
    recall: np.ndarray  # (D,), 0 without objects


def evaluate_voc(detections: Sequence[Detections], records: Sequence[Record], num_classes: int, *,
                 iou_threshold: float = VOC_IOU) -> list[ClassResult]:
    """Return the ClassResult of each class, by the rules of the VOC development kit."""
    return class_results(assign_voc(flatten_detections(detections), flatten_records(records),
                                    iou_threshold), num_classes)


def class_results(assignment: Assignment, num_classes: int) -> list[ClassResult]:
    """Return the ClassResult of each class."""
    labels = assignment.detections.labels[assignment.order]
    by_class = np.split(assignment.order, np.searchsorted(labels, range(1, num_classes)))
    totals = np.bincount(assignment.objects.labels[assignment.counted], minlength=num_classes)
    results = []
    for rows, total in zip(by_class, totals.tolist()):
        kept = rows[~assignment.ignored[rows]]
        results.append(_result(assignment.detections.scores[kept], assignment.matched[kept] >= 0,
                               total, len(rows)))
    return results


def pooled_result(results: Sequence[ClassResult]) -> ClassResult:
    """Return the ClassResult of all classes taken as one: what one confidence for all achieves."""
    scores = np.concatenate([result.scores for result in results])
    right = np.concatenate([np.diff(result.recall, prepend=0.0) > 0 for result in results])
    order = np.argsort(-scores, kind="stable")
    return _result(scores[order], right[order], sum(result.num_objects for result in results),
                   sum(result.num_detections for result in results))


def _result(scores, right, num_objects, num_detections):
    """Return the ClassResult of the detections that count, best score first."""
    precision, recall = precision_recall(right, num_objects)
    area = points = float("nan")
    if num_objects:
        highest = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
        area = float(np.sum(np.diff(recall, prepend=0.0) * highest))
        points = mean_precision(precision, recall, RECALLS_11)
    return ClassResult(area, points, num_objects, num_detections, scores, precision, recall)


def at_confidence(result: ClassResult, confidence: float) -> dict[str, float]:
    """Return F1, precision and recall of detections above a confidence; nan: no meaning."""
    kept = int((result.scores > confidence).sum())
    precision = recall = f1 = float("nan")
    if kept and result.num_objects:
        precision, recall = float(result.precision[kept - 1]), float(result.recall[kept - 1])
        f1 = float(f1_score(precision, recall))
    elif result.num_objects:
        recall = f1 = 0.0
    return {"confidence": confidence, "f1": f1, "precision": precision, "recall": recall}


def best_f1(result: ClassResult) -> dict[str, float] | None:
    """Return `at_confidence` where F1 is highest, or None where nothing is found."""
    if not result.recall.any():
        return None
    scores = np.append(result.scores, result.scores.dtype.type(-np.inf))
    last = np.flatnonzero(scores[:-1] > scores[1:])  # of equal scores
    best = last[f1_score(result.precision[last], result.recall[last]).argmax()]
    return at_confidence(result, _shortest_number(scores[best + 1], scores[best]))


def _shortest_number(low, high):
    """Return the number of fewest decimals, 3 or more, in low <= number < high, in their dtype."""
    numbers = ((math.ceil(float(high) * 10 ** decimals - 1e-6) - 1) / 10 ** decimals
               for decimals in range(3, 12))
    return next((k for k in numbers if low <= high.dtype.type(k) < high), float(low))


def f1_score(precision: np.ndarray | float, recall: np.ndarray | float) -> np.ndarray | float:
    """Return the harmonic mean of precisions and recalls, 0 where both are 0."""
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def mean_ap(results: Sequence[ClassResult], rule: str = "ap_area") -> float:
    """Return the mean "ap_area" or "ap_11_point" of the classes with objects; nan where none is."""
    values = [getattr(result, rule) for result in results if result.num_objects]
    return float(np.mean(values)) if values else float("nan")


def precision_recall(right: np.ndarray, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (precision, recall), each (D,), after each of D detections, best score first."""
    hits = np.cumsum(right)
    return hits / np.arange(1, len(hits) + 1), hits / max(num_objects, 1)


def mean_precision(precision: np.ndarray, recall: np.ndarray, levels: np.ndarray) -> float:
    """Return the mean of the best precision at recall >= each of some levels."""
    highest = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(np.mean(highest[np.searchsorted(recall, levels)]))
