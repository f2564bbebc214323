"""Box maths against torchvision, plain loops and cases worked by hand."""

import math

import numpy as np
import pytest
import torch
import torchvision
from coders import coder_for

from utils.multibox.boxes import area, pairwise_intersection, pairwise_iou, to_cxcywh, to_xyxy
from utils.multibox.spec import SSDSpec

UNCLAMPED = SSDSpec(log_size_clamp=None)


def random_boxes(generator, *shape):
    corners = torch.rand(*shape, 2, 2, generator=generator, dtype=torch.float64)
    low, high = corners.amin(-2), corners.amax(-2)
    return torch.cat([low, high + 0.01], -1)


def naive_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_iou_equals_torchvision(generator):
    a, b = random_boxes(generator, 60), random_boxes(generator, 40)
    torch.testing.assert_close(pairwise_iou(a, b), torchvision.ops.box_iou(a, b))
    assert pairwise_iou(a, b).gt(0).any() and pairwise_iou(a, b).eq(0).any()


def test_area_equals_torchvision(generator):
    boxes = random_boxes(generator, 50)
    torch.testing.assert_close(area(boxes), torchvision.ops.box_area(boxes))


def test_iou_does_not_depend_on_the_unit(generator):
    a, b = random_boxes(generator, 20), random_boxes(generator, 20)
    torch.testing.assert_close(pairwise_iou(a * 500, b * 500), pairwise_iou(a, b))


def test_batched_iou_equals_one_by_one(generator):
    a, b = random_boxes(generator, 2, 3, 5), random_boxes(generator, 2, 3, 7)
    iou = pairwise_iou(a, b)
    assert iou.shape == (2, 3, 5, 7)
    for i in range(2):
        for j in range(3):
            assert torch.equal(iou[i, j], pairwise_iou(a[i, j], b[i, j]))


def test_one_set_is_broadcast_over_a_batch(generator):
    a, b = random_boxes(generator, 4, 5), random_boxes(generator, 7)
    iou = pairwise_iou(a, b)
    assert iou.shape == (4, 5, 7)
    for i in range(4):
        assert torch.equal(iou[i], pairwise_iou(a[i], b))


@pytest.mark.parametrize("function", [pairwise_iou, pairwise_intersection])
def test_numpy_equals_torch(function, generator):
    a, b = random_boxes(generator, 2, 9), random_boxes(generator, 2, 8)
    result = function(a.numpy(), b.numpy())
    assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(result, function(a, b).numpy())


@pytest.mark.parametrize("function", [to_cxcywh, to_xyxy, area])
def test_numpy_equals_torch_for_one_set(function, generator):
    boxes = random_boxes(generator, 2, 9)
    result = function(boxes.numpy())
    assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(result, function(boxes).numpy())


@pytest.mark.parametrize("n, m", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("make", [torch.zeros, np.zeros])
def test_empty_sets_give_empty_results(n, m, make):
    assert pairwise_iou(make((n, 4)), make((m, 4))).shape == (n, m)
    assert pairwise_iou(make((2, n, 4)), make((2, m, 4))).shape == (2, n, m)
    assert to_cxcywh(make((n, 4))).shape == to_xyxy(make((n, 4))).shape == (n, 4)


def test_zero_area_boxes_have_iou_zero():
    flat = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.1, 0.3, 0.9, 0.3]])
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    # A point has no overlap even with itself: 0 / 0 is 0 here, not nan.
    assert torch.equal(pairwise_iou(flat, torch.cat([flat, whole])), torch.zeros(2, 3))


def test_touching_boxes_do_not_overlap():
    a, b = torch.tensor([[0.0, 0.0, 0.5, 1.0]]), torch.tensor([[0.5, 0.0, 1.0, 1.0]])
    assert pairwise_intersection(a, b).item() == 0


def test_apart_in_both_axes_is_no_overlap():
    # Both differences are negative: their product alone would be a positive area.
    a, b = torch.tensor([[0.0, 0.0, 0.2, 0.2]]), torch.tensor([[0.6, 0.6, 0.9, 0.9]])
    assert pairwise_intersection(a, b).item() == 0


def test_iou_equals_a_loop_on_a_coarse_grid(generator):
    # Coarse corners make touching, equal and empty boxes frequent.
    boxes = torch.randint(0, 5, (40, 2, 2), generator=generator).sort(1).values.reshape(-1, 4)
    expected = [[naive_iou(a, b) for b in boxes.tolist()] for a in boxes.tolist()]
    torch.testing.assert_close(pairwise_iou(boxes.double(), boxes.double()),
                               torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("source, target, function", [("xyxy", "cxcywh", to_cxcywh),
                                                      ("cxcywh", "xyxy", to_xyxy)])
def test_formats_equal_torchvision(source, target, function, generator):
    boxes = random_boxes(generator, 30)
    torch.testing.assert_close(function(boxes),
                               torchvision.ops.box_convert(boxes, source, target))


def test_encode_by_hand():
    # The box has centre (0.5, 0.4) and size (0.4, 0.1); the prior's size is 0.2 either way.
    box = torch.tensor([[0.3, 0.35, 0.7, 0.45]], dtype=torch.float64)
    prior = torch.tensor([[0.45, 0.5, 0.2, 0.2]], dtype=torch.float64)
    expected = [[0.05 / 0.2 / 0.1, -0.1 / 0.2 / 0.1, math.log(2) / 0.2, -math.log(2) / 0.2]]
    torch.testing.assert_close(coder_for(prior).encode(box),
                               torch.tensor(expected, dtype=torch.float64))


def test_decode_by_hand():
    # Centre 0.5 + 1 * 0.1 * 0.2 = 0.52 and 0.5 - 0.04 = 0.46; sizes 0.2 * 3 and 0.4 / 2.
    loc = torch.tensor([[1.0, -1.0, math.log(3) / 0.2, -math.log(2) / 0.2]], dtype=torch.float64)
    prior = torch.tensor([[0.5, 0.5, 0.2, 0.4]], dtype=torch.float64)
    expected = torch.tensor([[0.22, 0.36, 0.82, 0.56]], dtype=torch.float64)
    torch.testing.assert_close(coder_for(prior).decode(loc), expected)


@pytest.mark.parametrize("variances", [(0.1, 0.2), (1.0, 1.0)])
@pytest.mark.parametrize("shape", [(50,), (3, 50)])
def test_decode_inverts_encode(variances, shape, generator):
    boxes = random_boxes(generator, *shape)
    priors = to_cxcywh(random_boxes(generator, 50))
    coder = coder_for(priors, SSDSpec(variances=variances))
    again = coder.decode(coder.encode(boxes))
    assert again.shape == boxes.shape
    torch.testing.assert_close(again, boxes)


def test_a_prior_encodes_itself_as_zero():
    prior = torch.tensor([[0.5, 0.25, 0.5, 0.25]])
    assert torch.equal(coder_for(prior).encode(to_xyxy(prior)), torch.zeros(1, 4))


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e30])
def test_clamp_keeps_decode_finite(offset):
    prior = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    loc = torch.tensor([[0.0, 0.0, offset, offset]])
    assert not coder_for(prior, UNCLAMPED).decode(loc).isfinite().all()
    sizes = to_cxcywh(coder_for(prior).decode(loc))[0, 2:]
    torch.testing.assert_close(sizes, torch.tensor([0.2, 0.4]) * 62.5)


def test_clamp_leaves_small_sizes_alone():
    prior = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    for loc in (torch.full((1, 4), 5.0), torch.full((1, 4), -40.0)):
        assert torch.equal(coder_for(prior).decode(loc),
                           coder_for(prior, UNCLAMPED).decode(loc))


def test_arguments_are_not_changed(generator):
    a, b = random_boxes(generator, 6), random_boxes(generator, 6)
    before = a.clone(), b.clone()
    pairwise_iou(a, b)
    coder_for(b).decode(coder_for(b).encode(a))
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])
