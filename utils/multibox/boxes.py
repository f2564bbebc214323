"""Box maths without state: formats, IoU, and the SSD box coder."""

import numpy as np
import torch


def to_cxcywh(boxes):
    """Convert (..., 4) boxes from xyxy to cxcywh; NumPy in, NumPy out, torch in, torch out."""
    xp = torch if isinstance(boxes, torch.Tensor) else np
    low, high = boxes[..., :2], boxes[..., 2:]
    return xp.concatenate([(low + high) / 2, high - low], -1)


def to_xyxy(boxes_cxcywh):
    """Convert (..., 4) boxes from cxcywh to xyxy; NumPy in, NumPy out, torch in, torch out."""
    xp = torch if isinstance(boxes_cxcywh, torch.Tensor) else np
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return xp.concatenate([centre - half, centre + half], -1)


def area(boxes):
    """Return the areas (...) of (..., 4) xyxy boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_intersection(a, b):
    """Return the (..., N, M) areas common to each of (..., N, 4) and each of (..., M, 4) boxes."""
    xp = torch if isinstance(a, torch.Tensor) else np
    a, b = a[..., :, None, :], b[..., None, :, :]
    sides = xp.minimum(a[..., 2:], b[..., 2:]) - xp.maximum(a[..., :2], b[..., :2])
    sides = sides.clip(0)
    return sides[..., 0] * sides[..., 1]


def pairwise_iou(a, b):
    """Return the intersection over union of every pair of xyxy boxes.

    Args:
        a: (..., N, 4) float array or tensor, any unit.
        b: (..., M, 4) float array or tensor, the same unit.

    Returns:
        (..., N, M) in [0, 1]; 0 where the union is empty.
    """
    common = pairwise_intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - common
    return common / union.clip(1e-12)


def encode(boxes, priors_cxcywh, variances):
    """Encode boxes as offsets from priors (paper eq. 2, Caffe `EncodeBBox` CENTER_SIZE).

    Args:
        boxes: (..., P, 4) float tensor, xyxy in [0, 1], positive width and height.
        priors_cxcywh: (P, 4) float tensor, in [0, 1].
        variances: divisors of the (centre, log size) offsets, 0.1 and 0.2 in SSD.

    Returns:
        (..., P, 4) loc targets (dx, dy, dw, dh).
    """
    boxes_cxcywh = to_cxcywh(boxes)
    centre = (boxes_cxcywh[..., :2] - priors_cxcywh[:, :2]) / priors_cxcywh[:, 2:]
    size = torch.log(boxes_cxcywh[..., 2:] / priors_cxcywh[:, 2:])
    return torch.cat([centre / variances[0], size / variances[1]], -1)


def decode(loc, priors_cxcywh, variances, log_size_clamp=None):
    """Invert `encode` (Caffe `DecodeBBox` CENTER_SIZE).

    Args:
        loc: (..., P, 4) float tensor of raw offsets.
        priors_cxcywh: (P, 4) float tensor, in [0, 1].
        variances: the multipliers of the (centre, log size) offsets.
        log_size_clamp: upper bound of the log size offset, so that exp() stays finite, or None.

    Returns:
        (..., P, 4) xyxy boxes, not clipped.
    """
    centre = loc[..., :2] * variances[0] * priors_cxcywh[:, 2:] + priors_cxcywh[:, :2]
    log_size = loc[..., 2:] * variances[1]
    if log_size_clamp is not None:
        log_size = log_size.clamp(max=log_size_clamp)
    return to_xyxy(torch.cat([centre, torch.exp(log_size) * priors_cxcywh[:, 2:]], -1))
