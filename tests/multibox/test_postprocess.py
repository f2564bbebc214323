"""Decoding and suppression against a loop, torchvision and cases worked by hand."""

import math

import pytest
import torch
import torchvision
from coders import coder_for
from naive import naive_iou

from utils.multibox.postprocess import Thresholds, decode_outputs, select
from utils.multibox.spec import BOX_CLIPS, SSDSpec


def postprocess(loc, conf, priors, spec, **options):
    boxes, scores = decode_outputs(loc, conf, coder_for(priors, spec))
    return select(boxes, scores, Thresholds(**options), clip=spec.box_clip == "after_nms")


def suppress(boxes, scores, confidence=0.3, nms_iou=0.4, **rules):
    """Select from (P, 4) boxes and (P, C) scores of one image."""
    thresholds = Thresholds(**{"confidence": confidence, "nms_iou": nms_iou, "max_per_image": 0,
                               **rules})
    return select(boxes[None], scores[None], thresholds, clip=False)[0]


def naive_nms(boxes, scores, threshold):
    """Return kept indices, best first: a box goes if it overlaps a kept one by more."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(naive_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def naive_decode(loc, prior, clip):
    cx, cy = (prior[i] + 0.1 * loc[i] * prior[i + 2] for i in (0, 1))
    w, h = (prior[i] * math.exp(0.2 * loc[i]) for i in (2, 3))
    box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    return [min(max(value, 0), 1) for value in box] if clip else box


def naive_postprocess(loc, conf, priors, rule, confidence, nms_iou, max_per_class, max_per_image):
    """Return the (score, label, box) list of one image, best first."""
    boxes = [naive_decode(*pair, rule == "before_nms") for pair in zip(loc, priors)]
    found = []
    for label in range(1, len(conf[0])):
        candidates = []
        for box, row in zip(boxes, conf):
            score = math.exp(row[label]) / sum(map(math.exp, row))
            if score > confidence:
                candidates.append((score, box))
        candidates = sorted(candidates, key=lambda pair: -pair[0])[:max_per_class]
        scores, own = [pair[0] for pair in candidates], [pair[1] for pair in candidates]
        found += [(scores[i], label - 1, own[i]) for i in naive_nms(own, scores, nms_iou)]
    found = sorted(found, key=lambda item: -item[0])[:max_per_image or None]
    if rule == "after_nms":
        found = [(s, label, [min(max(v, 0), 1) for v in box]) for s, label, box in found]
    return found


def random_outputs(seed, batch=3, priors=80, classes=5):
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(batch, priors, 4, generator=generator)
    conf = torch.randn(batch, priors, classes, generator=generator) * 2
    priors_cxcywh = torch.rand(priors, 4, generator=generator) * 0.6 + 0.2
    return loc, conf, priors_cxcywh


@pytest.mark.parametrize("rule", BOX_CLIPS)
@pytest.mark.parametrize("confidence, nms_iou, max_per_class, max_per_image", [
    (0.01, 0.45, 400, 200), (0.3, 0.2, 400, 0), (0.05, 0.6, 10, 15)])
def test_postprocess_equals_the_loop(rule, confidence, nms_iou, max_per_class, max_per_image):
    loc, conf, priors = random_outputs(0)
    found = postprocess(loc, conf, priors, SSDSpec(box_clip=rule), confidence=confidence,
                        nms_iou=nms_iou, max_per_class=max_per_class, max_per_image=max_per_image)
    assert len(found) == len(loc)
    for b, detections in enumerate(found):
        expected = naive_postprocess(loc[b].tolist(), conf[b].tolist(), priors.tolist(), rule,
                                     confidence, nms_iou, max_per_class, max_per_image)
        scores, labels, boxes = zip(*expected)
        assert detections.labels.tolist() == list(labels)
        torch.testing.assert_close(detections.scores, torch.tensor(scores))
        torch.testing.assert_close(detections.boxes, torch.tensor(boxes), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", ["class", "agnostic"])
@pytest.mark.parametrize("nms_iou", [0.2, 0.45, 0.7])
def test_suppression_equals_torchvisions_nms(nms_iou, rule):
    generator = torch.Generator().manual_seed(1)
    low = torch.rand(150, 2, generator=generator)
    boxes = torch.cat([low, low + torch.rand(150, 2, generator=generator) * 0.4 + 0.05], 1)
    scores = torch.rand(150, 6, generator=generator)
    rows, labels = (scores > 0.4).nonzero(as_tuple=True)
    classes = labels if rule == "class" else labels * 0
    keep = torchvision.ops.batched_nms(boxes[rows], scores[rows, labels], classes, nms_iou)
    found = suppress(boxes, scores, 0.4, nms_iou, nms=rule)
    assert 0 < len(keep) < len(rows)
    assert torch.equal(found.scores, scores[rows, labels][keep])
    assert torch.equal(found.labels, labels[keep])
    assert torch.equal(found.boxes, boxes[rows[keep]])


@pytest.mark.parametrize("rule", ["class", "agnostic"])
def test_of_tied_scores_as_many_as_allowed_are_kept(rule):
    """Of 60 boxes side by side and 3 classes, the first 5; all at the places of the best class."""
    left = torch.arange(60) / 60
    boxes = torch.stack([left, left * 0, left + 1 / 60, left * 0 + 1], 1)
    scores = torch.full((60, 3), 0.5) + torch.arange(3) / 10
    found = suppress(boxes, scores, nms=rule, max_per_class=5)
    expected = [0, 0, 5] if rule == "agnostic" else [5, 5, 5]
    assert found.labels.bincount(minlength=3).tolist() == expected
    assert torch.equal(found.boxes[found.labels == 2], boxes[:5])


def test_the_two_rules_and_the_class_filter_by_hand():
    boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0.5], [0, 0, 0.5, 1]])  # IoU 0.5, 0.5, 1/3
    scores = torch.tensor([[0.9, 0], [0.8, 0], [0, 0.7]])
    assert suppress(boxes, scores).scores.tolist() == pytest.approx([0.9, 0.7])
    assert suppress(boxes, scores, nms="agnostic").scores.tolist() == pytest.approx([0.9])
    # What is not looked for suppresses nothing.
    found = suppress(boxes, scores, nms="agnostic", classes=[1])
    assert found.labels.tolist() == [1] and found.scores.tolist() == pytest.approx([0.7])


def test_score_equal_to_confidence_is_dropped():
    # Two equal scores are 0.5 each exactly. The other prior is found either way.
    conf = torch.tensor([[[0.0, 0.0], [0.0, 5.0]]])
    priors = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.7, 0.7, 0.1, 0.1]])
    for confidence, number in ((0.5, 1), (0.4999, 2)):
        found = postprocess(torch.zeros(1, 2, 4), conf, priors, SSDSpec(), confidence=confidence,
                            nms_iou=0.45)
        assert len(found[0].scores) == number


def test_overlap_equal_to_the_threshold_is_kept():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5]])
    scores = torch.tensor([[0.9], [0.8]])
    assert len(suppress(boxes, scores, nms_iou=0.5).scores) == 2
    assert suppress(boxes, scores, nms_iou=0.4999).scores.tolist() == [pytest.approx(0.9)]


@pytest.mark.parametrize("rule", BOX_CLIPS)
def test_nothing_found_has_shapes_and_types(rule):
    loc, conf, priors = random_outputs(3)
    conf[..., 0] = 50
    for found in postprocess(loc, conf, priors, SSDSpec(box_clip=rule), confidence=0.5,
                             nms_iou=0.45):
        assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))
        assert (found.boxes.dtype, found.scores.dtype) == (torch.float32, torch.float32)
        assert found.labels.dtype == torch.int64
