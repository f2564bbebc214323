"""What goes wrong, and what it costs: TIDE's six kinds of error, and the confusion matrix."""

from typing import NamedTuple

import numpy as np

from utils.evaluation.assignment import (Assignment, FlatDetections, FlatObjects, assign_coco,
                                         best_overlaps, overlapping_pairs)
from utils.evaluation.coco_ap import RECALLS
from utils.evaluation.voc_ap import mean_precision, precision_recall

FOREGROUND, BACKGROUND = 0.5, 0.1  # TIDE's IoUs
KINDS = {
    "classification": "boxes on an object of another class, IoU >= 0.5",
    "localisation": "boxes on an object of their class, but IoU 0.1 to 0.5",
    "both": "boxes on an object of another class, and IoU 0.1 to 0.5",
    "duplicate": "boxes on an object that a better one has, IoU >= 0.5",
    "background": "boxes on no object, IoU under 0.1",
    "missed": "objects that no box is on, nor would be with its class or edges corrected"}


class Errors(NamedTuple):
    """The kind of each false positive and of each object not found."""

    assignment: Assignment  # by COCO's rule at IoU 0.5
    kind: np.ndarray  # (D,) str, "" for true positives and ignored detections
    target: np.ndarray  # (D,) the object that a false positive is about, or -1
    fixable: np.ndarray  # (D,) bool: corrected, it would be the one that finds its target
    missed: np.ndarray  # (G,) bool

    def rows_of(self, kind: str) -> np.ndarray:
        """Return the rows of the detections, or for "missed" of the objects, of a kind."""
        return np.flatnonzero(self.missed if kind == "missed" else self.kind == kind)


def find_errors(detections: FlatDetections, objects: FlatObjects) -> Errors:
    """Sort false positives and objects not found into TIDE's kinds (Bolya et al. 2020, 2.2).

    The kinds are tried in the order of tidecv, its authors' code. Figures are those of tidecv 1.0.1
    and hotcoco, but an IoU of exactly 0.5 is foreground and one of exactly 0.1 is not background,
    as in the paper. A detection may be about an object that is found already.
    """
    assignment = assign_coco(detections, objects, FOREGROUND)
    wrong = (assignment.matched < 0) & ~assignment.ignored
    pairs = overlapping_pairs(detections, objects, any_class=True, min_iou=BACKGROUND)
    keep = wrong[pairs[0]] & assignment.counted[pairs[1]]
    rows, object_rows, iou = (values[keep] for values in pairs)
    same = detections.labels[rows] == objects.labels[object_rows]
    (same_iou, same_object), (other_iou, other_object) = (
        best_overlaps((rows[part], object_rows[part], iou[part]), len(wrong))
        for part in (same, ~same))
    kind = np.select(
        [~wrong, (same_iou >= BACKGROUND) & (same_iou < FOREGROUND), other_iou >= FOREGROUND,
         same_iou >= FOREGROUND, other_iou < BACKGROUND],
        ["", "localisation", "classification", "duplicate", "background"], "both")
    target = np.where(np.isin(kind, ["classification", "both"]), other_object, same_object)
    target[kind == "background"] = -1
    # The highest-scoring of the errors about an object not found would find it.
    not_found = assignment.not_found
    rows = np.flatnonzero(np.isin(kind, ["classification", "localisation"])
                          & np.append(not_found, False)[target])
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    corrected, first = np.unique(target[rows], return_index=True)
    fixable = np.isin(np.arange(len(kind)), rows[first])
    not_found[corrected] = False
    return Errors(assignment, kind, target, fixable, not_found)


def cost_of_errors(errors: Errors, num_classes: int) -> tuple[float, dict[str, float]]:
    """Return (COCO's AP at IoU 0.5, {kind: by how much it would rise without the errors}).

    One kind at a time is corrected (section 2.3 of the paper): errors get the right class and box
    where that finds an object and are removed elsewhere, as are missed objects.
    """
    assignment = errors.assignment
    objects, labels = assignment.objects, assignment.detections.labels
    totals = np.bincount(objects.labels[assignment.counted], minlength=num_classes)
    order = np.argsort(-assignment.detections.scores, kind="stable")

    def mean_ap(labels, right, keep, left):
        """Return the mean AP of the detections to keep, for `left` objects of each class."""
        rows = order[keep[order]]
        aps = []
        for label in np.flatnonzero(totals):
            hits = right[rows[labels[rows] == label]]
            if len(hits) or left[label]:  # else nothing of the class can be wrong
                aps.append(mean_precision(*precision_recall(hits, left[label]), RECALLS))
        return float(np.mean(aps)) if aps else 1.0 if totals.any() else float("nan")

    keep = ~assignment.ignored
    right = (assignment.matched >= 0) & keep
    base, costs = mean_ap(labels, right, keep, totals), {}
    for kind in list(KINDS)[:-1]:
        rows = errors.rows_of(kind)
        fixed = rows[errors.fixable[rows]]
        new_labels, new_right, new_keep = labels.copy(), right.copy(), keep.copy()
        new_keep[rows] = new_right[rows] = errors.fixable[rows]
        new_labels[fixed] = objects.labels[errors.target[fixed]]
        costs[kind] = mean_ap(new_labels, new_right, new_keep, totals)
    missed = np.bincount(objects.labels[errors.missed], minlength=num_classes)
    costs["missed"] = mean_ap(labels, right, keep, totals - missed)
    return base, {kind: max(ap - base, 0.0) for kind, ap in costs.items()}


def confusion_matrix(detections: FlatDetections, objects: FlatObjects, num_classes: int
                     ) -> np.ndarray:
    """Return (K + 1, K + 1) counts of true classes by detected ones, background last.

    Each detection, best first, takes the object still free that it overlaps most, whatever its
    class, at IoU >= 0.5. Difficult objects count neither way.
    """
    one_class = (boxes._replace(labels=np.zeros_like(boxes.labels))
                 for boxes in (detections, objects))
    assignment = assign_coco(*one_class, FOREGROUND, max_detections=len(detections.scores) + 1)
    true_labels, counts = np.append(objects.labels, num_classes), ~assignment.ignored
    matrix = np.zeros((num_classes + 1, num_classes + 1), int)
    np.add.at(matrix, (true_labels[assignment.matched[counts]], detections.labels[counts]), 1)
    np.add.at(matrix, (objects.labels[assignment.not_found], num_classes), 1)
    return matrix
