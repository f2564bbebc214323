"""Priors against the paper's numbers, cells worked by hand and a loop."""

import math

import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from nets.ssd import build_spec
from nets.weights.families import FAMILIES
from utils.multibox.boxes import to_xyxy
from utils.multibox.priors import make_priors
from utils.multibox.spec import COCO_SCALES, PRIOR_CLIPS, SSDSpec

SQRT2, SQRT3 = math.sqrt(2), math.sqrt(3)
VGG300, VGG512, MOBILE300 = ("vgg", 300), ("vgg", 512), ("mobilenetv2", 300)


def naive_priors(spec):
    """Return the (P, 4) cxcywh list by looping over maps, rows and columns."""
    side, priors = spec.input_shape[0], []
    for k, grid in enumerate(spec.grids):
        small, large = spec.anchors_size[k] / side, spec.anchors_size[k + 1] / side
        for row in range(grid):
            for column in range(grid):
                cells = grid if spec.steps is None else side / spec.steps[k]
                centre = [(column + 0.5) / cells, (row + 0.5) / cells]
                priors.append(centre + [small, small])
                priors.append(centre + [(small * large) ** 0.5] * 2)
                for ratio in spec.aspect_ratios[k]:
                    priors.append(centre + [small * ratio ** 0.5, small * ratio ** -0.5])
                    priors.append(centre + [small * ratio ** -0.5, small * ratio ** 0.5])
    return priors


def naive_clip(prior, rule):
    def limit(value):
        return min(max(value, 0.0), 1.0)

    cx, cy, w, h = prior
    if rule == "corners":
        left, right = limit(cx - w / 2), limit(cx + w / 2)
        top, bottom = limit(cy - h / 2), limit(cy + h / 2)
        return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    if rule == "centre_size":
        return [limit(value) for value in prior]
    if rule == "size":
        return [cx, cy, limit(w), limit(h)]
    return list(prior)


def assert_priors(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float32),
                               rtol=0, atol=2e-7)


def test_first_cells_of_ssd300_by_hand():
    shapes = [[30, 30], [math.sqrt(1800)] * 2, [30 * SQRT2, 30 / SQRT2], [30 / SQRT2, 30 * SQRT2]]
    # The second cell lies to the right of the first.
    expected = [[cx, 4, *shape] for cx in (4, 12) for shape in shapes]
    assert_priors(make_priors(SSDSpec())[:8], [[v / 300 for v in row] for row in expected])


@pytest.mark.parametrize("network", [VGG300, MOBILE300])
@pytest.mark.parametrize("rule", PRIOR_CLIPS)
@pytest.mark.parametrize("changes", [{}, {"steps": None}])
def test_priors_equal_a_loop(network, rule, changes):
    spec = build_spec(*network, prior_clip=rule, **changes)
    assert_priors(make_priors(spec), [naive_clip(prior, rule) for prior in naive_priors(spec)])


def test_priors_of_the_torchvision_family_are_torchvisions():
    spec = build_spec(*VGG300, scales=COCO_SCALES, **FAMILIES["torchvision"].preset)
    # The constants of torchvision.models.detection.ssd300_vgg16.
    generator = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05], steps=[8, 16, 32, 64, 100, 300])
    images = ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)])
    boxes, = generator(images, [torch.zeros(1, 1, grid, grid) for grid in spec.grids])
    torch.testing.assert_close(to_xyxy(make_priors(spec)) * 300, boxes, rtol=0, atol=1e-3)


def test_other_input_size_equals_a_loop():
    spec = SSDSpec(input_shape=(512, 512), grids=(7, 3), steps=(64, 128.5),
                   anchors_size=(35.84, 76.8, 153.6), aspect_ratios=((), (1.5, 2, 3)))
    assert_priors(make_priors(spec), naive_priors(spec))
