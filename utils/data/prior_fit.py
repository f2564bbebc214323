"""How well the priors of a spec cover a data set, and sizes and ratios that cover it better."""

import itertools
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from utils.multibox.boxes import area, pairwise_iou, to_cxcywh, to_xyxy
from utils.multibox.priors import make_priors

MAX_OBJECTS = 600  # a sample of this many settles the search
ROUNDS = 6
STEPS = (0.8, 0.9, 1.1, 1.25)  # what a size is multiplied with in the search
RATIO_SETS = ((2,), (2, 3), (1.5, 2.5), (1.4, 2, 3), (2, 3, 5), (3, 5))
AT_ONCE = 50_000  # boxes; bounds the memory, however many objects


class Suggestion(NamedTuple):
    """Settings for train.py, and what they gain."""

    anchors_size: tuple[float, ...]
    aspect_ratios: tuple[float, ...]  # the same on every map; () for those of the spec
    before: float  # share of objects whose best prior is a positive
    after: float


def best_ious(boxes, spec):
    """Return the IoU of each box with its best prior.

    Of the priors of one shape the one with the nearest centre is the best, so only those of the
    nearest cell of every map are looked at.

    Args:
        boxes: (N, 4) float array, xyxy fractions of the network input.
        spec: SSDSpec whose priors are not clipped.

    Returns:
        (N,) float32 array.
    """
    boxes = torch.as_tensor(np.asarray(boxes, dtype=np.float32)).reshape(-1, 4)
    shapes = list(zip(spec.grids, spec.priors_per_cell))
    maps = make_priors(spec).split([grid * grid * count for grid, count in shapes])
    found = [_best_ious(part, maps, shapes) for part in boxes.split(AT_ONCE)]
    return np.concatenate([np.zeros(0, np.float32), *found])


def _best_ious(boxes, maps, shapes):
    centres, nearest = to_cxcywh(boxes), []
    for priors, (grid, count) in zip(maps, shapes):
        cells = priors.view(grid, grid, count, 4)
        column = (centres[:, :1] - cells[0, :, 0, 0]).abs().argmin(1)
        row = (centres[:, 1:2] - cells[:, 0, 0, 1]).abs().argmin(1)
        nearest.append(to_xyxy(cells[row, column]))
    return pairwise_iou(boxes[:, None], torch.cat(nearest, 1)).amax((1, 2)).numpy()


def covered(boxes, spec, match_iou):
    """Tell which boxes have a positive, and at least half of their area in the input; (N,) bool.

    The arguments are those of `best_ious`; boxes may reach out of a window.
    """
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    return (best_ious(boxes, spec) >= match_iou) & (area(boxes.clip(0, 1)) >= area(boxes) / 2)


def suggest_priors(boxes, spec, paper, *, match_iou, seed=0):
    """Search prior sizes and ratios for a data set.

    Every size in turn is stretched and shrunk while that raises the score, from the paper's sizes
    and from quantiles of the objects' sizes. The priors of now are no start, so that a suggestion
    that was followed is found again, and nothing better.

    Args:
        boxes: (N, 4) float array, xyxy fractions of the network input, N >= 1.
        spec: SSDSpec with the priors of now.
        paper: the same SSDSpec with the paper's priors.
        match_iou: priors with at least this IoU to an object are positives.
        seed: of the sample taken from a large data set.

    Returns:
        Suggestion; the priors of now where nothing covers more.
    """
    boxes = np.asarray(boxes, dtype=np.float32)
    sample = boxes
    if len(boxes) > MAX_OBJECTS:
        sample = np.random.default_rng(seed).choice(boxes, MAX_OBJECTS, replace=False)

    @cache
    def score(candidate):
        ious = best_ious(sample, candidate)
        return (ious >= match_iou).mean() + 0.2 * ious.mean()  # the mean settles ties

    sides = np.sqrt(area(sample)) * paper.size
    quantiles = np.quantile(sides, np.linspace(0.05, 0.95, len(paper.anchors_size)))
    best = max((_climb(start, score) for start in (paper, _with_sizes(paper, quantiles))),
               key=score)
    uniform = ()
    for ratios in RATIO_SETS:
        candidate = replace(best, aspect_ratios=(ratios,) * len(paper.grids))
        # More priors always cover more: they must earn their time.
        gain = sum(candidate.priors_per_cell) / sum(best.priors_per_cell)
        if score(candidate) > score(best) + 0.01 * max(gain - 1, 0):
            best, uniform = candidate, ratios
    before, after = (float(covered(boxes, s, match_iou).mean()) for s in (spec, best))
    if after <= before:
        return Suggestion(spec.anchors_size, (), before, before)
    return Suggestion(best.anchors_size, uniform, before, after)


def _climb(spec, score):
    """Return the best spec found by changing one size at a time."""
    for _, k, step in itertools.product(range(ROUNDS), range(len(spec.anchors_size)), STEPS):
        sizes = np.array(spec.anchors_size, dtype=float)
        sizes[k] *= step
        spec = max(spec, _with_sizes(spec, sizes), key=score)
    return spec


def _with_sizes(spec, sizes):
    """Return the spec with these sizes in whole pixels, each larger than the one before."""
    sizes = np.sort(sizes).clip(4, 2 * spec.size).round()
    ranks = np.arange(len(sizes))
    sizes = np.maximum.accumulate(sizes - ranks) + ranks
    return replace(spec, anchors_size=tuple(sizes.tolist()))
