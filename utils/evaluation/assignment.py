"""Which detection matches which object: decided once for all images, classes and figures.

VOC's rule (VOCevaldet.m): a detection goes to the object of its class that it overlaps most, the
first of equals. If their IoU reaches the threshold, the highest-scoring such detection is a true
positive; the others are false positives and do not try the next best object. Detections of
difficult objects are ignored.

COCO's rule (pycocotools): a detection, in the order of scores, takes the object *still free* that
it overlaps most, the last of equals; objects that count come before those that do not. A crowd may
be taken many times, and its IoU is the share of the detection inside it. Objects outside the size
range are ignored as crowds are. Of an image and class only the 100 best detections count.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from utils.data.annotations import Record
from utils.detections import Detections
from utils.multibox.boxes import area

CHUNK = 65_536  # detections that are compared with objects at a time, to bound the memory
COCO_IOUS = np.linspace(0.5, 0.95, 10)
ALL_AREAS = (0.0, 1e10)  # square pixels, COCO's widest range
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # (P,) detection rows, object rows, IoUs


class FlatDetections(NamedTuple):
    """The detections of a set of images as flat arrays, in any order."""

    image: np.ndarray  # (D,) int, index of the record
    labels: np.ndarray  # (D,) int, index into the class names
    scores: np.ndarray  # (D,) float, finite
    boxes: np.ndarray  # (D, 4) float xyxy edges in pixels
    area: np.ndarray  # (D,) float64, width times height


class FlatObjects(NamedTuple):
    """The ground truth of a set of images as flat arrays, in any order."""

    image: np.ndarray  # (G,) int, index of the record
    labels: np.ndarray  # (G,) int
    boxes: np.ndarray  # (G, 4) float xyxy edges in pixels
    difficult: np.ndarray  # (G,) bool, VOC's difficult or COCO's iscrowd
    area: np.ndarray  # (G,) float64, width times height
    coco_area: np.ndarray  # (G,) float64, of the mask where the list has that; decides the size


class Assignment(NamedTuple):
    """The matches at one IoU. Columns go with the rows of `detections`."""

    detections: FlatDetections
    objects: FlatObjects
    matched: np.ndarray  # (D,) row of the object that a detection got, or -1
    ignored: np.ndarray  # (D,) bool, detections that count neither way
    counted: np.ndarray  # (G,) bool, the objects that are to be found
    order: np.ndarray  # (D,) rows of `detections` by class, in it best score first

    @property
    def not_found(self) -> np.ndarray:  # (G,) bool, the objects that count and no detection got
        return self.counted & ~np.isin(np.arange(len(self.counted)), self.matched)


def flatten_detections(detections: Sequence[Detections]) -> FlatDetections:
    """Return the Detections of a set, one an image, as flat arrays."""
    image, boxes, scores, labels = _join(detections)
    return FlatDetections(image, labels, scores, boxes, area(boxes.astype(np.float64)))


def flatten_records(records: Sequence[Record]) -> FlatObjects:
    """Return the objects of records as flat arrays."""
    image, boxes, labels, difficult = _join([record[1:4] for record in records])
    box_areas = area(boxes.astype(np.float64))
    areas = np.concatenate([np.full(len(record.labels), np.nan) if record.areas is None
                            else record.areas for record in records])
    areas = np.where(np.isnan(areas), box_areas, areas)
    return FlatObjects(image, labels, boxes, difficult, box_areas, areas)


def _join(images):
    """Return the index of the image of each row, and the arrays of all images joined."""
    counts = [len(boxes) for boxes, *_ in images]
    return np.repeat(np.arange(len(images)), counts), *map(np.concatenate, zip(*images))


def assign_voc(detections: FlatDetections, objects: FlatObjects, iou: float = 0.5) -> Assignment:
    """Assign by the rule of VOC at an IoU above 0."""
    order = sort_detections(detections)
    matched, ignored = np.full(len(order), -1), np.zeros(len(order), bool)
    best_iou, best_object = best_overlaps(overlapping_pairs(detections, objects), len(order))
    rows = order[best_iou[order] >= iou]
    candidates = best_object[rows]
    ignored[rows] = objects.difficult[candidates]
    best_row = np.full(len(objects.image), -1)
    best_row[candidates[::-1]] = rows[::-1]  # the best score of each object is written last
    matched[rows] = np.where(best_row[candidates] == rows, candidates, -1)
    return Assignment(detections, objects, matched, ignored, ~objects.difficult, order)


def assign_coco(detections: FlatDetections, objects: FlatObjects, iou: float = 0.5, *,
                max_detections: int = 100) -> Assignment:
    """Assign by the rule of COCO at an IoU above 0, objects of all sizes."""
    order, rank, (matched,), (counted,) = match_coco(
        detections, objects, [iou], [ALL_AREAS], max_detections)
    ignored = ~np.append(counted, True)[matched[0]] | (rank >= max_detections)
    return Assignment(detections, objects, matched[0], ignored, counted, order)


def sort_detections(detections: FlatDetections) -> np.ndarray:
    """Return the (D,) rows by class and score; of equal scores by image, then as given."""
    return np.lexsort((detections.image, -detections.scores, detections.labels.astype(np.uint16)))


def overlapping_pairs(detections: FlatDetections, objects: FlatObjects, *, any_class: bool = False,
                      crowds: bool = False, min_iou: float = 0.0) -> Pairs:
    """Return the pairs of one class and image with 0 < IoU >= min_iou, by detections, then objects.

    `any_class` pairs classes as well. With `crowds` the IoU with a difficult object is the share of
    the detection inside it.
    """
    classes = 1 + max(detections.labels.max(initial=0), objects.labels.max(initial=0))
    keys, object_keys = (boxes.image * classes + (0 if any_class else boxes.labels)
                         for boxes in (detections, objects))
    by_key = np.argsort(object_keys, kind="stable")
    first = np.searchsorted(object_keys, keys, sorter=by_key)
    counts = np.searchsorted(object_keys, keys, side="right", sorter=by_key) - first
    parts = []
    for chunk in np.array_split(np.arange(len(keys)), 1 + len(keys) // CHUNK):
        count = counts[chunk]
        rows = np.repeat(chunk, count)
        shift = np.repeat(first[chunk] - (np.cumsum(count) - count), count)
        object_rows = by_key[np.arange(len(rows)) + shift]
        iou = _iou(detections, rows, objects, object_rows, crowds)
        keep = (iou > 0) & (iou >= min_iou)
        parts.append((rows[keep], object_rows[keep], iou[keep]))
    return tuple(map(np.concatenate, zip(*parts)))


def _iou(detections, rows, objects, object_rows, crowds):
    """Return the (P,) float64 IoUs of pairs, computed as pycocotools and the VOC kit do."""
    x1, y1, x2, y2 = detections.boxes[rows].astype(np.float64, copy=False).T
    left, top, right, bottom = objects.boxes[object_rows].astype(np.float64, copy=False).T
    width = np.minimum(x2, right) - np.maximum(x1, left)
    height = np.minimum(y2, bottom) - np.maximum(y1, top)
    common = width * height
    union = detections.area[rows] + objects.area[object_rows] - common
    if crowds:
        union = np.where(objects.difficult[object_rows], detections.area[rows], union)
    return np.divide(common, union, out=np.zeros(len(rows)), where=(width > 0) & (height > 0))


def best_overlaps(pairs: Pairs, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ((D,) highest IoU, (D,) the first object with it or -1) of D = `number` detections."""
    rows, object_rows, iou = pairs
    best_iou, best_object = np.zeros(number), np.full(number, -1)
    np.maximum.at(best_iou, rows, iou)
    is_best = np.flatnonzero(iou == best_iou[rows])[::-1]  # the first of equals is written last
    best_object[rows[is_best]] = object_rows[is_best]
    return best_iou, best_object


def match_coco(detections: FlatDetections, objects: FlatObjects, ious: Sequence[float],
               area_ranges: Sequence[tuple[float, float]], max_detections: int
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Match by the rule of COCO at T IoUs in A ranges of areas (lowest, highest), both inside.

    A first round matches the best detection of every image and class, the next round the second
    best: none of a round compete, so that a round is one array operation. Returns the (D,) rows of
    detections by class, best score first; the (D,) position of each in its image and class, by
    score; the (T, A, D) rows of matched objects, or -1; (A, G) which objects count in a range.
    """
    ious = np.minimum(ious, 1 - 1e-10)  # as pycocotools
    order = sort_detections(detections)
    rank = _rank_in_image(detections, order)
    low, high = np.array(area_ranges).T[:, :, None]
    counted = ~objects.difficult & (objects.coco_area >= low) & (objects.coco_area <= high)
    matched = np.full((len(ious), len(counted), len(order)), -1, np.int32)
    taken = np.zeros((len(ious), len(counted), len(objects.image)), bool)
    rows, object_rows, iou = overlapping_pairs(detections, objects, crowds=True, min_iou=ious.min())
    by_round = np.lexsort((object_rows, iou, rows, rank[rows]))
    by_round = by_round[rank[rows[by_round]] < max_detections]
    rows, object_rows, iou = rows[by_round], object_rows[by_round], iou[by_round]
    for start, stop in pairwise(np.flatnonzero(np.diff(rank[rows], prepend=-1, append=-1))):
        targets, size = object_rows[start:stop], stop - start
        free = (iou[start:stop] >= ious[:, None])[:, None] & ~taken[:, :, targets]
        firsts = np.flatnonzero(np.diff(rows[start:stop], prepend=-1))
        # Of a detection's pairs the last free one is taken, objects that count before others.
        worth = (np.arange(1, size + 1) + counted[:, targets] * size).astype(np.int32)
        best = np.maximum.reduceat(np.where(free, worth, np.int32(0)), firsts, axis=-1)
        chosen = np.where(best > 0, targets[(best - 1) % size], -1)
        matched[:, :, rows[start:stop][firsts]] = chosen
        t, a, q = np.nonzero((chosen >= 0) & ~objects.difficult[chosen])
        taken[t, a, chosen[t, a, q]] = True
    return order, rank, matched, counted


def _rank_in_image(detections, order):
    """Return the (D,) position of detections in their image and class, by an order by class."""
    keys = detections.image * (1 + detections.labels.max(initial=0)) + detections.labels
    order = order[np.argsort(keys[order], kind="stable")]
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order)) - np.searchsorted(keys[order], keys[order])
    return rank
