"""What goes wrong, and what it costs: TIDE's six kinds of error, and the confusion matrix."""

from enum import Enum
from typing import NamedTuple

import numpy as np

from utils.evaluation.assignment import (Assignment, FlatDetections, FlatObjects, assign_coco,
                                         best_overlaps, overlapping_pairs)
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
    MISSED = "objects that no detection has, nor would with its class or box corrected"


KINDS = list(ErrorKind)
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, ON_BACKGROUND, _ = range(len(KINDS))


class Errors(NamedTuple):
    """The kind of each false positive and of each object not found."""

    assignment: Assignment  # by COCO's rule at IoU 0.5
    kind: np.ndarray  # (D,) index into KINDS, -1 for true positives and ignored detections
    target: np.ndarray  # (D,) the object that a false positive is about, or -1
    fixable: np.ndarray  # (D,) bool: corrected, it would be the one that finds its target
    missed: np.ndarray  # (G,) bool

    def rows_of(self, kind: ErrorKind) -> np.ndarray:
        """Return the rows of the detections, or for MISSED of the objects, of a kind."""
        return np.flatnonzero(self.missed if kind is ErrorKind.MISSED
                              else self.kind == KINDS.index(kind))


def find_errors(detections: FlatDetections, objects: FlatObjects) -> Errors:
    """Sort false positives and objects not found into TIDE's kinds (Bolya et al. 2020, 2.2).

    Detections are matched by COCO's rule. The kinds are tried in the order of tidecv, its authors'
    code: localisation, classification, duplicate, background; both is what remains. As there, a
    detection may be about an object that is found already, and of all classification and
    localisation errors about an object not found the highest-scoring one would find it. Figures
    are those of tidecv 1.0.1 and hotcoco but for these:

    - an IoU of exactly 0.5 is foreground and one of exactly 0.1 is not background, as in the paper;
    - tidecv takes classes without objects into the mean, as 0, wherever they are detected, and of
      an image only the 100 best detections (here, as in COCO: of each class);
    - detections on difficult objects or crowds are no errors (tidecv counts them, at no cost).
    """
    assignment = assign_coco(detections, objects, FOREGROUND)
    wrong = assignment.false_positives
    rows, object_rows, iou = overlapping_pairs(detections, objects, any_class=True,
                                               min_iou=BACKGROUND)
    keep = wrong[rows] & assignment.counted[object_rows]
    rows, object_rows, iou = rows[keep], object_rows[keep], iou[keep]
    same = detections.labels[rows] == objects.labels[object_rows]
    (same_iou, same_object), (other_iou, other_object) = (
        best_overlaps(rows[part], object_rows[part], iou[part], len(wrong))
        for part in (same, ~same))
    kind = np.select(
        [~wrong, (same_iou >= BACKGROUND) & (same_iou < FOREGROUND), other_iou >= FOREGROUND,
         same_iou >= FOREGROUND, other_iou < BACKGROUND],
        [-1, LOCALISATION, CLASSIFICATION, DUPLICATE, ON_BACKGROUND], BOTH)
    target = np.where(np.isin(kind, [CLASSIFICATION, BOTH]), other_object, same_object)
    target[kind == ON_BACKGROUND] = -1
    not_found = assignment.not_found
    rows = np.flatnonzero(np.isin(kind, [CLASSIFICATION, LOCALISATION])
                          & np.append(not_found, False)[target])
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    corrected, first = np.unique(target[rows], return_index=True)
    fixable = np.zeros(len(kind), bool)
    fixable[rows[first]] = True
    not_found[corrected] = False
    return Errors(assignment, kind, target, fixable, not_found)


def cost_of_errors(errors: Errors, num_classes: int) -> tuple[float, dict[ErrorKind, float]]:
    """Return (COCO's AP at IoU 0.5, {kind: by how much it would rise without the errors}).

    In 0..1. One kind at a time is corrected as in section 2.3 of the paper: errors get the right
    class and box where that finds an object and are removed elsewhere, and missed objects are
    removed. The figures do not add up to 1 - AP. nan without objects.
    """
    assignment = errors.assignment
    objects, labels = assignment.objects, assignment.detections.labels
    totals = np.bincount(objects.labels[assignment.counted], minlength=num_classes)
    order = np.argsort(-assignment.detections.scores, kind="stable")

    def mean_ap(labels, right, keep, left):
        """Mean over classes of the AP of the detections to keep, for `left` objects a class."""
        rows = order[keep[order]]
        rows = rows[np.argsort(labels[rows].astype(np.uint16), kind="stable")]
        by_class = np.split(right[rows], np.searchsorted(labels[rows], np.arange(1, num_classes)))
        # A class of which nothing is left, objects or detections, has no errors.
        values = [mean_precision(*precision_recall(hits, number), RECALLS) if number else 0.0
                  for hits, number, total in zip(by_class, left, totals)
                  if total and (len(hits) or number)]
        return float(np.mean(values)) if values else 1.0 if totals.any() else float("nan")

    right, keep = assignment.true_positives, ~assignment.ignored
    base, costs = mean_ap(labels, right, keep, totals), {}
    for kind in KINDS[:-1]:
        rows = errors.rows_of(kind)
        fixed = rows[errors.fixable[rows]]
        new_labels, new_right, new_keep = labels.copy(), right.copy(), keep.copy()
        new_keep[rows] = new_right[rows] = errors.fixable[rows]
        new_labels[fixed] = objects.labels[errors.target[fixed]]
        costs[kind] = mean_ap(new_labels, new_right, new_keep, totals)
    missed = np.bincount(objects.labels[errors.missed], minlength=num_classes)
    costs[ErrorKind.MISSED] = mean_ap(labels, right, keep, totals - missed)
    return base, {kind: max(ap - base, 0.0) for kind, ap in costs.items()}


def confusion_matrix(detections: FlatDetections, objects: FlatObjects, num_classes: int,
                     confidence: float) -> np.ndarray:
    """Return (K + 1, K + 1) counts of true classes by detected ones, background last.

    Each detection that scores more than `confidence`, best first, takes the object still free that
    it overlaps most, whatever its class, at IoU >= 0.5. Difficult objects count neither way.
    """
    kept = detections.take(detections.scores > confidence)
    one_class = (boxes._replace(labels=np.zeros_like(boxes.labels)) for boxes in (kept, objects))
    assignment = assign_coco(*one_class, FOREGROUND, max_detections=len(kept.scores) + 1)
    true_labels, counts = np.append(objects.labels, num_classes), ~assignment.ignored
    matrix = np.zeros((num_classes + 1, num_classes + 1), int)
    np.add.at(matrix, (true_labels[assignment.matched[counts]], kept.labels[counts]), 1)
    np.add.at(matrix, (objects.labels[assignment.not_found], num_classes), 1)
    return matrix
