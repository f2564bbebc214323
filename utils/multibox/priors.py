"""The prior boxes (the paper's default boxes) of a spec."""

import math

import torch

from utils.multibox.boxes import to_cxcywh, to_xyxy
from utils.multibox.spec import SSDSpec


def make_priors(spec: SSDSpec) -> torch.Tensor:
    """Return the priors of all feature maps (paper section 2.2, Caffe `PriorBox`).

    Order: map by map, row by row, and in a cell s, s', then each ratio a as a, 1/a, where s is the
    map's size and s' the geometric mean with the next one. Centres are Caffe's, (i + 0.5) * step,
    or the paper's, (i + 0.5) / grid, where the spec has no steps.

    Returns:
        (P, 4) float32, cxcywh as fractions of the input; 8,732 rows for SSD300.
    """
    maps = [_map_priors(spec, k) for k in range(len(spec.grids))]
    return clip_priors(torch.cat(maps), spec.prior_clip).float()


def _map_priors(spec, k):
    """Return the float64 priors of map k, computed in pixels and scaled to the input last."""
    grid = spec.grids[k]
    step = spec.size / grid if spec.steps is None else spec.steps[k]
    centres = (torch.arange(grid, dtype=torch.float64) + 0.5) * step
    cy, cx = torch.meshgrid(centres, centres, indexing="ij")
    cells = torch.stack([cx, cy], -1).reshape(-1, 2)  # (grid * grid, 2)
    shapes = torch.tensor(_cell_shapes(spec, k), dtype=torch.float64)  # (A, 2)
    priors = [cells.repeat_interleave(len(shapes), 0), shapes.repeat(len(cells), 1)]
    return torch.cat(priors, 1) / spec.size


def _cell_shapes(spec, k):
    """Return the (width, height) pairs of one cell of map k in pixels."""
    size, next_size = spec.anchors_size[k], spec.anchors_size[k + 1]
    between = math.sqrt(size * next_size)
    shapes = [(size, size), (between, between)]
    for ratio in spec.aspect_ratios[k]:
        root = math.sqrt(ratio)
        shapes += [(size * root, size / root), (size / root, size * root)]
    return shapes


def clip_priors(priors_cxcywh: torch.Tensor, rule: str) -> torch.Tensor:
    """Limit (P, 4) priors to the image by a rule that published weights were trained with.

    "none" (Caffe), "corners" (the box is cut at the border), "centre_size" (all four numbers are
    limited to [0, 1]), or "size" (width and height only).
    """
    if rule == "corners":
        return to_cxcywh(to_xyxy(priors_cxcywh).clamp(0, 1))
    if rule == "centre_size":
        return priors_cxcywh.clamp(0, 1)
    if rule == "size":
        return torch.cat([priors_cxcywh[:, :2], priors_cxcywh[:, 2:].clamp(0, 1)], 1)
    return priors_cxcywh
