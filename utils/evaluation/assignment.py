"""Which detection met which object: decided once, over all images and classes, for every metric.

Average precision, COCO's figures, errors and curves read an `Assignment`. Two rules are in use:

VOC (`assign_voc`; VOCevaldet.m). A detection goes to the object of its class that it overlaps most,
the first of equals. If their IoU reaches the threshold, it is right where it is the highest-scoring
one that does so, a false positive where another was before it (it does not look for the next best
object), and left out where the object is difficult. All detections count.

COCO (`assign_coco`; pycocotools). A detection, in the order of scores, takes the object *still
free* that it overlaps most, the last of equals; objects that count go before those that do not. A
crowd may be taken many times, and its IoU is the share of the detection that lies inside it.
Objects outside of the size range count as little as crowds, and so do unmatched detections outside
of it. Of an image and class only the 100 best detections count.

Both go through detections of equal score in the order of images, then in that of the input, and an
IoU equal to the threshold is enough. The `difficult` flag of a record is VOC's difficult for the
first rule, COCO's iscrowd for the second.

Why figures of other code bases differ for the same detections: boxes without VOC's extra pixel
(here boxes are edges, see data/voc.py, and overlap in edges is the kit's); a second-best object
tried (COCO's habit) under VOC's name; difficult objects counted; confidence of 0.05 or more, or
fewer detections kept, where weak ones still add recall; the 11 points of VOC 2007 taken for the
area, or COCO's 101 points for either; classes without objects counted as 0 or 1; sizes from masks
(COCO's `area`) or from boxes.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

PAIRS_AT_ONCE = 2_000_000  # of a detection and an object; bounds the memory
COCO_IOUS = np.linspace(0.5, 0.95, 10)
ALL_AREAS = (0.0, 1e10)  # square pixels, COCO's widest range


class Found(NamedTuple):
    """The detections of a set of images as flat arrays, in any order."""

    image: np.ndarray  # (D,) int, number of the record
    labels: np.ndarray  # (D,) int, index into the class names
    scores: np.ndarray  # (D,) float, finite
    boxes: np.ndarray  # (D, 4) float xyxy edges in pixels
    area: np.ndarray  # (D,) float64, width times height


class Objects(NamedTuple):
    """The ground truth of a set of images as flat arrays, in any order."""

    image: np.ndarray  # (G,) int, number of the record
    labels: np.ndarray  # (G,) int
    boxes: np.ndarray  # (G, 4) float xyxy edges in pixels
    difficult: np.ndarray  # (G,) bool, VOC's difficult or COCO's iscrowd
    area: np.ndarray  # (G,) float64 as annotated, for COCO's size ranges
    box_area: np.ndarray  # (G,) float64, width times height, for the IoU


class Assignment(NamedTuple):
    """Who met whom. Columns go with the rows of `found`; numbers of objects are rows of `objects`.

    A detection is right where `matched >= 0` and not `ignored`, a false positive where
    `matched < 0` and not `ignored`.
    """

    found: Found
    objects: Objects
    thresholds: np.ndarray  # (T,) IoUs
    matched: np.ndarray  # (T, D) int32, the object that a detection got, or -1
    ignored: np.ndarray  # (T, D) bool, detections that count neither way
    counted: np.ndarray  # (G,) bool, the objects that are to be found
    best_iou: np.ndarray  # (D,) float64 with objects of its class, 0 where none is touched
    best_object: np.ndarray  # (D,) int32, the object of its class overlapped most, or -1
    order: np.ndarray  # (D,) int, rows of `found` by class, in it best score first


def flatten_detections(detections) -> Found:
    """Return the detections of a set, one with boxes, scores and labels an image, as Found."""
    counts = [len(found.scores) for found in detections]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(it.boxes for it in detections)])
    return Found(np.repeat(np.arange(len(counts)), counts),
                 np.concatenate([np.zeros(0, np.int64), *(it.labels for it in detections)]),
                 np.concatenate([np.zeros(0, np.float32), *(it.scores for it in detections)]),
                 boxes, box_areas(boxes))


def flatten_records(records) -> Objects:
    """Return the objects of records as Objects; their area is that of the box."""
    counts = [len(record.labels) for record in records]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(it.boxes_px for it in records)])
    area = box_areas(boxes)
    return Objects(np.repeat(np.arange(len(counts)), counts),
                   np.concatenate([np.zeros(0, np.int64), *(it.labels for it in records)]), boxes,
                   np.concatenate([np.zeros(0, bool), *(it.difficult for it in records)]),
                   area, area)


def box_areas(boxes) -> np.ndarray:
    """Return the (N,) float64 areas of (N, 4) xyxy boxes of any float type."""
    x0, y0, x1, y1 = boxes.astype(np.float64, copy=False).T
    return (x1 - x0) * (y1 - y0)


def assign_voc(found: Found, objects: Objects, thresholds=(0.5,)) -> Assignment:
    """Assign by the rule of VOC (see above) at (T,) IoU thresholds, each above 0."""
    thresholds = check_thresholds(thresholds)
    order, place = _orders(found)
    best_iou, best = best_overlaps(found, objects)
    shape = (len(thresholds), len(place))
    matched, ignored = np.full(shape, -1, np.int32), np.zeros(shape, bool)
    for row, threshold in enumerate(thresholds):
        rows = np.flatnonzero(best_iou >= threshold)
        mine = best[rows]
        first = np.full(len(objects.image), len(place))
        np.minimum.at(first, mine, place[rows])
        hard = objects.difficult[mine]
        ignored[row, rows] = hard
        matched[row, rows] = np.where(hard | (first[mine] == place[rows]), mine, -1)
    return Assignment(found, objects, thresholds, matched, ignored, ~objects.difficult,
                      best_iou, best, order)


def assign_coco(found: Found, objects: Objects, thresholds=COCO_IOUS, *, area_range=ALL_AREAS,
                max_detections: int = 100) -> Assignment:
    """Assign by the rule of COCO (see above) at (T,) IoU thresholds, in one range of areas.

    Detections beyond the `max_detections` best of an image and class are ignored.
    """
    thresholds = check_thresholds(thresholds)
    matches = match_coco(found, objects, thresholds, [area_range], max_detections)
    inside = (found.area >= area_range[0]) & (found.area <= area_range[1])
    matched = np.full((len(thresholds), len(inside)), -1, np.int32)
    ignored = np.repeat((~inside | (matches.rank >= max_detections))[None], len(thresholds), 0)
    matched[:, matches.rows] = mine = matches.matched[:, 0]
    counted = matches.counted[0]
    ignored[:, matches.rows] = np.where(mine >= 0, ~np.append(counted, True)[mine],
                                        ignored[:, matches.rows])
    return Assignment(found, objects, thresholds, matched, ignored, counted,
                      *best_overlaps(found, objects), matches.order)


def check_thresholds(thresholds) -> np.ndarray:
    """Return IoU thresholds as a (T,) float64 array; ValueError for others than 0 < IoU <= 1."""
    thresholds = np.atleast_1d(np.asarray(thresholds, np.float64))
    if not ((thresholds > 0) & (thresholds <= 1)).all():
        raise ValueError(f"IoU thresholds must lie in 0 < IoU <= 1, got {thresholds.tolist()}")
    return thresholds


def best_overlaps(found: Found, objects: Objects, *, any_class: bool = False):
    """Return ((D,) float64 highest IoU with an object of the image, (D,) int32 that object or -1).

    Objects are those of the detection's class, or of any; the first one of equals.
    """
    best_iou = np.zeros(len(found.image))
    best = np.full(len(found.image), -1, np.int32)
    for rows, mine, iou in overlaps(found, objects, any_class=any_class):
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        highest = np.maximum.reduceat(iou, starts) if len(rows) else iou
        is_best = np.flatnonzero(iou == np.repeat(highest, np.diff(starts, append=len(rows))))
        is_best = is_best[np.diff(rows[is_best], prepend=-1) != 0]
        best_iou[rows[starts]], best[rows[starts]] = highest, mine[is_best]
    return best_iou, best


def _orders(found):
    """Return (rows by class and falling score, the place of each row in that order)."""
    order = np.argsort(found.image, kind="stable")
    order = order[np.argsort(-found.scores[order], kind="stable")]
    order = order[np.argsort(_small(found.labels)[order], kind="stable")]
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return order, place


def _small(values):
    """Return whole numbers in the type that NumPy sorts fastest."""
    return values.astype(np.uint16) if len(values) and values.max() < 2 ** 16 else values


def overlaps(found, objects, *, any_class=False, crowds=False, floor=0.0):
    """Yield (rows of found, rows of objects, IoU) of pairs in one image with IoU > 0 and >= floor.

    Pairs stand by rows of found, then of objects. With `crowds` the IoU with a difficult object is
    the share of the detection inside it.
    """
    classes = 1 + max(found.labels.max(initial=0), objects.labels.max(initial=0))
    keys, object_keys = (part.image * classes + (0 if any_class else part.labels)
                         for part in (found, objects))
    by_key = np.argsort(object_keys, kind="stable")
    object_keys = object_keys[by_key]
    first = np.searchsorted(object_keys, keys)
    counts = np.searchsorted(object_keys, keys, side="right") - first
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")))
        count = counts[start:stop]
        rows = np.repeat(np.arange(start, stop), count)
        mine = by_key[np.arange(len(rows))
                      + np.repeat(first[start:stop] - ends[start:stop] + count + done, count)]
        iou = _iou(found, rows, objects, mine, crowds)
        keep = (iou > 0) & (iou >= floor)
        yield rows[keep], mine[keep], iou[keep]
        start = stop


def _iou(found, rows, objects, mine, crowds):
    """Return the (P,) float64 IoUs of pairs, computed as pycocotools and the VOC kit do."""
    ours, theirs = (boxes.astype(np.float64, copy=False).T
                    for boxes in (found.boxes[rows], objects.boxes[mine]))
    width = np.minimum(ours[2], theirs[2]) - np.maximum(ours[0], theirs[0])
    height = np.minimum(ours[3], theirs[3]) - np.maximum(ours[1], theirs[1])
    touch = (width > 0) & (height > 0)
    common, area = width * height, found.area[rows]
    union = area + objects.box_area[mine] - common
    if crowds:
        union = np.where(objects.difficult[mine], area, union)
    return np.divide(common, union, out=np.zeros(len(rows)), where=touch)


class CocoMatches(NamedTuple):
    """COCO's matching in several size ranges; only detections that touch an object have a column.

    Most of ten million detections touch none: so the matches fit in memory.
    """

    order: np.ndarray  # (D,) rows of found by class, in it best score first
    rank: np.ndarray  # (D,) int32, the detection's number in its image and class, by score
    rows: np.ndarray  # (Q,) rows of found with an IoU of the lowest threshold, in that order
    matched: np.ndarray  # (T, A, Q) int32 rows of objects, or -1
    counted: np.ndarray  # (A, G) bool, objects that count in a range


def match_coco(found: Found, objects: Objects, thresholds, area_ranges,
               max_detections: int = 100) -> CocoMatches:
    """Match by the rule of COCO at (T,) IoUs in A ranges of areas (lowest, highest), both inside.

    Detections of one turn (the first of each image and class that overlap anything, then the
    second ones) do not meet, so that each turn is one step for all images and classes.
    """
    levels = np.minimum(thresholds, 1 - 1e-10)
    order, place = _orders(found)
    rank = _ranks(found.image, found.labels, order)
    low, high = np.array(area_ranges).T[:, :, None]
    counted = ~objects.difficult & (objects.area >= low) & (objects.area <= high)
    parts = list(overlaps(found, objects, crowds=True, floor=levels.min()))
    rows, mine, iou = (np.concatenate([part[k] for part in parts]) if parts
                       else np.zeros(0, np.int64) for k in range(3))
    keep = rank[rows] < max_detections
    rows, mine, iou = rows[keep], mine[keep], iou[keep]
    columns, turns = np.full(len(rank), -1, np.int32), np.empty(len(rank), np.int32)
    columns[rows] = 0
    candidates = order[columns[order] == 0]
    columns[candidates] = numbers = np.arange(len(candidates))
    turns[candidates] = _ranks(found.image[candidates], found.labels[candidates], numbers)
    # Within a detection the pair to prefer is the last one that is free.
    by_turn = np.lexsort((mine, iou, place[rows], turns[rows]))
    rows, mine, iou = rows[by_turn], mine[by_turn], iou[by_turn]
    matched = np.full((len(levels), len(counted), len(candidates)), -1, np.int32)
    taken = np.zeros((len(levels), len(counted), len(objects.image)), bool)
    bounds = np.flatnonzero(np.diff(turns[rows], prepend=-1, append=-1))
    for start, stop in pairwise(bounds):
        part = slice(start, stop)
        free = (iou[part] >= levels[:, None])[:, None] & ~taken[:, :, mine[part]]
        heads = np.flatnonzero(np.diff(rows[part], prepend=-1))
        matched[:, :, columns[rows[part][heads]]] = chosen = _choose(
            free, counted[:, mine[part]], mine[part], heads)
        t, a, q = np.nonzero((chosen >= 0) & ~objects.difficult[chosen])
        taken[t, a, chosen[t, a, q]] = True
    return CocoMatches(order, rank, candidates, matched, counted)


def _choose(free, counted, mine, heads):
    """Return the (T, A, Q) objects that detections take, -1 for none.

    Of P pairs in the order of preference, detection by detection, from (T, A, P) free, (A, P)
    counted, (P,) mine, and (Q,) where each detection begins.
    """
    size = len(mine)
    worth = np.arange(1, size + 1) + counted * np.int32(size)
    worth = np.where(free, worth.astype(np.int32), np.int32(0))
    best = np.maximum.reduceat(worth, heads, axis=-1)
    return np.where(best > 0, mine[(best - 1) % size], -1)


def _ranks(image, labels, order):
    """Return each detection's (D,) number within its image and class, in an order by class."""
    order = order[np.argsort(_small(image)[order], kind="stable")]
    key = image[order] * (1 + labels.max(initial=0)) + labels[order]
    heads = np.flatnonzero(np.diff(key, prepend=-1))
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order)) - np.repeat(heads, np.diff(heads, append=len(order)))
    return ranks
