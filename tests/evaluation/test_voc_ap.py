"""Average precision against the VOC kit's loop, and cases worked by hand."""

import coco_sets
import numpy as np
import pytest

from utils.data.annotations import Record
from utils.detections import Detections
from utils.evaluation.assignment import assign_voc
from utils.evaluation.confidence import best_confidence
from utils.evaluation.voc_ap import (ClassResult, at_confidence, best_f1, class_results,
                                     evaluate_voc, mean_ap)

BOX, FAR = (10, 10, 50, 50), (100, 100, 150, 150)
PIXELS = (1, 1, 0, 0)  # from edges to the kit's pixels, from 1, the last one included


def detected(*rows):
    """Return the detections of one image from (score, box, label) rows."""
    boxes = np.array([row[1] for row in rows], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([row[0] for row in rows], np.float32),
                      np.array([row[2] for row in rows], np.int64))


def record(*rows):
    """Return the objects of one image from (box, label, difficult) rows."""
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    return Record(None, boxes, np.array([row[1] for row in rows], np.int64),
                  np.array([row[2] for row in rows], bool))


def devkit_iou(a, b):
    """Overlap of 1-based inclusive pixel boxes as VOCevaldet.m writes it."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    area_a, area_b = ((x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b))
    return width * height / (area_a + area_b - width * height)


def devkit_ap(detections, objects, threshold=0.5):
    """Score one class by VOCevaldet.m and VOCap.m: (area, 11 points).

    Detections are (score, image, box), objects (box, difficult) of each image, in its pixels.
    """
    taken = [[False] * len(image) for image in objects]
    total = sum(not difficult for image in objects for _, difficult in image)
    tp = fp = 0
    curve = []
    for _, number, box in sorted(detections, key=lambda item: -item[0]):
        overlaps = [devkit_iou(box, truth) for truth, _ in objects[number]]
        best = max(overlaps, default=-1)
        if best < threshold:
            fp += 1
        elif not objects[number][overlaps.index(best)][1]:
            tp += not taken[number][overlaps.index(best)]
            fp += taken[number][overlaps.index(best)]
            taken[number][overlaps.index(best)] = True
        curve.append((tp / total, tp / (tp + fp) if tp + fp else 0.0))
    levels = [0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]  # MATLAB's 0:0.1:1
    points = [max([p for r, p in curve if r >= level], default=0) for level in levels]
    recalls = [0.0, *(r for r, _ in curve)]
    best = [max(p for _, p in curve[k:]) for k in range(len(curve))]
    area = sum((recalls[k + 1] - recalls[k]) * best[k] for k in range(len(curve)))
    return area, sum(points) / 11


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
def test_ap_equals_the_voc_kit(seed, tied, threshold):
    detections, objects = coco_sets.flatten(*coco_sets.random_set(seed, tied=tied))
    results = class_results(assign_voc(detections, objects, threshold), 3)
    for label, result in enumerate(results):
        rows = np.flatnonzero(detections.labels == label)
        truth = [np.flatnonzero((objects.image == image) & (objects.labels == label))
                 for image in range(40)]
        area, points = devkit_ap(
            [(detections.scores[k], detections.image[k], detections.boxes[k] + PIXELS)
             for k in rows],
            [[(objects.boxes[k] + PIXELS, objects.difficult[k]) for k in image] for image in truth],
            threshold)
        assert 0 < area < 1
        assert result.ap_area == pytest.approx(area, rel=0, abs=1e-12)
        assert result.ap_11_point == pytest.approx(points, rel=0, abs=1e-12)


@pytest.mark.parametrize("number, levels", [(3, 3), (6, 7), (7, 8)])
def test_11_points_at_the_recalls_that_binary_numbers_miss(number, levels):
    """Of ten objects 3, 6 or 7 found: a recall of 3 of 10 does not reach MATLAB's 0.3."""
    results = evaluate_voc([detected((0.9, BOX, 0))] * number + [detected()] * (10 - number),
                           [record((BOX, 0, False))] * 10, 1)
    assert results[0].ap_11_point == pytest.approx(levels / 11)


def test_class_without_objects_is_nan_and_not_in_the_mean():
    records = [record((BOX, 0, False), (FAR, 2, True))]
    results = evaluate_voc([detected((0.9, BOX, 0), (0.9, BOX, 1))], records, 3)
    # Class 2 has only a difficult object, which is none.
    assert [np.isnan(r.ap_area) and np.isnan(r.ap_11_point) for r in results] == [False, True, True]
    assert mean_ap(results) == mean_ap(results, "ap_11_point") == 1
    assert np.isnan(mean_ap(evaluate_voc([detected()], [record()], 2)))


def class_result(scores, right, total):
    """Return the ClassResult of detections by falling score, for `total` objects."""
    hits = np.cumsum(right)
    return ClassResult(0, 0, total, len(scores), scores, hits / np.arange(1, len(scores) + 1),
                       hits / total)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [20, 1000, 10 ** 7])
def test_best_f1_by_trying_each_score(levels, dtype):
    rng = np.random.default_rng(levels)
    scores = np.sort(rng.integers(1, levels, 80) / levels).astype(dtype)[::-1]
    right = rng.random(80) < scores
    best = best_f1(class_result(scores, right, 50))
    assert best["f1"] == pytest.approx(max(
        2 * right[kept].sum() / (kept.sum() + 50) for kept in (scores >= s for s in scores)))
    # The figures are those of what scores more than the confidence that is printed.
    kept = scores > dtype(float(f"{best['confidence']}"))
    assert best["precision"] == pytest.approx(right[kept].mean())
    assert best["recall"] == pytest.approx(right[kept].sum() / 50)
    assert best["f1"] == pytest.approx(2 / (1 / best["precision"] + 1 / best["recall"]))


@pytest.mark.parametrize("objects", [2, 12, 300])
@pytest.mark.parametrize("seed", range(6))
def test_the_confidence_to_work_with_by_trying_all(objects, seed):
    rng, count = np.random.default_rng(seed), 3 * objects
    labels, scores = rng.integers(0, 2, count), (rng.integers(1, 1000, count) / 1000) ** 2
    right = (rng.random(count) < scores) & (rng.permutation(count) < objects)
    steps, by_class, f1 = np.arange(5, 96) / 100 + 1e-9, [], []
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        by_class.append(class_result(scores[rows], right[rows], objects // 2))
        kept = (scores > steps[:, None]) & (labels == label)
        f1.append(2 * (kept & right).sum(1) / (kept.sum(1) + objects // 2))
    f1 = np.mean(f1, axis=0)
    low = high = f1.argmax()
    while low and f1[low - 1] >= 0.99 * f1.max():
        low -= 1
    while high < len(f1) - 1 and f1[high + 1] >= 0.99 * f1.max():
        high += 1
    expected = pytest.approx((steps[low] + steps[high]) / 2, abs=1e-4) if f1.any() else None
    assert best_confidence(by_class) == expected


@pytest.mark.parametrize("right, wrong, confidence", [
    (0.9, 0.1, 0.5), (0.04, 0.02, None), (0.6, -1, 0.325)])
def test_the_confidence_to_work_with_is_amid_and_of_use(right, wrong, confidence):
    scores = np.array([right, wrong] if wrong > 0 else [right], np.float32)
    assert best_confidence([class_result(scores, scores == scores[0], 1)]) == confidence


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    often = class_result(np.linspace(0.9, 0.3, 99), np.arange(99) < 50, 50)  # best at 0.6
    rarely = class_result(np.array([0.25, 0.2]), np.array([True, True]), 2)
    assert best_confidence([often]) > 0.5 and best_confidence([often, rarely]) < 0.2


def test_operating_points_without_meaning():
    result, other = evaluate_voc([detected((0.9, BOX, 0))], [record((BOX, 0, False))], 2)
    assert list(at_confidence(result, 0.8).values()) == [0.8, 1, 1, 1]
    np.testing.assert_equal(list(at_confidence(result, 0.95).values()), [0.95, 0, np.nan, 0])
    assert np.isnan(at_confidence(other, 0.5)["recall"]) and best_f1(other) is None
    assert best_confidence([other]) is best_confidence([]) is None
