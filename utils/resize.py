"""The resize rules: how an image, or a part of it, becomes smaller."""

import cv2
import numpy as np
from PIL import Image

# A JPEG decoder may halve an image where at least this many pixels are averaged to one: what its
# rounding adds is then averaged too (0.4 grey levels at most, on white noise).
HALVING_FROM = 4


def resize(image, target, rule, size):
    """Resize to (width, height) `target` with the library, filter and dtype that `rule` names.

    "area_linear_uint8" averages over a whole number of pixels first, so that nothing is skipped,
    and goes the rest of the way linearly. `size` and `image` are those of `resize_to_input`.
    """
    if rule == "pil_bicubic_uint8":
        return np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BICUBIC))
    if rule == "cv2_linear_float32":
        image = image.astype(np.float32)
    x, y = whole_factors(size, target, rule)
    halved = size[0] // image.shape[1]
    cells = average_cells(image, (x // halved, y // halved))
    if size[0] % x == size[1] % y == 0:
        return cv2.resize(cells, target, interpolation=cv2.INTER_LINEAR)
    # The last cells reach over the edge: the image is a part of them.
    return sample_region(cells, (0, 0, size[0] / x, size[1] / y), target)


def sample_region(image, region, target, *, flip=False, fill=None):
    """Resize a region of an image to (width, height) `target` linearly, mirrored or not.

    The region is xyxy in pixels and may reach over the image's edges: `fill` is the colour there,
    None repeats the pixels at the edges.
    """
    left, top, right, bottom = region
    scale_x, scale_y = (right - left) / target[0], (bottom - top) / target[1]
    if flip:
        left, scale_x = right, -scale_x
    # Pixel centres lie at +0.5: source + 0.5 = edge + (target + 0.5) * scale.
    matrix = np.array([[scale_x, 0, left + 0.5 * scale_x - 0.5],
                       [0, scale_y, top + 0.5 * scale_y - 0.5]])
    border = cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT
    return cv2.warpAffine(image, matrix, target, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=border, borderValue=fill)


def whole_factors(size, target, rule):
    """Return how many pixels (in x, in y) are averaged to one before the rest is linear.

    `size` is the (width, height) of the image, or of the part of it that becomes `target`.
    """
    if rule.startswith("cv2_linear"):
        return 1, 1
    x, y = (max(1, int(have / need + 1e-9)) for have, need in zip(size, target))
    # Even where a JPEG decoder may halve, so that all images get the same whether it does or not.
    return (x // 2 * 2, y // 2 * 2) if min(x, y) >= HALVING_FROM else (x, y)


def may_halve(size, target, rule):
    """Tell whether halving by a JPEG decoder is part of the rule; arguments of `whole_factors`."""
    return rule == "area_linear_uint8" and min(whole_factors(size, target, rule)) >= HALVING_FROM


def average_cells(image, cell, fill=None):
    """Return the means of cells of (x, y) pixels.

    Cells that reach over the right or lower edge see the last pixels repeated, or `fill` there.
    """
    if cell == (1, 1):
        return image
    height, width = image.shape[:2]
    columns, rows = -(-width // cell[0]), -(-height // cell[1])
    right, below = columns * cell[0] - width, rows * cell[1] - height
    if right or below:
        border = cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT
        image = cv2.copyMakeBorder(image, 0, below, 0, right, border, value=fill)
    # Halfway between two pixels lies their mean: the same, four times as fast.
    filter_ = cv2.INTER_LINEAR if max(cell) == 2 else cv2.INTER_AREA
    return cv2.resize(image, (columns, rows), interpolation=filter_)
