"""What is said about low figures, and which confidence is offered."""

import numpy as np
import pytest

from utils.evaluation.advice import advise
from utils.evaluation.assignment import Found, Objects, assign_voc, box_areas
from utils.evaluation.voc_ap import ClassResult, best_f1, class_results, pooled_result

NAMES = ("cat", "dog", "owl")


def lines(boxes, labels, scores, *, truth=((0, 0, 50, 50),) * 20, true_labels=(0,) * 20):
    """Return what is advised for one detection an image against one object each."""
    boxes, truth = (np.array(part, float).reshape(-1, 4) for part in (boxes, truth))
    found = Found(np.arange(len(boxes)), np.array(labels, int), np.array(scores, float), boxes,
                  box_areas(boxes))
    objects = Objects(np.arange(len(truth)), np.array(true_labels, int), truth,
                      np.zeros(len(truth), bool), *[box_areas(truth)] * 2)
    assignment = assign_voc(found, objects)
    return "\n".join(advise(assignment, class_results(assignment, 3), pooled_result(assignment),
                            NAMES))


GOOD, FAR = (0, 0, 50, 50), (200, 200, 250, 250)


@pytest.mark.parametrize("boxes, labels, says", [
    ([], [], "nothing was found of 20 objects"),
    ([FAR] * 20, [0] * 20, "the boxes fit 0 objects.*another weights_family"),
    ([(0, 0, 10, 50)] * 20, [0] * 20, "best IoU 0.200 with an object of the class, 0.200 with any"),
    ([GOOD] * 20, [1] * 15 + [2] * 5,
     r"the names do not: .* order\? dog on cat \(15 times\), owl on cat \(5 times\)"),
    ([FAR] * 18 + [GOOD] * 2, [0] * 20, "wrong detections score higher"),
])
def test_low_figures_are_explained(boxes, labels, says):
    import re
    text = lines(boxes, labels, np.linspace(0.9, 0.1, len(boxes)))
    assert re.search(says, text)
    if boxes:
        assert "near 0: 20 detections in 20 images, 20 objects in 20; best score 0.900" in text


def test_no_objects_and_good_figures():
    assert "the list has no objects that count" in lines([GOOD], [0], [1], truth=(), true_labels=())
    text = lines([GOOD] * 20, [0] * 20, [0.5] * 20)
    assert "why" not in text and "--confidence 0.499" in text
    assert text.startswith("2 of 3 classes are not in the mean, for want of objects: dog, owl")
    assert "1 of 3 classes were never detected: owl" in lines(
        [GOOD] * 20, [0] * 20, [0.5] * 20, true_labels=[0] * 19 + [2])


def naive_best_f1(scores, right, total):
    """Return (F1, confidence) by trying each threshold: keep what scores more than it."""
    best = (0, 0)
    for confidence in sorted({int(score * 1000 - 1e-9) / 1000 for score in scores}):
        kept = [hit for score, hit in zip(scores, right) if score > confidence]
        best = max(best, (2 * sum(kept) / (len(kept) + total), confidence))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_the_best_f1_is_what_that_confidence_gives(seed):
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.integers(1, 1000, 80) / 1000)[::-1]  # some are equal
    right = rng.random(80) < scores
    hits = np.cumsum(right)
    best = best_f1(ClassResult(0, 0, 50, 80, scores, hits / np.arange(1, 81), hits / 50))
    f1, confidence = naive_best_f1(scores.tolist(), right.tolist(), 50)
    assert best.f1 == pytest.approx(f1) and best.confidence == pytest.approx(confidence)
    kept = scores > best.confidence
    assert best.precision == pytest.approx(right[kept].mean())
    assert best.recall == pytest.approx(right[kept].sum() / 50)
    assert best.f1 == pytest.approx(2 / (1 / best.precision + 1 / best.recall))
