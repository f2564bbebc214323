"""Which detection matches which object: COCO's rule by pycocotools' matches, VOC's by hand."""

import numpy as np
import pytest
from coco_sets import flatten, pycocotools, random_set

from utils.evaluation import assignment
from utils.evaluation.assignment import (ALL_AREAS, COCO_IOUS, FlatDetections, FlatObjects,
                                         assign_coco, assign_voc, best_overlaps, overlapping_pairs)
from utils.multibox.boxes import area, pairwise_iou


def test_coco_matches_are_those_of_pycocotools():
    pytest.importorskip("pycocotools")
    truth, results = random_set(0, images=20)
    images = [one for one in pycocotools(truth, results, images=20).evalImgs
              if one and tuple(one["aRng"]) == ALL_AREAS]
    for t, iou in enumerate(COCO_IOUS):
        ours = assign_coco(*flatten(truth, results), iou)
        for one in images:
            rows = np.array(one["dtIds"], int) - 1
            assert (ours.matched[rows] == one["dtMatches"][t] - 1).all()
            assert (ours.ignored[rows] == one["dtIgnore"][t]).all()
            assert (ours.counted[np.array(one["gtIds"], int) - 1] != one["gtIgnore"]).all()


def small(*, difficult=(0, 0, 0)):
    """Two objects side by side and one far away; detections of falling score."""
    boxes = np.array([[0, 0, 100, 100], [0, 20, 100, 120], [300, 0, 400, 100]], float)
    guesses = np.array([[0, 0, 100, 100], [0, 5, 100, 105], [300, 0, 400, 75], [500, 0, 600, 9],
                        [0, 10, 100, 110]], float)
    zeros = np.zeros(5, int)
    return (FlatDetections(zeros, zeros, np.array([9, 8, 7, 6, 5.]), guesses, area(guesses)),
            FlatObjects(zeros[:3], zeros[:3], boxes, np.array(difficult, bool), area(boxes),
                        area(boxes)))


def test_voc_by_hand():
    """The second detection finds its best object taken and tries no other; the last is as near
    to one object as to the other: the first of equals."""
    ours = assign_voc(*small())
    assert ours.matched.tolist() == [0, -1, 2, -1, -1]
    assert ours.not_found.tolist() == [0, 1, 0]
    assert assign_voc(*small(), 0.8).matched.tolist() == [0, -1, -1, -1, -1]
    assert ours.order.tolist() == [0, 1, 2, 3, 4]


def test_detections_of_difficult_objects_are_ignored():
    # VOC's best object is the difficult one, COCO's rule prefers one that counts.
    for assign, ignored in ((assign_voc, [1, 1, 0, 0, 1]), (assign_coco, [0, 1, 0, 0, 1])):
        ours = assign(*small(difficult=(1, 0, 0)))
        assert ours.counted.tolist() == [False, True, True] and ours.ignored.tolist() == ignored


@pytest.mark.parametrize("any_class", [False, True])
def test_best_overlaps_by_a_loop(any_class, monkeypatch):
    monkeypatch.setattr(assignment, "CHUNK", 11)
    detections, objects = flatten(*random_set(1, decimals=2))
    pairs = overlapping_pairs(detections, objects, any_class=any_class)
    iou, best = best_overlaps(pairs, len(detections.image))
    for k in range(len(iou)):
        candidates = objects.image == detections.image[k]
        if not any_class:
            candidates &= objects.labels == detections.labels[k]
        values = pairwise_iou(detections.boxes[k:k + 1], objects.boxes)[0] * candidates
        assert iou[k] == pytest.approx(values.max())
        assert best[k] == (values.argmax() if values.max() > 0 else -1)
