"""Which detection matches which object: decided once for all images, classes and figures.

VOC's rule (`assign_voc`; VOCevaldet.m): a detection goes to the object of its class that it
overlaps most, the first of equals. If their IoU reaches the threshold, the highest-scoring such
detection is a true positive; the others are false positives and do not try the next best object.
Detections of difficult objects are ignored. All detections count.

COCO's rule (`assign_coco`, `match_coco`; pycocotools): a detection, in the order of scores, takes
the object *still free* that it overlaps most, the last of equals; objects that count come before
those that do not. A crowd may be taken many times, and its IoU is the share of the detection inside
it. Objects outside the size range are ignored as crowds are, and so are unmatched detections
outside it. Of an image and class only the 100 best detections count.

Both take detections of equal score in the order of images, then of the input; an IoU equal to the
threshold is enough. A record's `difficult` is VOC's difficult for one rule, COCO's iscrowd for the
other.

Why other code reports other figures for the same detections: boxes without VOC's extra pixel (here
boxes are edges, see data/voc.py, and overlaps of edges equal the kit's); a second-best object tried
under VOC's name; difficult objects counted; a confidence of 0.05 or more, where weak detections
still add recall; the 11 points of VOC 2007 taken for the area, or COCO's 101 points for either;
classes without objects counted as 0 or 1; sizes from masks or from boxes.
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


class FlatDetections(NamedTuple):
    """The detections of a set of images as flat arrays, in any order."""

    image: np.ndarray  # (D,) int, index of the record
    labels: np.ndarray  # (D,) int, index into the class names
    scores: np.ndarray  # (D,) float, finite
    boxes: np.ndarray  # (D, 4) float xyxy edges in pixels
    area: np.ndarray  # (D,) float64, width times height

    def take(self, rows: np.ndarray) -> "FlatDetections":
        """Return some of the detections, by a mask or indices."""
        return FlatDetections(*(field[rows] for field in self))


class FlatObjects(NamedTuple):
    """The ground truth of a set of images as flat arrays, in any order."""

    image: np.ndarray  # (G,) int, index of the record
    labels: np.ndarray  # (G,) int
    boxes: np.ndarray  # (G, 4) float xyxy edges in pixels
    difficult: np.ndarray  # (G,) bool, VOC's difficult or COCO's iscrowd
    area: np.ndarray  # (G,) float64, width times height


class Assignment(NamedTuple):
    """The matches at one IoU. Columns go with the rows of `detections`."""

    detections: FlatDetections
    objects: FlatObjects
    matched: np.ndarray  # (D,) row of the object that a detection got, or -1
    ignored: np.ndarray  # (D,) bool, detections that count neither way
    counted: np.ndarray  # (G,) bool, the objects that are to be found
    order: np.ndarray  # (D,) rows of `detections` by class, in it best score first

    @property
    def true_positives(self) -> np.ndarray:  # (D,) bool
        return (self.matched >= 0) & ~self.ignored

    @property
    def false_positives(self) -> np.ndarray:  # (D,) bool
        return (self.matched < 0) & ~self.ignored

    @property
    def not_found(self) -> np.ndarray:  # (G,) bool, the objects that count and no detection got
        return self.counted & ~np.isin(np.arange(len(self.counted)), self.matched)


def flatten_detections(detections: Sequence[Detections]) -> FlatDetections:
    """Return the Detections of a set, one an image, as flat arrays."""
    counts = [len(image.scores) for image in detections]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(image.boxes for image in detections)])
    scores = np.concatenate([np.zeros(0, np.float32), *(image.scores for image in detections)])
    labels = np.concatenate([np.zeros(0, np.int64), *(image.labels for image in detections)])
    return FlatDetections(np.repeat(np.arange(len(counts)), counts), labels, scores, boxes,
                          area(boxes.astype(np.float64)))


def flatten_records(records: Sequence[Record]) -> FlatObjects:
    """Return the objects of records as flat arrays."""
    counts = [len(record.labels) for record in records]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(record.boxes_px for record in records)])
    labels = np.concatenate([np.zeros(0, np.int64), *(record.labels for record in records)])
    difficult = np.concatenate([np.zeros(0, bool), *(record.difficult for record in records)])
    return FlatObjects(np.repeat(np.arange(len(counts)), counts), labels, boxes, difficult,
                       area(boxes.astype(np.float64)))


def assign_voc(detections: FlatDetections, objects: FlatObjects, iou: float = 0.5) -> Assignment:
    """Assign by the rule of VOC (see above) at an IoU above 0."""
    order = sort_detections(detections)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    best_iou, best_object = best_overlaps(*overlapping_pairs(detections, objects), len(order))
    rows = np.flatnonzero(best_iou >= iou)
    candidates = best_object[rows]
    first = np.full(len(objects.image), len(order))
    np.minimum.at(first, candidates, rank[rows])  # the best score of each object
    matched, ignored = np.full(len(order), -1), np.zeros(len(order), bool)
    ignored[rows] = objects.difficult[candidates]
    matched[rows] = np.where(ignored[rows] | (first[candidates] == rank[rows]), candidates, -1)
    return Assignment(detections, objects, matched, ignored, ~objects.difficult, order)


def assign_coco(detections: FlatDetections, objects: FlatObjects, iou: float = 0.5, *,
                max_detections: int = 100) -> Assignment:
    """Assign by the rule of COCO (see above) at an IoU above 0, objects of all sizes.

    Detections beyond the `max_detections` best of an image and class are ignored.
    """
    matches = match_coco(detections, objects, [iou], [ALL_AREAS], max_detections)
    matched = np.full(len(detections.image), -1)
    matched[matches.rows] = matches.matched[0, 0]
    counted = matches.counted[0]
    ignored = ~np.append(counted, True)[matched] | (matches.rank >= max_detections)
    return Assignment(detections, objects, matched, ignored, counted, matches.order)


def best_overlaps(rows: np.ndarray, object_rows: np.ndarray, iou: np.ndarray, number: int
                  ) -> tuple[np.ndarray, np.ndarray]:
    """Return ((D,) highest IoU, (D,) that object or -1) of D = `number` detections.

    Of equal IoUs the first object counts. Pairs are as `overlapping_pairs` returns them.
    """
    best_iou, best_object = np.zeros(number), np.full(number, -1)
    np.maximum.at(best_iou, rows, iou)
    is_best = np.flatnonzero(iou == best_iou[rows])[::-1]  # the first of equals is written last
    best_object[rows[is_best]] = object_rows[is_best]
    return best_iou, best_object


def sort_detections(detections: FlatDetections) -> np.ndarray:
    """Return the (D,) rows by class, in it by falling score, then by image."""
    return np.lexsort((detections.image, -detections.scores, detections.labels.astype(np.uint16)))


def overlapping_pairs(detections: FlatDetections, objects: FlatObjects, *, any_class: bool = False,
                      crowds: bool = False, min_iou: float = 0.0
                      ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (detection rows, object rows, IoUs) of the pairs in one image with 0 < IoU >= min_iou.

    Pairs are in the order of detections, then of objects; they are of one class unless `any_class`.
    With `crowds` the IoU with a difficult object is the share of the detection inside it.
    """
    classes = 1 + max(detections.labels.max(initial=0), objects.labels.max(initial=0))
    keys, object_keys = (boxes.image * classes + (0 if any_class else boxes.labels)
                         for boxes in (detections, objects))
    by_key = np.argsort(object_keys, kind="stable")
    first = np.searchsorted(object_keys, keys, sorter=by_key)
    counts = np.searchsorted(object_keys, keys, side="right", sorter=by_key) - first
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for start in range(0, len(keys), CHUNK):
        count = counts[start:start + CHUNK]
        rows = np.repeat(np.arange(start, start + len(count)), count)
        number = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        object_rows = by_key[first[rows] + number]
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
    common, detection_area = width * height, detections.area[rows]
    union = detection_area + objects.area[object_rows] - common
    if crowds:
        union = np.where(objects.difficult[object_rows], detection_area, union)
    return np.divide(common, union, out=np.zeros(len(rows)), where=(width > 0) & (height > 0))


class CocoMatches(NamedTuple):
    """COCO's matches at T IoUs in A size ranges, of the Q detections that overlap an object.

    Most of a million detections overlap none: so the matches fit in memory.
    """

    order: np.ndarray  # (D,) rows of detections by class, in it best score first
    rank: np.ndarray  # (D,) position of each detection in its image and class, by score
    rows: np.ndarray  # (Q,) rows of detections that reach the lowest IoU, in that order
    matched: np.ndarray  # (T, A, Q) int32 rows of objects, or -1
    counted: np.ndarray  # (A, G) bool, objects that count in a range


def match_coco(detections: FlatDetections, objects: FlatObjects, ious: Sequence[float],
               area_ranges: Sequence[tuple[float, float]], max_detections: int = 100
               ) -> CocoMatches:
    """Match by the rule of COCO at T IoUs in A ranges of areas (lowest, highest), both inside.

    A first round matches the best detection of every image and class that overlaps anything, the
    next round the second best: none of a round compete, so that a round is one array operation.
    """
    ious = np.minimum(ious, 1 - 1e-10)  # as pycocotools
    order = sort_detections(detections)
    rank = _rank_in_image(detections.image, detections.labels, order)
    low, high = np.array(area_ranges).T[:, :, None]
    counted = ~objects.difficult & (objects.area >= low) & (objects.area <= high)
    pairs = overlapping_pairs(detections, objects, crowds=True, min_iou=ious.min())
    rows, object_rows, iou = (values[rank[pairs[0]] < max_detections] for values in pairs)
    overlapping = np.zeros(len(order), bool)
    overlapping[rows] = True
    candidates = order[overlapping[order]]
    column, turn = np.empty(len(order), np.int32), np.empty(len(order), np.int32)
    column[candidates] = np.arange(len(candidates))
    turn[candidates] = _rank_in_image(detections.image[candidates], detections.labels[candidates],
                                      column[candidates])
    # Of a detection's pairs the last one that is free is taken.
    by_turn = np.lexsort((object_rows, iou, column[rows], turn[rows]))
    rows, object_rows, iou = rows[by_turn], object_rows[by_turn], iou[by_turn]
    matched = np.full((len(ious), len(counted), len(candidates)), -1, np.int32)
    taken = np.zeros((len(ious), len(counted), len(objects.image)), bool)
    for start, stop in pairwise(np.flatnonzero(np.diff(turn[rows], prepend=-1, append=-1))):
        targets = object_rows[start:stop]
        free = (iou[start:stop] >= ious[:, None])[:, None] & ~taken[:, :, targets]
        firsts = np.flatnonzero(np.diff(rows[start:stop], prepend=-1))
        chosen = _choose(free, counted[:, targets], targets, firsts)
        matched[:, :, column[rows[start:stop][firsts]]] = chosen
        t, a, q = np.nonzero((chosen >= 0) & ~objects.difficult[chosen])
        taken[t, a, chosen[t, a, q]] = True
    return CocoMatches(order, rank, candidates, matched, counted)


def _choose(free, counted, targets, firsts):
    """Return the (T, A, Q) objects that detections take, -1 for none.

    Of P pairs, detection by detection in rising order of preference, from (T, A, P) free, (A, P)
    counted, (P,) objects, and (Q,) the first pair of each detection.
    """
    size = len(targets)
    worth = (np.arange(1, size + 1) + counted * size).astype(np.int32)
    best = np.maximum.reduceat(np.where(free, worth, np.int32(0)), firsts, axis=-1)
    return np.where(best > 0, targets[(best - 1) % size], -1)


def _rank_in_image(image, labels, order):
    """Return each detection's (D,) position within its image and class, in an order by class."""
    small = np.uint16 if image.max(initial=0) < 2 ** 16 else np.int64  # uint16 is sorted fastest
    order = order[np.argsort(image[order].astype(small), kind="stable")]
    firsts = np.flatnonzero(np.diff(image[order], prepend=-1) | np.diff(labels[order], prepend=-1))
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order)) - np.repeat(firsts, np.diff(firsts, append=len(order)))
    return rank
