"""How well the priors of a spec cover a data set, and sizes and ratios that cover it better."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from utils.data.augment import Augmentation, choose_geometry, move_boxes
from utils.image import boxes_to_input
from utils.multibox.boxes import area, pairwise_iou, to_cxcywh, to_xyxy
from utils.multibox.priors import make_priors
from utils.multibox.spec import SSDSpec
from utils.tiling import boxes_in_windows

MAX_OBJECTS = 600  # a sample of this many settles the search
STEPS = (0.8, 0.9, 1.1, 1.25)  # factors of a size that the search tries
RATIO_SETS = ((2,), (2, 3), (1.5, 2.5), (1.4, 2, 3), (2, 3, 5), (3, 5))
Objects = Sequence[tuple[np.ndarray, tuple[int, int]]]  # (G, 4) xyxy in pixels, (width, height)


def boxes_at_input(objects: Objects, spec: SSDSpec) -> np.ndarray:
    """Return the (N, 4) boxes, xyxy in fractions of the network's input, or else of their tile."""
    return np.concatenate([
        boxes_in_windows(boxes_px, size, spec.tile) if spec.tile else
        boxes_to_input(boxes_px / (*size, *size), *size, spec) for boxes_px, size in objects])


def augmented_boxes(objects: Objects, spec: SSDSpec, augmentation: Augmentation | None, seed: int
                    ) -> np.ndarray:
    """Return `boxes_at_input`, and behind them those of one augmented sample of each image."""
    samples = [boxes_at_input([item], spec) for item in objects]
    for number, boxes in enumerate(samples[:]):
        geometry = choose_geometry(boxes, augmentation, np.random.default_rng((seed, number)))
        samples.append(move_boxes(boxes, geometry)[0])
    return np.concatenate(samples)


def best_ious(boxes: np.ndarray, spec: SSDSpec) -> np.ndarray:
    """Return the (N,) IoU of each (N, 4) xyxy box, in fractions of the input, with its best prior.

    Of the priors of one shape the nearest is the best, so one cell of every map is examined.
    """
    maps = make_priors(spec).split([grid**2 * count for grid, count
                                    in zip(spec.grids, spec.priors_per_cell)])
    boxes = torch.as_tensor(np.asarray(boxes, np.float32))
    centres, best = to_cxcywh(boxes), torch.zeros(len(boxes))
    for priors, grid in zip(maps, spec.grids):
        cells = priors.view(grid, grid, -1, 4)
        column = (centres[:, :1] - cells[0, :, 0, 0]).abs().argmin(1)
        row = (centres[:, 1:2] - cells[:, 0, 0, 1]).abs().argmin(1)
        best = best.maximum(pairwise_iou(boxes[:, None], to_xyxy(cells[row, column])).amax((1, 2)))
    return best.numpy()


def covered(boxes: np.ndarray, spec: SSDSpec, match_iou: float) -> np.ndarray:
    """Tell which (N, 4) boxes have a positive prior, and half of their area in the input: (N,)."""
    return (best_ious(boxes, spec) >= match_iou) & (area(boxes.clip(0, 1)) >= area(boxes) / 2)


def fit_priors(boxes: np.ndarray, spec: SSDSpec, paper: SSDSpec, *, match_iou: float,
               seed: int = 0) -> SSDSpec:
    """Return a spec with the prior sizes and ratios that cover (N, 4) boxes better, N >= 1.

    Each size is enlarged or reduced while that helps, from the sizes of `paper` and from quantiles
    of the objects' sizes; ratios are the same on every map. `spec` is returned where nothing
    covers more.
    """
    boxes = sample = np.asarray(boxes, np.float32)
    if len(boxes) > MAX_OBJECTS:
        sample = np.random.default_rng(seed).choice(boxes, MAX_OBJECTS, replace=False)

    @cache
    def score(candidate):
        ious = best_ious(sample, candidate)
        return (ious >= match_iou).mean() + 0.2 * ious.mean()  # the mean settles ties
    sides = np.sqrt(area(sample)) * paper.size
    quantiles = np.quantile(sides, np.linspace(0.05, 0.95, len(paper.anchors_size)))
    starts = paper, _with_sizes(paper, quantiles)
    best = max((_climb(start, score) for start in starts), key=score)
    for ratios in RATIO_SETS:
        candidate = replace(best, aspect_ratios=(ratios,) * len(paper.grids))
        # More priors always cover more: they must be worth their time.
        growth = sum(candidate.priors_per_cell) / sum(best.priors_per_cell)
        if score(candidate) > score(best) + 0.01 * max(growth - 1, 0):
            best = candidate
    return max(spec, best, key=lambda priors: covered(boxes, priors, match_iou).mean())


def _climb(spec, score):
    """Return the best spec reached by changing one size at a time, in six rounds."""
    for _, k, step in itertools.product(range(6), range(len(spec.anchors_size)), STEPS):
        sizes = np.array(spec.anchors_size, dtype=float)
        sizes[k] *= step
        spec = max(spec, _with_sizes(spec, sizes), key=score)
    return spec


def _with_sizes(spec, sizes):
    """Return the spec with these sizes in integer pixels, each larger than the one before."""
    ranks = np.arange(len(sizes))
    sizes = np.maximum.accumulate(np.sort(sizes).clip(4, 2 * spec.size).round() - ranks) + ranks
    return replace(spec, anchors_size=tuple(sizes.tolist()))
