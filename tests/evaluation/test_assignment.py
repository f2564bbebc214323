"""Who met whom: COCO's rule against pycocotools' own matches, VOC's by hand."""

import numpy as np
import pytest
from coco_sets import flat, pycocotools, random_set

from utils.multibox.boxes import pairwise_iou
from utils.evaluation import assignment
from utils.evaluation.assignment import (COCO_IOUS, Found, Objects, assign_coco, assign_voc,
                                         best_overlaps)
from utils.evaluation.coco_ap import SIZES


def test_coco_matches_are_those_of_pycocotools():
    pytest.importorskip("pycocotools")
    truth, results = random_set(0, images=20)
    images = pycocotools(truth, results, images=20).evalImgs
    found, objects = flat(truth, results)
    for area_range in SIZES.values():
        ours = assign_coco(found, objects, area_range=area_range)
        for one in images:
            if one and tuple(one["aRng"]) == area_range:
                rows = np.array(one["dtIds"], int) - 1
                assert (ours.matched[:, rows] == one["dtMatches"] - 1).all()
                assert (ours.ignored[:, rows] == one["dtIgnore"]).all()
                assert (ours.counted[np.array(one["gtIds"], int) - 1] != one["gtIgnore"]).all()


def small(*, difficult=(0, 0, 0)):
    """Two objects side by side and one far away; detections of falling score."""
    boxes = np.array([[0, 0, 100, 100], [0, 20, 100, 120], [300, 0, 400, 100]], float)
    guesses = np.array([[0, 0, 100, 100], [0, 5, 100, 105], [300, 0, 400, 75], [500, 0, 600, 9],
                        [0, 10, 100, 110]], float)
    zeros, count = np.zeros(3, int), len(guesses)
    return (Found(np.zeros(count, int), np.zeros(count, int), np.array([9, 8, 7, 6, 5.]), guesses,
                  assignment.box_areas(guesses)),
            Objects(zeros, zeros, boxes, np.array(difficult, bool),
                    *[assignment.box_areas(boxes)] * 2))


def test_voc_by_hand():
    """The second detection finds its best object taken and tries no other; the last is as near
    to one object as to the other: the first of equals."""
    ours = assign_voc(*small(), (0.5, 0.8))
    assert ours.matched.tolist() == [[0, -1, 2, -1, -1], [0, -1, -1, -1, -1]]
    assert not ours.ignored.any() and ours.counted.all()
    assert ours.best_object.tolist() == [0, 0, 2, -1, 0]
    assert ours.best_iou.tolist() == pytest.approx([1, 95 / 105, 0.75, 0, 90 / 110])
    assert ours.order.tolist() == [0, 1, 2, 3, 4]


def test_coco_tries_the_object_still_free_and_the_last_of_equals():
    assert assign_coco(*small(), (0.5,)).matched.tolist() == [[0, 1, 2, -1, -1]]
    found, objects = small()
    last = Found(*(field[4:] for field in found))
    assert assign_coco(last, objects, (0.5,)).matched.tolist() == [[1]]


def test_detections_of_difficult_objects_are_ignored():
    for assign in (assign_voc, assign_coco):
        ours = assign(*small(difficult=(1, 0, 0)), (0.5,))
        assert ours.counted.tolist() == [False, True, True]
    # VOC's best object is the difficult one, COCO's rule prefers one that counts.
    assert assign_voc(*small(difficult=(1, 0, 0)), (0.5,)).ignored[0].tolist() == [1, 1, 0, 0, 1]
    assert assign_coco(*small(difficult=(1, 0, 0)), (0.5,)).ignored[0].tolist() == [0, 1, 0, 0, 1]


def test_detections_beyond_the_limit_are_ignored():
    ours = assign_coco(*small(), (0.5,), max_detections=1)
    assert ours.matched.tolist() == [[0, -1, -1, -1, -1]]
    assert ours.ignored.tolist() == [[False, True, True, True, True]]


@pytest.mark.parametrize("any_class", [False, True])
def test_best_overlaps_by_a_loop(any_class, monkeypatch):
    monkeypatch.setattr(assignment, "PAIRS_AT_ONCE", 11)
    found, objects = flat(*random_set(1, decimals=2))
    iou, best = best_overlaps(found, objects, any_class=any_class)
    for k in range(len(iou)):
        mine = objects.image == found.image[k]
        if not any_class:
            mine &= objects.labels == found.labels[k]
        values = pairwise_iou(found.boxes[k:k + 1], objects.boxes)[0] * mine
        assert iou[k] == pytest.approx(values.max())
        assert best[k] == (values.argmax() if values.max() > 0 else -1)


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_thresholds_that_cannot_be(threshold):
    for assign in (assign_voc, assign_coco):
        with pytest.raises(ValueError, match="IoU thresholds"):
            assign(*small(), (0.5, threshold))


def test_inputs_stay_as_they_were():
    found, objects = flat(*random_set(2))
    before = [field.copy() for part in (found, objects) for field in part]
    assign_coco(found, objects, COCO_IOUS)
    assign_voc(found, objects)
    after = [field for part in (found, objects) for field in part]
    assert all((a == b).all() for a, b in zip(before, after))
