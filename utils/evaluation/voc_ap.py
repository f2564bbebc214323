"""Average precision as PASCAL VOC defines it, on arrays: no files, no plots."""

from typing import NamedTuple

import numpy as np

from utils.boxes import pairwise_iou

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


def evaluate_voc(detections, records, num_classes, *, iou_threshold=VOC_IOU):
    """Score detections the way the VOC development kit does.

    By class over the whole set, highest score first: a detection is right if the object it
    overlaps most has at least `iou_threshold` with it and was not found before. Detections of
    difficult objects count neither way.

    Args:
        detections: one an image, with NumPy fields boxes (N, 4) xyxy, scores (N,), labels (N,).
        records: one an image, in the same order, with boxes_px (G, 4) in the same unit and
            origin, labels (G,), difficult (G,).
        num_classes: without background.
        iou_threshold: 0.5 in VOC.

    Returns:
        list of num_classes ClassResult.
    """
    return [_evaluate_class(detections, records, label, iou_threshold)
            for label in range(num_classes)]


def mean_ap(results, field="ap_area"):
    """Return the mean AP over the classes that have objects; nan where none has."""
    values = [getattr(result, field) for result in results if result.num_objects]
    return float(np.mean(values)) if values else float("nan")


def _evaluate_class(detections, records, label, iou_threshold):
    scores, right, counts, num_objects = [], [], [], 0
    for found, record in zip(detections, records, strict=True):
        truth = record.labels == label
        difficult = record.difficult[truth]
        num_objects += int((~difficult).sum())
        mine = found.labels == label
        image_scores, boxes = found.scores[mine], found.boxes[mine]
        order = np.argsort(-image_scores, kind="stable")
        hit, ignored = _judge(boxes[order], record.boxes_px[truth], difficult, iou_threshold)
        scores.append(image_scores[order])
        right.append(hit)
        counts.append(~ignored)
    scores, right, counts = (np.concatenate(part) if part else np.zeros(0)
                             for part in (scores, right, counts))
    order = np.argsort(-scores, kind="stable")
    order = order[counts[order].astype(bool)]
    precision, recall = precision_recall(right[order].astype(bool), num_objects)
    area, points = float("nan"), float("nan")
    if num_objects:
        area, points = area_under_curve(precision, recall), eleven_points(precision, recall)
    return ClassResult(area, points, num_objects, len(scores), scores[order], precision, recall)


def _judge(boxes, truth, difficult, iou_threshold):
    """Return (right, ignored) masks for one image's detections of a class, best score first.

    Which detection takes an object depends on the order inside the image only, so it can be
    settled image by image.
    """
    right, ignored = np.zeros(len(boxes), dtype=bool), np.zeros(len(boxes), dtype=bool)
    if len(truth) == 0 or len(boxes) == 0:
        return right, ignored
    iou = pairwise_iou(np.asarray(boxes, np.float64), np.asarray(truth, np.float64))
    best, best_iou = iou.argmax(1), iou.max(1)
    taken = np.zeros(len(truth), dtype=bool)
    for k in np.flatnonzero(best_iou >= iou_threshold):
        if difficult[best[k]]:
            ignored[k] = True
        elif not taken[best[k]]:
            right[k] = taken[best[k]] = True
    return right, ignored


def precision_recall(right, num_objects):
    """Return (precision, recall), each (D,), after each of D detections sorted by score.

    Both are empty where there are no objects: recall has no meaning then.
    """
    if num_objects == 0:
        return np.zeros(0), np.zeros(0)
    found = np.cumsum(right)
    return found / np.arange(1, len(right) + 1), found / num_objects


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
    return float(np.mean([precision[recall >= level].max(initial=0)
                          for level in np.arange(11) / 10]))
