"""Matching against greedy loops in exact fractions, and cases worked by hand."""

import math
from fractions import Fraction

import pytest
import torch
from coders import coder_for

from utils.multibox.boxes import to_cxcywh
from utils.multibox.matching import IGNORED, bipartite_match, make_targets, match

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
    a, b = [[Fraction(value) for value in box] for box in (a, b)]
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def naive_match(boxes, valid, priors, threshold):
    """Match one image: (P,) list of object indices from plain lists of xyxy boxes."""
    iou = [[exact_iou(box, prior) if ok else -1 for prior in priors]
           for box, ok in zip(boxes, valid)]
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


def targets_of(boxes, labels, priors, difficult=None, **options):
    """Call make_targets for one image given as lists of xyxy boxes."""
    boxes = torch.tensor([boxes], dtype=torch.float32).reshape(1, -1, 4)
    difficult = torch.tensor([difficult or [False] * len(labels)])
    return make_targets(boxes, torch.tensor([labels], dtype=torch.long), difficult,
                        coder_for(to_cxcywh(torch.tensor(priors))),
                        **{"match_iou": 0.5, **options})


@pytest.mark.parametrize("num_objects, num_priors", [(1, 1), (1, 9), (4, 20), (6, 6), (7, 3)])
@pytest.mark.parametrize("levels", [3, 6, 10 ** 6])
def test_bipartite_equals_the_greedy_loop(num_objects, num_priors, levels):
    generator = torch.Generator().manual_seed(levels + num_objects)
    iou = torch.randint(0, levels + 1, (40, num_objects, num_priors), generator=generator) / levels
    iou[torch.rand(40, num_objects, generator=generator) < 0.2] = -1  # padding
    before = iou.clone()
    bound = bipartite_match(iou)
    assert bound.dtype == torch.int64
    assert bound.tolist() == [greedy(image) for image in iou.tolist()]
    assert torch.equal(iou, before)


def test_bipartite_serves_copies_of_one_object_in_order():
    iou = torch.tensor([[0.9, 0.7, 0.2, 0.0]]).expand(4, 4)[None]
    # The fourth copy has nothing left that it touches.
    assert bipartite_match(iou).tolist() == [[0, 1, 2, -1]]


def test_bipartite_leaves_what_hardly_touches():
    assert bipartite_match(torch.tensor([[[1e-6, 5e-7]]])).tolist() == [[-1, -1]]
    assert bipartite_match(torch.tensor([[[0.0, 2e-6]]])).tolist() == [[-1, 0]]


def test_bipartite_resolves_a_chain():
    # Each object's first choice belongs to the next object, so only one pair is safe a round.
    iou = torch.tensor([[[0.6, 0.5, 0.0], [0.7, 0.65, 0.1], [0.8, 0.75, 0.72]]])
    assert bipartite_match(iou).tolist() == [greedy(iou[0].tolist())] == [[2, 1, -1]]


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("num_objects, num_priors", [(1, 12), (5, 25), (9, 4)])
def test_match_equals_the_loop(threshold, num_objects, num_priors):
    generator = torch.Generator().manual_seed(num_objects)
    boxes = grid_boxes(generator, 12, num_objects)
    boxes[::2, -1] = boxes[::2, 0]  # the same object twice
    priors = grid_boxes(generator, num_priors)
    priors[-1] = priors[0]
    valid = torch.rand(12, num_objects, generator=generator) < 0.8
    matched = match(boxes, valid, to_cxcywh(priors), threshold)
    assert matched.tolist() == [naive_match(b, v, priors.tolist(), threshold)
                                for b, v in zip(boxes.tolist(), valid.tolist())]


def test_threshold_itself_is_enough():
    whole = [0.0, 0.0, 1.0, 1.0]
    below = [0.0, 0.0, 1.0, 0.498046875]
    # IoU 1 takes the forced match; the half box has IoU 0.5 exactly.
    targets = targets_of([whole], [0], [whole, [0.0, 0.0, 1.0, 0.5], below])
    assert targets.labels.tolist() == [[1, 1, 0]]


def test_match_goes_to_the_best_object():
    prior = [0.0, 0.0, 1.0, 1.0]
    boxes = [[0.0, 0.0, 1.0, 0.625], [0.0, 0.0, 1.0, 0.75]]
    # Two equal priors: the better object takes one by force, the worse object the other.
    assert targets_of(boxes, [4, 7], [prior, prior, prior]).labels.tolist() == [[8, 5, 8]]


def test_object_that_loses_its_best_prior_takes_the_next():
    first, second = [0.0, 0.0, 0.5, 0.5], [0.375, 0.0, 0.875, 0.5]
    near = [0.125, 0.0, 0.5, 0.5]
    # `near` has IoU 0.75 with the first prior, but another object equals that prior; its IoU
    # with the second prior is far below the threshold.
    assert exact_iou(near, second) < Fraction(1, 5)
    targets = targets_of([near, first], [0, 1], [first, second, [0.5, 0.5, 1.0, 1.0]])
    assert targets.labels.tolist() == [[2, 1, 0]]


def test_labels_are_shifted_by_one_and_typed():
    box = [0.25, 0.25, 0.75, 0.75]
    targets = targets_of([box], [19], [box, [0.0, 0.0, 0.125, 0.125]])
    assert targets.labels.tolist() == [[20, 0]]
    assert targets.labels.dtype == torch.int64 and targets.loc.dtype == torch.float32
    assert int((targets.labels > 0).sum()) == 1


@pytest.mark.parametrize("padding", [[0.0] * 4, [0.0, 0.0, 0.5, 0.5], [-1.0] * 4,
                                     [0.9, 0.9, 0.1, 0.1], [1e30, 1e30, -1e30, 1e30]])
def test_padding_is_never_matched(padding):
    priors = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]
    targets = targets_of([padding, priors[1], padding], [-1, 2, -1], priors)
    assert targets.labels.tolist() == [[0, 3]]
    assert targets.loc.isfinite().all()
    alone = targets_of([padding], [-1], priors)
    assert alone.labels.tolist() == [[0, 0]] and int((alone.labels > 0).sum()) == 0
    assert alone.loc.isfinite().all()


@pytest.mark.parametrize("num_objects", [0, 3])
def test_batch_without_objects(num_objects):
    priors = to_cxcywh(grid_boxes(torch.Generator().manual_seed(0), 5))
    targets = make_targets(torch.zeros(2, num_objects, 4), torch.full((2, num_objects), -1),
                           torch.zeros(2, num_objects, dtype=torch.bool), coder_for(priors),
                           match_iou=0.5)
    assert targets.labels.shape == (2, 5) and targets.loc.shape == (2, 5, 4)
    assert targets.labels.dtype == torch.int64 and targets.loc.dtype == torch.float32
    assert not targets.labels.any() and int((targets.labels > 0).sum()) == 0
    assert targets.loc.isfinite().all()


def test_difficult_objects_can_be_ignored():
    easy, hard = [0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]
    priors = [easy, hard, [0.5, 0.5, 1.0, 0.875], [0.0, 0.5, 0.5, 1.0]]
    arguments = ([easy, hard], [0, 1], priors, [False, True])
    assert targets_of(*arguments).labels.tolist() == [[1, 2, 2, 0]]
    targets = targets_of(*arguments, train_on_difficult=False)
    assert targets.labels.tolist() == [[1, IGNORED, IGNORED, 0]]
    assert int((targets.labels > 0).sum()) == 1
    assert targets.loc[0, 1:].abs().max() < 1e-5


@pytest.mark.parametrize("train_on_difficult", [True, False])
def test_targets_equal_the_loop(train_on_difficult):
    generator = torch.Generator().manual_seed(3)
    boxes, priors = grid_boxes(generator, 10, 4), grid_boxes(generator, 30)
    labels = torch.randint(-1, 5, (10, 4), generator=generator)
    difficult = torch.rand(10, 4, generator=generator) < 0.3
    targets = make_targets(boxes, labels, difficult, coder_for(to_cxcywh(priors)), match_iou=0.5,
                           train_on_difficult=train_on_difficult)
    positives = 0
    for b in range(10):
        matched = naive_match(boxes[b].tolist(), (labels[b] >= 0).tolist(), priors.tolist(), 0.5)
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
            assert targets.labels[b, p] == expected
            assert targets.loc[b, p].tolist() == pytest.approx(loc, abs=1e-5)
    assert int((targets.labels > 0).sum()) == positives > 0


def test_batch_equals_single_images():
    generator = torch.Generator().manual_seed(4)
    boxes, priors = grid_boxes(generator, 6, 5), to_cxcywh(grid_boxes(generator, 40))
    valid = torch.rand(6, 5, generator=generator) < 0.7
    together = match(boxes, valid, priors, 0.5)
    for b in range(6):
        own = boxes[b][valid[b]][None]
        if own.shape[1] == 0:
            assert (together[b] == -1).all()
            continue
        # Without padding, object indices count the valid rows only.
        alone = match(own, torch.ones(1, own.shape[1], dtype=torch.bool), priors, 0.5)[0]
        rows = valid[b].nonzero()[:, 0]
        assert torch.equal(together[b], torch.where(alone >= 0, rows[alone.clamp(min=0)], -1))
