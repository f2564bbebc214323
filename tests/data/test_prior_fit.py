"""Priors against a data set: coverage, and the search for better sizes."""

from dataclasses import replace

import numpy as np
import pytest
from naive import naive_iou
from PIL import Image

from utils.data.annotations import Record
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import DetectionDataset
from utils.data.prior_fit import augmented_boxes, best_ious, covered, fit_priors
from utils.multibox.boxes import area, to_xyxy
from utils.multibox.priors import make_priors
from utils.multibox.spec import SSDSpec

# Few cells, so that naive loops over all priors stay short.
SMALL = SSDSpec(input_shape=(96, 96), grids=(6, 4, 3, 2, 1, 1), steps=None,
                anchors_size=(10, 20, 36, 52, 68, 84, 100))


def random_boxes(count, seed, smallest=0.03, largest=0.9):
    rng = np.random.default_rng(seed)
    sides = rng.uniform(smallest, largest, (count, 2))
    low = rng.uniform(0, 1, (count, 2)) * (1 - sides)
    return np.concatenate([low, low + sides], 1)


def naive_best_iou(box, priors):
    return max(naive_iou(box, prior) for prior in priors)


def naive_coverage(boxes, spec, match_iou=0.5):
    priors = to_xyxy(make_priors(spec)).tolist()
    return np.mean([naive_best_iou(box, priors) >= match_iou for box in boxes.tolist()])


def fit(boxes, spec, seed=0):
    return fit_priors(boxes, spec, SMALL, match_iou=0.5, seed=seed)


@pytest.mark.parametrize("spec", [SMALL, replace(SMALL, steps=(20, 24, 30, 50, 90, 96))])
def test_best_ious_equal_a_naive_loop(spec):
    boxes, priors = random_boxes(40, 0), to_xyxy(make_priors(spec)).tolist()
    np.testing.assert_allclose(best_ious(boxes, spec), [
        naive_best_iou(box, priors) for box in boxes.tolist()], atol=1e-5)


def test_a_box_that_is_mostly_outside_is_not_covered():
    boxes = np.array([[0.3, 0.3, 0.8, 0.8], [-0.3, 0.3, 0.2, 0.8]])
    assert covered(boxes, SMALL, 0.1).tolist() == [True, False]


@pytest.mark.parametrize("seed, smallest, largest", [(0, 0.03, 0.9), (1, 0.02, 0.08)])
def test_fitted_priors_never_cover_less_and_are_found_again(seed, smallest, largest):
    boxes = random_boxes(20, seed, smallest, largest)
    fitted = fit(boxes, SMALL, seed)
    assert naive_coverage(boxes, fitted) >= naive_coverage(boxes, SMALL)
    assert len(fitted.anchors_size) == 7 and fit(boxes, fitted, seed) == fitted


@pytest.mark.parametrize("changes", [{}, {"letterbox": True}, {"tile": 80}])
def test_augmented_boxes_are_those_of_training(tmp_path, changes):
    """Their sizes are distributed as those of the loader."""
    spec, size, path = replace(SMALL, **changes), (160, 90), tmp_path / "a.png"
    Image.new("RGB", size).save(path)
    boxes_px = random_boxes(12, 3, 0.05, 0.5) * (*size, *size)
    record = Record(path, boxes_px, np.zeros(12, int), np.zeros(12, bool))
    dataset = DetectionDataset([record], spec, AUGMENTATIONS["paper"], 0)
    trained = np.concatenate([dataset[epoch, 0][1] for epoch in range(300)])
    fitted = augmented_boxes([(boxes_px, size)] * 300, spec, AUGMENTATIONS["paper"], 0)[3600:]
    for quantile in (0.1, 0.5, 0.9):
        sides = [np.quantile(area(boxes)**0.5, quantile) for boxes in (fitted, trained)]
        assert abs(sides[0] - sides[1]) < 0.06
