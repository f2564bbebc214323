"""Matching against greedy loops in exact fractions, and cases worked by hand."""

import math
from fractions import Fraction

import pytest
import torch
from coders import coder_for
from naive import naive_iou

from utils.multibox.boxes import to_cxcywh
from utils.multibox.loss import MultiBoxLoss
from utils.multibox.matching import bipartite_match, make_image_targets, match

GRID = 8  # corners at multiples of 1/8: float32 is exact, so ties and boundaries are real


def greedy(iou):
    """Bind the best pair left, lowest object then lowest prior first, until none touches."""
    objects, priors = set(range(len(iou))), set(range(len(iou[0])))
    bound = [-1] * len(priors)
    while objects and priors:
        best, pair = 1e-6, None
        for g in sorted(objects):
            for p in sorted(priors):
                if iou[g][p] > best:
                    best, pair = iou[g][p], (g, p)
        if pair is None:
            break
        bound[pair[1]] = pair[0]
        objects.remove(pair[0])
        priors.remove(pair[1])
    return bound


def exact_iou(a, b):
    return naive_iou(*([Fraction(value) for value in box] for box in (a, b)))


def naive_match(boxes, priors, threshold):
    """Match one image: (P,) list of object indices from plain lists of xyxy boxes."""
    iou = [[exact_iou(box, prior) for prior in priors] for box in boxes]
    matched = greedy(iou)
    for p in range(len(priors)):
        column = [row[p] for row in iou]
        if matched[p] < 0 and max(column) >= threshold:
            matched[p] = column.index(max(column))
    return matched


def grid_boxes(generator, *shape):
    low = torch.randint(0, GRID - 1, (*shape, 2), generator=generator)
    size = torch.randint(1, GRID // 2 + 1, (*shape, 2), generator=generator)
    return torch.cat([low, (low + size).clamp(max=GRID)], -1).float() / GRID


@pytest.mark.parametrize("num_objects, num_priors", [(1, 1), (1, 9), (4, 20), (6, 6), (7, 3)])
@pytest.mark.parametrize("levels", [3, 6, 10 ** 6])
def test_bipartite_equals_the_greedy_loop(num_objects, num_priors, levels):
    generator = torch.Generator().manual_seed(levels + num_objects)
    images = torch.randint(0, levels + 1, (40, num_objects, num_priors), generator=generator)
    for iou in images / levels:
        before = iou.clone()
        assert bipartite_match(iou).tolist() == greedy(iou.tolist())
        assert torch.equal(iou, before)


def test_bipartite_leaves_what_hardly_touches():
    assert bipartite_match(torch.tensor([[1e-6, 5e-7]])).tolist() == [-1, -1]
    assert bipartite_match(torch.tensor([[0.0, 2e-6]])).tolist() == [-1, 0]


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("num_objects, num_priors", [(1, 12), (5, 25), (9, 4)])
def test_match_equals_the_loop(threshold, num_objects, num_priors):
    generator = torch.Generator().manual_seed(num_objects)
    images = grid_boxes(generator, 12, num_objects)
    images[::2, -1] = images[::2, 0]  # the same object twice
    priors = grid_boxes(generator, num_priors)
    priors[-1] = priors[0]
    for boxes in images:
        assert match(boxes, priors, threshold).tolist() == naive_match(
            boxes.tolist(), priors.tolist(), threshold)


@pytest.mark.parametrize("padding", [[0.0] * 4, [0.0, 0.0, 0.5, 0.5], [1e30, 1e30, -1e30, 1e30]])
def test_padding_is_never_matched(padding):
    priors = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    criterion = MultiBoxLoss(coder_for(to_cxcywh(priors)))
    boxes = torch.tensor([[padding, priors[1].tolist(), padding], [padding] * 3])
    labels = torch.tensor([[-1, 2, -1], [-1] * 3])
    targets = criterion.make_targets(boxes, labels, labels == 0)
    assert targets.labels.tolist() == [[0, 3], [0, 0]]
    assert targets.loc.isfinite().all()


@pytest.mark.parametrize("train_on_difficult", [True, False])
def test_targets_equal_the_loop(train_on_difficult):
    generator = torch.Generator().manual_seed(3)
    boxes, priors = grid_boxes(generator, 10, 4), grid_boxes(generator, 30)
    labels = torch.randint(0, 5, (10, 4), generator=generator)
    difficult = torch.rand(10, 4, generator=generator) < 0.3
    positives, coder = 0, coder_for(to_cxcywh(priors))
    for b in range(10):
        targets = make_image_targets(boxes[b], labels[b], difficult[b], coder, match_iou=0.5,
                               train_on_difficult=train_on_difficult)
        matched = naive_match(boxes[b].tolist(), priors.tolist(), 0.5)
        for p, g in enumerate(matched):
            expected, loc = 0, [0.0] * 4
            if g >= 0 and difficult[b, g] and not train_on_difficult:
                expected = -1
            elif g >= 0:
                expected, positives = int(labels[b, g]) + 1, positives + 1
                (x0, y0, x1, y1), (px0, py0, px1, py1) = boxes[b, g].tolist(), priors[p].tolist()
                pw, ph = px1 - px0, py1 - py0
                loc = [((x0 + x1) - (px0 + px1)) / 2 / pw / 0.1,
                       ((y0 + y1) - (py0 + py1)) / 2 / ph / 0.1,
                       math.log((x1 - x0) / pw) / 0.2, math.log((y1 - y0) / ph) / 0.2]
            assert targets.labels[p] == expected
            assert targets.loc[p].tolist() == pytest.approx(loc, abs=1e-5)
    assert positives > 0
