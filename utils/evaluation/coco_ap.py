"""COCO's figures, equal to pycocotools' to the last digit."""

from typing import NamedTuple

import numpy as np

from utils.evaluation.assignment import (ALL_AREAS, COCO_IOUS, FlatDetections, FlatObjects,
                                         match_coco)

RECALLS = np.linspace(0, 1, 101)
SIZES = {"all": ALL_AREAS, "small": (0, 32 ** 2), "medium": (32 ** 2, 96 ** 2),
         "large": (96 ** 2, 1e10)}  # square pixels, both ends belong to a range
LIMITS = (1, 10, 100)  # detections of an image and class that count
# COCO's twelve: name -> (AP or AR, IoU or None for the mean of all, size, detections that count).
FIGURES = {
    "AP50:95": ("AP", None, "all", 100), "AP50": ("AP", 0.5, "all", 100),
    "AP75": ("AP", 0.75, "all", 100), "AP small": ("AP", None, "small", 100),
    "AP medium": ("AP", None, "medium", 100), "AP large": ("AP", None, "large", 100),
    "AR 1": ("AR", None, "all", 1), "AR 10": ("AR", None, "all", 10),
    "AR 100": ("AR", None, "all", 100), "AR small": ("AR", None, "small", 100),
    "AR medium": ("AR", None, "medium", 100), "AR large": ("AR", None, "large", 100)}


class CocoResult(NamedTuple):
    """pycocotools' tables; -1 for a class without objects in a range of sizes.

    T IoUs (COCO_IOUS), R recalls (RECALLS), K classes, A sizes (SIZES), M limits (LIMITS).
    """

    precision: np.ndarray  # (T, R, K, A) with 100 detections an image and class
    recall: np.ndarray  # (T, K, A, M)

    def figure(self, name: str, label: int | None = None) -> float:
        """Return one of FIGURES, of all classes or one of them; nan where there are no objects."""
        kind, iou, size, limit = FIGURES[name]
        area = list(SIZES).index(size)
        values = (self.precision[..., area] if kind == "AP"
                  else self.recall[..., area, LIMITS.index(limit)])
        if iou is not None:
            values = values[np.isclose(COCO_IOUS, iou)]
        if label is not None:
            values = values[..., label]
        values = values[values > -1]
        return float(np.mean(values)) if len(values) else float("nan")

    def figures(self) -> dict[str, float]:
        """Return COCO's twelve figures by name."""
        return {name: self.figure(name) for name in FIGURES}


def evaluate_coco(detections: FlatDetections, objects: FlatObjects, num_classes: int) -> CocoResult:
    """Score as pycocotools does; of equal scores, images of lower numbers (`image`) come first."""
    precision = np.full((len(COCO_IOUS), len(RECALLS), num_classes, len(SIZES)), -1.0)
    recall = np.full((len(COCO_IOUS), num_classes, len(SIZES), len(LIMITS)), -1.0)
    order, rank, all_matched, all_counted = match_coco(
        detections, objects, COCO_IOUS, list(SIZES.values()), LIMITS[-1])
    order = order[rank[order] < LIMITS[-1]]
    by_class = np.split(order, np.searchsorted(detections.labels[order], range(1, num_classes)))
    for area, (low, high) in enumerate(SIZES.values()):
        counted = all_counted[area]
        totals = np.bincount(objects.labels[counted], minlength=num_classes)
        inside = (detections.area >= low) & (detections.area <= high)
        for label in np.flatnonzero(totals):
            rows = by_class[label]
            matched = all_matched[:, area, rows]
            right = (matched >= 0) & np.append(counted, False)[matched]
            # Detections count by their own size, matched ones by that of their object.
            numbers = np.cumsum(np.where(matched >= 0, right, inside[rows]), 1)
            precision[:, :, label, area] = _interpolate(right, numbers, totals[label])
            for column, limit in enumerate(LIMITS):
                hits = right[:, rank[rows] < limit].sum(1)
                recall[:, label, area, column] = hits / totals[label]
    return CocoResult(precision, recall)


def _interpolate(right, numbers, total):
    """Return the (T, R) highest precision at each recall or a higher one, for `total` objects."""
    # Precision rises at right detections only, so the others are left out.
    best = np.zeros((len(right), len(RECALLS)))
    needed = np.searchsorted(np.arange(1, total + 1) / total, RECALLS)
    for row, (hits, number) in enumerate(zip(right, numbers)):
        number = number[hits]
        precision = np.arange(1, len(number) + 1) / (number + np.spacing(1))
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        reached = needed < len(number)
        best[row, reached] = highest[needed[reached]]
    return best
