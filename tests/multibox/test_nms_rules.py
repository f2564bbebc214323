"""Class-agnostic NMS and the class filter, against torchvision and by hand."""

import pytest
import torch
import torchvision

from utils.multibox.postprocess import Thresholds, select


def outputs(seed, priors=60, classes=3):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(1, priors, 2, generator=generator) * 0.5
    boxes = torch.cat([low, low + 0.1 + torch.rand(1, priors, 2, generator=generator) * 0.4], 2)
    return boxes, torch.rand(1, priors, classes, generator=generator)


def kept(boxes, scores, **rules):
    thresholds = Thresholds(**{"confidence": 0.3, "nms_iou": 0.4, **rules})
    return select(boxes, scores, thresholds, clip=True)[0]


@pytest.mark.parametrize("seed", range(3))
def test_agnostic_equals_nms_without_classes(seed):
    boxes, scores = outputs(seed)
    found = kept(boxes, scores, nms="agnostic")
    priors, labels = (scores[0] > 0.3).nonzero(as_tuple=True)
    flat = scores[0, priors, labels]
    keep = torchvision.ops.nms(boxes[0, priors], flat, 0.4)
    assert torch.equal(found.scores, flat[keep]) and torch.equal(found.labels, labels[keep])
    assert torch.equal(found.boxes, boxes[0, priors[keep]])
    assert len(found.scores) < len(kept(boxes, scores).scores)


@pytest.mark.parametrize("rule", ["class", "agnostic"])
def test_of_tied_scores_as_many_as_allowed_are_kept(rule):
    """Of 60 boxes side by side and 3 classes, the first 5; all at the places of the best class."""
    left = torch.arange(60) / 60
    boxes = torch.stack([left, left * 0, left + 1 / 60, left * 0 + 1], 1)[None]
    scores = torch.full((1, 60, 3), 0.5) + torch.arange(3) / 10
    found = kept(boxes, scores, nms=rule, max_per_class=5, max_per_image=0)
    expected = [0, 0, 5] if rule == "agnostic" else [5, 5, 5]
    assert found.labels.bincount(minlength=3).tolist() == expected
    assert torch.equal(found.boxes[found.labels == 2], boxes[0, :5])


def test_by_hand():
    boxes = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 0.5], [0, 0, 0.5, 1]]])  # IoU 0.5, 0.5, 1/3
    scores = torch.tensor([[[0.9, 0], [0.8, 0], [0, 0.7]]])
    assert kept(boxes, scores).scores.tolist() == pytest.approx([0.9, 0.7])
    assert kept(boxes, scores, nms="agnostic").scores.tolist() == pytest.approx([0.9])
    # What is not looked for suppresses nothing.
    found = kept(boxes, scores, nms="agnostic", classes=[1])
    assert found.labels.tolist() == [1] and found.scores.tolist() == pytest.approx([0.7])
