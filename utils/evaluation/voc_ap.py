"""Average precision as PASCAL VOC defines it, on arrays: no files, no plots."""

from typing import NamedTuple

import numpy as np

from utils.boxes import pairwise_iou

VOC_IOU = 0.5
WRONG, RIGHT, IGNORED = range(3)  # verdicts on a detection


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
    scores, verdicts, num_objects = [np.zeros(0)], [np.zeros(0, dtype=int)], 0
    for found, record in zip(detections, records, strict=True):
        mine, truth = found.labels == label, record.labels == label
        num_objects += int((~record.difficult[truth]).sum())
        order = np.argsort(-found.scores[mine], kind="stable")
        scores.append(found.scores[mine][order])
        verdicts.append(_judge(found.boxes[mine][order], record.boxes_px[truth],
                               record.difficult[truth], iou_threshold))
    scores, verdicts = np.concatenate(scores), np.concatenate(verdicts)
    order = np.argsort(-scores, kind="stable")
    order = order[verdicts[order] != IGNORED]
    precision, recall = precision_recall(verdicts[order] == RIGHT, num_objects)
    aps = [rule(precision, recall) if num_objects else float("nan")
           for rule in (area_under_curve, eleven_points)]
    return ClassResult(*aps, num_objects, len(scores), scores[order], precision, recall)


def _judge(boxes, truth, difficult, iou_threshold):
    """Return WRONG, RIGHT or IGNORED for each detection of a class in an image, best score first.

    Which detection takes an object depends on the order inside the image only, so it can be
    settled image by image.
    """
    verdicts = np.full(len(boxes), WRONG)
    if len(truth) == 0:
        return verdicts
    iou = pairwise_iou(np.asarray(boxes, np.float64), np.asarray(truth, np.float64))
    taken = np.zeros(len(truth), dtype=bool)
    for k, best in enumerate(iou.argmax(1)):
        if iou[k, best] < iou_threshold:
            continue
        if difficult[best]:
            verdicts[k] = IGNORED
        elif not taken[best]:
            verdicts[k], taken[best] = RIGHT, True
    return verdicts


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
    return float(np.mean([precision[recall >= level].max(initial=0)
                          for level in np.arange(11) / 10]))
