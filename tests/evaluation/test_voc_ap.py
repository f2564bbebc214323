"""Average precision against the VOC kit's loop, pycocotools, and cases worked by hand."""

import coco_sets
import numpy as np
import pytest

from utils.data.annotations import Record
from utils.detections import Detections
from utils.evaluation.assignment import assign_voc
from utils.evaluation.voc_ap import (ClassResult, area_under_curve, at_confidence, best_f1,
                                     class_results, evaluate_voc, mean_ap, mean_precision,
                                     precision_recall)
from utils.multibox.boxes import pairwise_iou

BOX, FAR = (10, 10, 50, 50), (100, 100, 150, 150)


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
    points = [max([p for r, p in curve if r >= level / 10], default=0) for level in range(11)]
    recalls = [0.0, *(r for r, _ in curve)]
    best = [max(p for _, p in curve[k:]) for k in range(len(curve))]
    area = sum((recalls[k + 1] - recalls[k]) * best[k] for k in range(len(curve)))
    return area, sum(points) / 11


def voc_boxes(rng, number):
    """Return (number, 4) int boxes, 1-based and inclusive, small enough to meet often."""
    low = rng.integers(1, 30, (number, 2))
    return np.concatenate([low, low + rng.integers(8, 30, (number, 2))], 1)


def edges(box):
    return tuple(np.asarray(box) - (1, 1, 0, 0))


def random_set(seed, tied):
    """Return (detections, objects) as 1-based inclusive rows of plain tuples, by image."""
    rng = np.random.default_rng(seed)
    detections, objects = [], []
    for _ in range(40):
        truth = voc_boxes(rng, rng.integers(0, 5))
        objects.append([(box, int(rng.integers(3)), bool(rng.random() < 0.25)) for box in truth])
        near = truth.repeat(2, 0) + rng.integers(-2, 3, (2 * len(truth), 4))
        boxes = np.concatenate([near, voc_boxes(rng, 4)])
        labels = np.array([row[1] for row in objects[-1]], int).repeat(2)
        labels = np.concatenate([labels, rng.integers(3, size=4)])
        scores = rng.integers(1, 5, len(boxes)) / 4 if tied else rng.random(len(boxes))
        detections.append(list(zip(scores.astype(np.float32), boxes, labels)))
    return detections, objects


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75, 1.0])
def test_ap_equals_the_voc_kit(seed, tied, threshold):
    detections, objects = random_set(seed, tied)
    results = evaluate_voc(
        [detected(*((score, edges(box), label) for score, box, label in rows))
         for rows in detections],
        [record(*((edges(box), label, hard) for box, label, hard in rows)) for rows in objects],
        3, iou_threshold=threshold)
    for label, result in enumerate(results):
        area, points = devkit_ap(
            [(score, image, box) for image, rows in enumerate(detections)
             for score, box, other in rows if other == label],
            [[(box, hard) for box, other, hard in rows if other == label] for rows in objects],
            threshold)
        assert 0 < area < 1 or threshold == 1
        assert result.ap_area == pytest.approx(area, rel=0, abs=1e-12)
        assert result.ap_11_point == pytest.approx(points, rel=0, abs=1e-12)


def test_edges_have_the_overlap_of_inclusive_pixels():
    rng = np.random.default_rng(0)
    a, b = voc_boxes(rng, 60), voc_boxes(rng, 60)
    ours = pairwise_iou((a - (1, 1, 0, 0)).astype(float), (b - (1, 1, 0, 0)).astype(float))
    # To the last bit: an overlap of exactly 0.5 has to stay on its side.
    assert ours.tolist() == [[devkit_iou(x, y) for y in b.tolist()] for x in a.tolist()]


@pytest.mark.parametrize("seed", range(3))
def test_ap_equals_pycocotools(seed):
    """With one object an image and class the two rules agree; COCO has the 11 recalls of VOC."""
    pytest.importorskip("pycocotools")
    truth, results = coco_sets.random_set(seed, tied=False)
    truth = list({(row["image_id"], row["category_id"]): row | {"iscrowd": 0}
                  for row in truth}.values())
    ours = class_results(assign_voc(*coco_sets.flatten(truth, results)), 3)
    precision = coco_sets.pycocotools(truth, results).eval["precision"][0, ::10, :, 0, 2]
    assert [result.ap_11_point for result in ours] == pytest.approx(precision.mean(0).tolist())


def test_ap_by_hand():
    # Right, wrong, right of two objects: precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1.
    detections = [detected((0.9, BOX, 0), (0.8, FAR, 0)), detected((0.7, BOX, 0))]
    result, = evaluate_voc(detections, [record((BOX, 0, False))] * 2, 1)
    assert result.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert result.recall.tolist() == pytest.approx([1 / 2, 1 / 2, 1])
    assert result.ap_area == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert result.ap_11_point == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert result.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert (result.num_objects, result.num_detections) == (2, 3)


def test_ap_of_a_published_example():
    # README of rafaelpadilla/Object-Detection-Metrics: 15 objects, 24 detections, summed there
    # from terms cut to four digits.
    right = np.zeros(24, bool)
    right[[0, 2, 9, 11, 12, 13, 22]] = True
    curve = precision_recall(right, 15)
    assert area_under_curve(*curve) == pytest.approx(0.2456, abs=1e-4)
    assert mean_precision(*curve, np.arange(11) / 10) == pytest.approx(0.2684, abs=1e-4)


def test_no_detections_score_zero():
    for detections in ([detected()], [detected((0.9, FAR, 1))]):
        result = evaluate_voc(detections, [record((BOX, 0, False))], 2)[0]
        assert (result.ap_area, result.ap_11_point, result.num_detections) == (0, 0, 0)
        assert len(result.scores) == len(result.precision) == len(result.recall) == 0


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
def test_best_f1_by_trying_each_thousandth(levels, dtype):
    rng = np.random.default_rng(levels)
    scores = np.sort(rng.integers(1, levels, 80) / levels).astype(dtype)[::-1]
    right = rng.random(80) < scores
    tried = []
    for confidence in np.arange(1000) / 1000:
        kept = scores > dtype(confidence)
        if kept.any():
            tried.append((2 * right[kept].sum() / (kept.sum() + 50), confidence))
    best = best_f1(class_result(scores, right, 50))
    assert best["f1"] == pytest.approx(max(tried)[0])
    # The figures are those of what scores more than the confidence that is printed.
    kept = scores > dtype(float(f"{best['confidence']:.3f}"))
    assert best["precision"] == pytest.approx(right[kept].mean())
    assert best["recall"] == pytest.approx(right[kept].sum() / 50)
    assert best["f1"] == pytest.approx(2 / (1 / best["precision"] + 1 / best["recall"]))


def test_best_f1_of_scores_in_one_thousandth():
    """Both are above 0.9: the wrong one cannot be left out by a confidence of three decimals."""
    best = best_f1(class_result(np.array([0.9009, 0.9003]), np.array([True, False]), 1))
    assert list(best.values()) == [0.9, pytest.approx(2 / 3), 0.5, 1]


def test_operating_points_without_meaning():
    result, other = evaluate_voc([detected((0.9, BOX, 0))], [record((BOX, 0, False))], 2)
    assert list(at_confidence(result, 0.8).values()) == [0.8, 1, 1, 1]
    np.testing.assert_equal(list(at_confidence(result, 0.95).values()), [0.95, 0, np.nan, 0])
    assert np.isnan(at_confidence(other, 0.5)["recall"]) and best_f1(other) is None
