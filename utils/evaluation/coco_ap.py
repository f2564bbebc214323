"""COCO's figures, equal to pycocotools' to the last digit."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from utils.evaluation.assignment import COCO_IOUS, Found, Objects, match_coco

RECALLS = np.linspace(0, 1, 101)
SIZES = {"all": (0, 1e10), "small": (0, 32 ** 2), "medium": (32 ** 2, 96 ** 2),
         "large": (96 ** 2, 1e10)}  # square pixels, both ends belong to a range
LIMITS = (1, 10, 100)  # detections of an image and class that count
AT_ONCE = 1_000_000  # detections; whole classes go through together up to this many
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


def evaluate_coco(found: Found, objects: Objects, num_classes: int) -> CocoResult:
    """Score detections as pycocotools does; images are in the order of its sorted ids."""
    precision = np.full((len(COCO_IOUS), len(RECALLS), num_classes, len(SIZES)), -1.0)
    recall = np.full((len(COCO_IOUS), num_classes, len(SIZES), len(LIMITS)), -1.0)
    for part, truth in _by_classes(found, objects, num_classes):
        _fill(part, truth, precision, recall)
    return CocoResult(precision, recall)


def _by_classes(found, objects, num_classes) -> Iterator[tuple[Found, Objects]]:
    """Yield the detections and objects of some classes at a time, so that memory is bounded."""
    counts = np.cumsum(np.bincount(found.labels, minlength=num_classes))
    if not len(counts) or counts[-1] <= AT_ONCE:
        yield found, objects
        return
    parts = counts // AT_ONCE
    for number in np.unique(parts):
        yield tuple(type(whole)(*(field[rows] for field in whole)) for whole in (found, objects)
                    for rows in [np.flatnonzero(parts[whole.labels] == number)])


def _fill(found, objects, precision, recall):
    """Write the columns of the classes that have objects."""
    matches = match_coco(found, objects, COCO_IOUS, list(SIZES.values()))
    order = matches.order[matches.rank[matches.order] < LIMITS[-1]]
    place = np.empty(len(found.labels), np.int64)
    place[order] = np.arange(len(order))
    classes = np.arange(precision.shape[2] + 1)
    starts = np.searchsorted(found.labels[order], classes)
    columns = np.searchsorted(found.labels[matches.rows], classes)
    for area, (low, high) in enumerate(SIZES.values()):
        counted = matches.counted[area]
        totals = np.bincount(objects.labels[counted], minlength=len(classes))
        inside = (found.area[order] >= low) & (found.area[order] <= high)
        for label in np.flatnonzero(totals):
            part = slice(columns[label], columns[label + 1])
            mine, rows = matches.matched[:, area, part], matches.rows[part]
            right = (mine >= 0) & np.append(counted, False)[mine]
            before = np.cumsum(inside[starts[label]:starts[label + 1]])
            # A matched detection counts by its object's size, the others by their own.
            change = np.where(mine >= 0, right.astype(np.int64) - inside[place[rows]], 0)
            numbers = before[place[rows] - starts[label]] + np.cumsum(change, 1)
            precision[:, :, label, area] = _interpolated(right, numbers, totals[label])
            for column, limit in enumerate(LIMITS):
                hits = right[:, matches.rank[rows] < limit].sum(1)
                recall[:, label, area, column] = hits / totals[label]


def _interpolated(right, numbers, total):
    """Return the (T, R) highest precision at each recall or a higher one.

    From (T, Q) right and how many detections count up to each one; only at right ones precision
    rises, so the others need not be looked at.
    """
    best = np.zeros((len(right), len(RECALLS)))
    reach = np.searchsorted(np.arange(1, total + 1) / total, RECALLS)
    for row, (hits, number) in enumerate(zip(right, numbers)):
        number = number[hits]
        precision = np.arange(1, len(number) + 1) / (number + np.spacing(1))
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        reached = reach < len(number)
        best[row, reached] = highest[reach[reached]]
    return best
