"""How well the priors of a spec cover a data set, and sizes and ratios that cover it better."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from utils.boxes import pairwise_iou, to_xyxy
from utils.priors import make_priors

MATCH_IOU = 0.5
MAX_OBJECTS = 600  # a sample of this many settles the search
ROUNDS = 2
STEPS = (0.8, 0.9, 1.1, 1.25)  # what a size is multiplied with in the search
RATIO_SETS = ((2,), (2, 3), (1.5, 2.5), (1.4, 2, 3), (2, 3, 5), (3, 5))


class Suggestion(NamedTuple):
    """Settings for train.py, and what they gain."""

    anchors_size: tuple[float, ...]
    aspect_ratios: tuple[float, ...]  # the same on every map; () for those of the spec
    before: float  # share of objects whose best prior has IoU >= 0.5
    after: float


def best_ious(boxes, spec, chunk=256):
    """Return the IoU of each box with its best prior.

    Args:
        boxes: (N, 4) float array, xyxy fractions of the network input.
        spec: SSDSpec.

    Returns:
        (N,) float32 array.
    """
    priors = to_xyxy(make_priors(spec))
    boxes = torch.as_tensor(np.asarray(boxes, dtype=np.float32)).reshape(-1, 4)
    parts = [pairwise_iou(part, priors).amax(1) for part in boxes.split(chunk) if len(part)]
    return torch.cat(parts).numpy() if parts else np.zeros(0, dtype=np.float32)


def suggest_priors(boxes, spec, seed=0):
    """Search prior sizes and ratios for a data set.

    Every size in turn is stretched and shrunk while that raises the mean IoU of the objects with
    their best priors; the paper's sizes and quantiles of the objects' sizes are the starts.

    Args:
        boxes: (N, 4) float array, xyxy fractions of the network input, N >= 1.
        spec: SSDSpec with the priors of now.
        seed: of the sample taken from a large data set.

    Returns:
        Suggestion; the spec's own values where nothing covers more.
    """
    everything = boxes = np.asarray(boxes, dtype=np.float32)
    if len(boxes) > MAX_OBJECTS:
        rng = np.random.default_rng(seed)
        boxes = boxes[rng.choice(len(boxes), MAX_OBJECTS, replace=False)]
    best, best_score = spec, _score(boxes, spec)
    for start in (spec, _from_quantiles(boxes, spec)):
        found, score = _climb(boxes, start)
        if score > best_score:
            best, best_score = found, score
    uniform = ()
    for ratios in RATIO_SETS:
        candidate = replace(best, aspect_ratios=(ratios,) * len(spec.grids))
        score = _score(boxes, candidate)
        # More priors always cover more: they must earn their time.
        gain = sum(candidate.priors_per_cell) / sum(best.priors_per_cell)
        if score > best_score + 0.01 * max(gain - 1, 0):
            best, best_score, uniform = candidate, score, ratios
    before, after = (float((best_ious(everything, s) >= MATCH_IOU).mean()) for s in (spec, best))
    if after <= before:
        return Suggestion(spec.anchors_size, (), before, before)
    return Suggestion(best.anchors_size, uniform, before, after)


def _score(boxes, spec):
    """Objects above the matching threshold count most; the mean settles ties."""
    ious = best_ious(boxes, spec)
    return float((ious >= MATCH_IOU).mean() + 0.2 * ious.mean())


def _from_quantiles(boxes, spec):
    """Return the spec with sizes at even quantiles of the objects' sizes."""
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1).clip(1e-6)) * spec.size
    sizes = np.quantile(sides, np.linspace(0.05, 0.95, len(spec.anchors_size)))
    return replace(spec, anchors_size=_increasing(sizes, spec.size))


def _increasing(sizes, limit):
    """Return sizes in whole pixels, each larger than the one before."""
    result = []
    for size in sizes:
        low = result[-1] + 1 if result else 4
        result.append(float(max(low, min(round(float(size)), 2 * limit))))
    return tuple(result)


def _climb(boxes, spec):
    """Return the best spec found by changing one size at a time, and its score."""
    score = _score(boxes, spec)
    for _ in range(ROUNDS):
        improved = False
        for k in range(len(spec.anchors_size)):
            for step in STEPS:
                sizes = list(spec.anchors_size)
                sizes[k] *= step
                candidate = replace(spec, anchors_size=_increasing(sorted(sizes), spec.size))
                candidate_score = _score(boxes, candidate)
                if candidate_score > score:
                    spec, score, improved = candidate, candidate_score, True
        if not improved:
            break
    return spec, score
