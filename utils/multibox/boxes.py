"""Box formats and intersection over union, for NumPy arrays and for tensors."""

from typing import TypeVar

import numpy as np
import torch

Boxes = TypeVar("Boxes", np.ndarray, torch.Tensor)  # an array in, an array out; or tensors


def to_cxcywh(boxes: Boxes) -> Boxes:
    """Convert (..., 4) boxes from xyxy to cxcywh (centre, width, height)."""
    xp = torch if isinstance(boxes, torch.Tensor) else np
    low, high = boxes[..., :2], boxes[..., 2:]
    return xp.concatenate([(low + high) / 2, high - low], -1)


def to_xyxy(boxes_cxcywh: Boxes) -> Boxes:
    """Convert (..., 4) boxes from cxcywh to xyxy (left, top, right, bottom)."""
    xp = torch if isinstance(boxes_cxcywh, torch.Tensor) else np
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return xp.concatenate([centre - half, centre + half], -1)


def area(boxes: Boxes) -> Boxes:
    """Return the areas (...) of (..., 4) xyxy boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_intersection(a: Boxes, b: Boxes) -> Boxes:
    """Return the (..., N, M) areas common to each of (..., N, 4) and each of (..., M, 4) boxes.

    Row by row, of (N, 4) and (N, 4): pairwise_intersection(a[:, None], b[:, None])[:, 0, 0].
    """
    xp = torch if isinstance(a, torch.Tensor) else np
    a, b = a[..., :, None, :], b[..., None, :, :]
    sides = xp.minimum(a[..., 2:], b[..., 2:]) - xp.maximum(a[..., :2], b[..., :2])
    sides = sides.clip(0)
    return sides[..., 0] * sides[..., 1]


def pairwise_iou(a: Boxes, b: Boxes) -> Boxes:
    """Return the (..., N, M) IoU of each of (..., N, 4) and each of (..., M, 4) xyxy boxes.

    In [0, 1], 0 where the union is empty; the boxes are floats in any unit, the same for both.
    """
    common = pairwise_intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - common
    return common / union.clip(1e-12)
