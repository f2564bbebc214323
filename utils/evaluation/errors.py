"""What goes wrong, and what it costs: TIDE's six kinds of error, and the confusion matrix."""

from enum import Enum
from typing import NamedTuple

import numpy as np

from utils.evaluation.assignment import Assignment, Found, Objects, assign_coco, overlaps
from utils.evaluation.coco_ap import RECALLS
from utils.evaluation.voc_ap import mean_precision, precision_recall

FOREGROUND, BACKGROUND = 0.5, 0.1  # TIDE's IoUs


class ErrorKind(Enum):
    """TIDE's kinds; what each means is its value."""

    CLASSIFICATION = "on an object of another class, IoU >= 0.5"
    LOCALISATION = "on an object of its class, but IoU 0.1 to 0.5"
    BOTH = "on an object of another class, and IoU 0.1 to 0.5"
    DUPLICATE = "on an object that a better detection has, IoU >= 0.5"
    BACKGROUND = "on no object, IoU under 0.1"
    MISSED = "objects that no detection met, nor would with its class or place mended"


KINDS = list(ErrorKind)


class Errors(NamedTuple):
    """The kind of each false positive and of each object not found."""

    assignment: Assignment  # by COCO's rule at IoU 0.5
    kind: np.ndarray  # (D,) int8 index into KINDS, -1 for right and ignored detections
    target: np.ndarray  # (D,) the object that a false positive is about, or -1
    fixable: np.ndarray  # (D,) bool: it would be the one that finds its target
    missed: np.ndarray  # (G,) bool

    def chosen(self, kind: ErrorKind) -> np.ndarray:
        """Return the rows of the detections, or for MISSED of the objects, of a kind."""
        return np.flatnonzero(self.missed if kind is ErrorKind.MISSED
                              else self.kind == KINDS.index(kind))


def find_errors(found: Found, objects: Objects) -> Errors:
    """Sort false positives and objects not found into TIDE's kinds (Bolya et al. 2020, 2.2).

    Detections are matched by COCO's rule. The kinds are tried in the order of tidecv, its authors'
    code: localisation, classification, duplicate, background; both is what remains. As there, a
    detection may be about an object that is found already, and of all classification and
    localisation errors about an object not found the highest-scoring one would find it. Figures
    are those of tidecv 1.0.1 and hotcoco but for these:

    - an IoU of exactly 0.5 is foreground and one of exactly 0.1 is not background, as the paper has
      it (tidecv counts both to the other side);
    - tidecv takes classes without objects into the mean, as 0, wherever something is found of
      them, and of an image only the 100 best detections (here, as in COCO: of each class);
    - detections on difficult objects or crowds are no errors (tidecv counts them, at no cost).
    """
    assignment = assign_coco(found, objects, (FOREGROUND,))
    wrong = (assignment.matched[0] < 0) & ~assignment.ignored[0]
    pairs = [np.zeros((3, 0))]
    for rows, mine, iou in overlaps(found, objects, any_class=True, floor=BACKGROUND):
        ours = wrong[rows] & assignment.counted[mine]
        pairs.append(np.stack([rows[ours], mine[ours], iou[ours]]))
    rows, mine, iou = np.concatenate(pairs, 1)
    rows, mine = rows.astype(int), mine.astype(int)
    same = found.labels[rows] == objects.labels[mine]
    (own_iou, own), (other_iou, other) = (
        _best(rows[part], mine[part], iou[part], len(wrong)) for part in (same, ~same))
    tests = {ErrorKind.LOCALISATION: (own_iou >= BACKGROUND) & (own_iou < FOREGROUND),
             ErrorKind.CLASSIFICATION: other_iou >= FOREGROUND,
             ErrorKind.DUPLICATE: own_iou >= FOREGROUND,
             ErrorKind.BACKGROUND: other_iou < BACKGROUND}
    kind = np.select([~wrong, *tests.values()], [-1, *map(KINDS.index, tests)],
                     KINDS.index(ErrorKind.BOTH))
    on_other = np.isin(kind, [KINDS.index(ErrorKind.CLASSIFICATION), KINDS.index(ErrorKind.BOTH)])
    target = np.where(on_other, other, own)
    target[kind == KINDS.index(ErrorKind.BACKGROUND)] = -1
    return Errors(assignment, kind, target, *_fixable(assignment, kind, target))


def _best(rows, mine, iou, number):
    """Return ((D,) highest IoU of each row, (D,) that object, the first of equals, or -1)."""
    highest, target = np.zeros(number), np.full(number, -1)
    order = np.lexsort((-mine, iou))  # the last value written stays
    highest[rows[order]], target[rows[order]] = iou[order], mine[order]
    return highest, target


def _fixable(assignment, kind, target):
    """Return ((D,) the best error about each object not found, (G,) objects that none is about)."""
    lost = assignment.counted.copy()
    lost[assignment.matched[0][~assignment.ignored[0] & (assignment.matched[0] >= 0)]] = False
    mendable = np.isin(kind, [KINDS.index(ErrorKind.CLASSIFICATION),
                              KINDS.index(ErrorKind.LOCALISATION)])
    rows = np.flatnonzero(mendable & np.append(lost, False)[target])
    rows = rows[np.argsort(-assignment.found.scores[rows], kind="stable")]
    about, first = np.unique(target[rows], return_index=True)
    fixable = np.zeros(len(kind), bool)
    fixable[rows[first]] = True
    lost[about] = False
    return fixable, lost


def cost_of_errors(errors: Errors, num_classes: int) -> tuple[float, dict[ErrorKind, float]]:
    """Return (COCO's AP at IoU 0.5, {kind: by how much it would rise without the errors}).

    In 0..1. One kind at a time is mended as in section 2.3 of the paper: classes and places are
    put right where that finds an object, what else is wrong goes, and missed objects are not asked
    for. The figures do not add up to what is lacking. nan without objects.
    """
    found, objects = errors.assignment.found, errors.assignment.objects
    counts = np.bincount(objects.labels[errors.assignment.counted], minlength=num_classes)
    order = np.argsort(-found.scores, kind="stable")

    def mean_ap(labels, right, keep, left=counts):
        rows = order[keep[order]]
        rows = rows[np.argsort(labels[rows].astype(np.uint16), kind="stable")]
        hits = np.split(right[rows], np.searchsorted(labels[rows], np.arange(1, num_classes)))
        values = [_ap(mine, number) for mine, number, asked in zip(hits, left, counts)
                  if asked and (len(mine) or number)]
        # Where nothing is left to be found, and nothing is found, nothing is wrong.
        return float(np.mean(values)) if values else 1.0 if counts.any() else float("nan")

    keep = ~errors.assignment.ignored[0]
    right = keep & (errors.assignment.matched[0] >= 0)
    base, costs = mean_ap(found.labels, right, keep), {}
    for kind in ErrorKind:
        rows = errors.chosen(kind)
        if kind is ErrorKind.MISSED:
            left = counts - np.bincount(objects.labels[rows], minlength=num_classes)
            mended = mean_ap(found.labels, right, keep, left)
        else:
            labels, now_right, kept = found.labels.copy(), right.copy(), keep.copy()
            kept[rows] = now_right[rows] = errors.fixable[rows]
            rows = rows[errors.fixable[rows]]
            labels[rows] = objects.labels[errors.target[rows]]
            mended = mean_ap(labels, now_right, kept)
        costs[kind] = max(mended - base, 0.0)  # in this order nan stays nan
    return base, costs


def _ap(hits, count):
    """Return the 101-point AP of detections sorted by score, right or wrong."""
    if not count:
        return 0.0
    return mean_precision(*precision_recall(hits, count), RECALLS)


def cost_of_each(errors: Errors) -> np.ndarray:
    """Return about how much of its class's AP each false positive costs, (D,), 0 for the others.

    What precision gains at each right detection below it, were it not there: the area under the
    curve before it is made monotone. High scores cost most.
    """
    assignment, costs = errors.assignment, np.zeros(len(errors.kind))
    order = assignment.order[~assignment.ignored[0][assignment.order]]
    labels, starts = np.unique(assignment.found.labels[order], return_index=True)
    counts = np.bincount(assignment.objects.labels[assignment.counted],
                         minlength=labels.max(initial=0) + 1)
    for label, rows in zip(labels, np.split(order, starts[1:])):
        wrong, ranks = errors.kind[rows] >= 0, np.arange(1, len(rows) + 1)
        gains = np.where(wrong, 0, np.cumsum(~wrong) / (ranks * np.maximum(ranks - 1, 1)))
        below = np.cumsum(gains[::-1])[::-1]
        costs[rows] = np.where(wrong, below / max(counts[label], 1), 0)
    return costs


class Confusion(NamedTuple):
    """What was taken for what, at one confidence and IoU 0.5, whatever the classes."""

    confidence: float
    matrix: np.ndarray  # (K + 1, K + 1) counts, rows true and columns found, background last
    found: Found  # the D detections that reach the confidence
    matched: np.ndarray  # (D,) rows of the objects that they took, or -1
    truth: np.ndarray  # (D,) true class, K for background, -1 on difficult objects
    lost: np.ndarray  # (G,) bool, objects that count and were not taken


def confuse(found: Found, objects: Objects, num_classes: int, confidence: float) -> Confusion:
    """Return the Confusion of detections that score more than `confidence`.

    Each, best first, takes the object still free that it overlaps most, at IoU >= 0.5. Difficult
    objects count neither way.
    """
    kept = Found(*(field[found.scores > confidence] for field in found))
    blind = (part._replace(labels=np.zeros_like(part.labels)) for part in (kept, objects))
    assignment = assign_coco(*blind, (FOREGROUND,), max_detections=len(kept.scores) + 1)
    ignored, matched = assignment.ignored[0], assignment.matched[0]
    truth = np.where(ignored, -1, np.append(objects.labels, num_classes)[matched])
    lost = assignment.counted.copy()
    lost[matched[matched >= 0]] = False
    matrix = np.zeros((num_classes + 1, num_classes + 1), int)
    np.add.at(matrix, (truth[~ignored], kept.labels[~ignored]), 1)
    np.add.at(matrix, (objects.labels[lost], num_classes), 1)
    return Confusion(confidence, matrix, kept, matched, truth, lost)
