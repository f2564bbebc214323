"""Box maths against torchvision, plain loops and cases worked by hand."""

import math

import numpy as np
import pytest
import torch
import torchvision
from coders import coder_for
from naive import naive_iou

from utils.multibox.boxes import pairwise_intersection, pairwise_iou, to_cxcywh, to_xyxy
from utils.multibox.spec import SSDSpec

UNCLAMPED = SSDSpec(log_size_clamp=None)


def random_boxes(generator, *shape):
    corners = torch.rand(*shape, 2, 2, generator=generator, dtype=torch.float64)
    low, high = corners.amin(-2), corners.amax(-2)
    return torch.cat([low, high + 0.01], -1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("function", [pairwise_iou, pairwise_intersection])
def test_numpy_equals_torch(function, generator):
    a, b = random_boxes(generator, 2, 9), random_boxes(generator, 2, 8)
    result = function(a.numpy(), b.numpy())
    assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(result, function(a, b).numpy())


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


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e30])
def test_clamp_keeps_decode_finite(offset):
    prior = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    loc = torch.tensor([[0.0, 0.0, offset, offset]])
    assert not coder_for(prior, UNCLAMPED).decode(loc).isfinite().all()
    sizes = to_cxcywh(coder_for(prior).decode(loc))[0, 2:]
    torch.testing.assert_close(sizes, torch.tensor([0.2, 0.4]) * 62.5)
