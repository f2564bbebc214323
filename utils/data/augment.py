"""The SSD training augmentation (paper section 2.2 "Data augmentation" and 3.6; Caffe
`AnnotatedData` and `DistortionParameter`).

Crop, expansion and flip are chosen as numbers first. One resampling then goes straight from the
image to the network's input size, and the colours change on that small image.

What differs from Caffe under "paper": colours change after the crop instead of before (the numbers
drawn are alike), images are always resized by the spec's rule instead of one of five filters at
random, regions are not rounded to whole pixels, boxes under a pixel of the input are left out, and
hue is a circle.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from utils.multibox.boxes import pairwise_iou
from utils.image import add_bars, boxes_to_input, inner_size, resize_to_input
from utils.resize import average_cells, may_halve, resize, sample_region, whole_factors

CROP_TRIALS = 50
MIN_SIDE_PX = 1.0  # a box thinner than this in the network's input is no use to train on


@dataclass(frozen=True)
class Augmentation:
    """How strong the augmentation is. The defaults are the paper's."""

    # Each colour change happens with this probability, by a uniform draw from its range.
    colour_probability: float = 0.5
    brightness: float = 32  # grey levels added or taken
    contrast: tuple[float, float] = (0.5, 1.5)  # factor
    saturation: tuple[float, float] = (0.5, 1.5)  # factor
    hue: float = 18  # OpenCV hue units of two degrees, added or taken
    # The image is placed on a canvas of up to expand_max times its sides, filled with the mean.
    expand_probability: float = 0.5
    expand_max: float = 4.0
    # Uniform choice among the constraints that a crop can be found for: None keeps the image,
    # a number asks for that IoU with at least one object; 0 takes any crop.
    crop_overlaps: tuple[float | None, ...] = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
    # That object must also have its centre in the crop, so that an object always stays. Caffe does
    # not ask for it: there a crop may lose all its objects and becomes an image of background.
    crop_keeps_object: bool = False
    crop_scale: tuple[float, float] = (0.3, 1.0)
    crop_aspect: tuple[float, float] = (0.5, 2.0)
    flip_probability: float = 0.5


AUGMENTATIONS = {
    "paper": Augmentation(),
    "light": Augmentation(expand_probability=0.25, expand_max=1.5,
                          crop_overlaps=(None, None, None, 0.5, 0.7, 0.9),
                          crop_keeps_object=True, crop_scale=(0.6, 1.0),
                          crop_aspect=(0.75, 1.33)),
    "none": None,
}


class Geometry(NamedTuple):
    """Which part of the (expanded) image becomes the network input."""

    region: np.ndarray  # (4,) xyxy, fractions of the image; may reach outside of [0, 1]
    flip: bool


def may_halve_region(geometry, size, spec):
    """Tell whether the decoder may halve a JPEG of (width, height) `size` for this sample."""
    sides = _sides(geometry, size)
    return may_halve(sides, inner_size(*sides, spec), spec.resize)


def apply_geometry(image, boxes, geometry, spec, augmentation, rng, *, size=None):
    """Cut the region out of an image, change its colours, and move the boxes along.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (G, 4) float, xyxy fractions of the image; G may be 0.
        geometry: of `choose_geometry`.
        augmentation: Augmentation, or None for a plain resize.
        rng: np.random.Generator; the result depends on it alone.
        size: (width, height) of the whole image where `image` was halved by its decoder.

    Returns:
        input: (S, S, 3) in grey levels; boxes: (K, 4) float32 fractions of the input;
        kept: (K,) int64, which of the G boxes they are.
    """
    size = size or image.shape[1::-1]
    if augmentation is None:
        sample = resize_to_input(image, spec, size)
    else:
        sample = _resample(image, geometry, spec, size)
        x0, y0, x1, y1 = _image_in_sample(geometry, sample.shape[1::-1])
        if x1 > x0 and y1 > y0:  # the fill keeps the mean
            sample[y0:y1, x0:x1] = change_colours(sample[y0:y1, x0:x1], augmentation, rng)
        sample = add_bars(sample, spec)
    moved, kept = move_boxes(boxes, geometry)
    moved = boxes_to_input(moved, *_sides(geometry, size), spec)
    big = ((moved[:, 2:] - moved[:, :2]) * spec.size >= MIN_SIDE_PX).all(1)
    return sample, moved[big].astype(np.float32), kept[big]


def choose_geometry(boxes, augmentation, rng):
    """Draw expansion, crop and flip for an image with (G, 4) boxes, xyxy fractions of it.

    Without an Augmentation the image stays as it is; images without objects are not cropped.
    """
    region = np.array([0.0, 0, 1, 1])
    if augmentation is None:
        return Geometry(region, False)
    if rng.random() < augmentation.expand_probability:
        ratio = rng.uniform(1, augmentation.expand_max)
        origin = -rng.uniform(0, ratio - 1, 2)
        region = np.concatenate([origin, origin + ratio])
    if len(boxes):
        origin, side = np.tile(region[:2], 2), region[2] - region[0]
        region = origin + choose_crop((boxes - origin) / side, augmentation, rng) * side
    return Geometry(region, rng.random() < augmentation.flip_probability)


def choose_crop(boxes, augmentation, rng):
    """Draw a crop that meets one of the overlap constraints (Caffe `GenerateBatchSamples`).

    Boxes, (G, 4) with G >= 1, and the (4,) crop are xyxy fractions of the canvas; the crop is the
    whole canvas where none was found.
    """
    # The first feasible one in random order is a uniform choice among the feasible ones.
    for k in rng.permutation(len(augmentation.crop_overlaps)):
        min_iou = augmentation.crop_overlaps[k]
        if min_iou is None:
            break
        crops = _draw_crops(augmentation, rng)
        good = pairwise_iou(boxes, crops) >= min_iou
        if augmentation.crop_keeps_object:
            good &= _centres_inside(boxes, crops)
        if good.any():
            return crops[good.any(0).argmax()]
    return np.array([0.0, 0, 1, 1])


def _draw_crops(augmentation, rng):
    """Return CROP_TRIALS random (4,) crops inside the unit square (Caffe `SampleBBox`)."""
    scale = rng.uniform(*augmentation.crop_scale, CROP_TRIALS)
    low, high = augmentation.crop_aspect
    aspect = rng.uniform(np.maximum(low, scale**2), np.minimum(high, 1 / scale**2))
    sides = np.stack([scale * np.sqrt(aspect), scale / np.sqrt(aspect)], 1)
    corner = rng.random((CROP_TRIALS, 2)) * (1 - sides)
    return np.concatenate([corner, corner + sides], 1)


def _centres_inside(boxes, regions):
    """Return the (G, R) mask of boxes whose centre lies in a region."""
    centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    return ((centres > regions[:, :2]) & (centres < regions[:, 2:])).all(-1)


def move_boxes(boxes, geometry):
    """Return the boxes centred in the region, clipped, as fractions of it, and their indices."""
    region, flip = geometry
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    kept = _centres_inside(boxes, region[None])[:, 0].nonzero()[0]
    moved = (boxes[kept] - region[[0, 1, 0, 1]]) / (region[2:] - region[:2])[[0, 1, 0, 1]]
    moved = moved.clip(0, 1)
    return (moved * (-1, 1, -1, 1) + (1, 0, 1, 0))[:, [2, 1, 0, 3]] if flip else moved, kept


def _sides(geometry, size):
    """Return the (width, height) of the region in pixels of an image of that size."""
    return ((geometry.region[2:] - geometry.region[:2]) * size).tolist()


def _resample(image, geometry, spec, size):
    """Map the region of the image to the network input, bars apart; (H, W, 3) uint8."""
    sides = _sides(geometry, size)
    inner = inner_size(*sides, spec)
    if (geometry.region == (0, 0, 1, 1)).all():  # exactly what prediction sees
        sample = resize(image, inner, spec.resize, size)
        sample = np.rint(sample).astype(np.uint8) if sample.dtype == np.float32 else sample.copy()
        return cv2.flip(sample, 1) if geometry.flip else sample
    region = geometry.region * (size * 2)  # in pixels of the whole image
    inside = (geometry.region >= 0).all() and (geometry.region <= 1).all()
    halved = size[0] // image.shape[1]
    cell = tuple(factor // halved for factor in whole_factors(sides, inner, spec.resize))
    # Cells of the region alone, and one more around it for the linear rest. A region may lie
    # beside the image: then a pixel that it does not touch stands for the image.
    low = (np.floor(region[:2] / halved).astype(int) - cell).clip(0)
    left, top = np.minimum(low, np.array(image.shape[1::-1]) - 1)
    right, below = np.maximum(np.ceil(region[2:] / halved).astype(int) + cell, (left + 1, top + 1))
    fill = None if inside else spec.mean
    cells = average_cells(image[top:below, left:right], cell, fill)
    region = (region / halved - (left, top, left, top)) / (cell * 2)  # in cells
    return sample_region(cells, region, inner, flip=geometry.flip, fill=fill)


def _image_in_sample(geometry, inner):
    """Return the whole pixels (x0, y0, x1, y1) of the sample that show the image."""
    region, flip = geometry
    sides = region[2:] - region[:2]
    edges = (np.array([0, 0, 1, 1]) - region[[0, 1, 0, 1]]) / sides[[0, 1, 0, 1]]
    x0, y0, x1, y1 = np.round(edges * (inner * 2)).astype(int).clip(0, inner * 2)
    return (inner[0] - x1, y0, inner[0] - x0, y1) if flip else (x0, y0, x1, y1)


def change_colours(image, augmentation, rng):
    """Distort brightness, contrast, saturation and hue of an (H, W, 3) uint8 RGB image, not empty.

    Caffe `ApplyDistort`, but in uint8 throughout.
    """
    chosen = rng.random(4) < augmentation.colour_probability
    levels = np.arange(256, dtype=np.float64)
    shift = rng.uniform(-augmentation.brightness, augmentation.brightness) if chosen[0] else 0.0
    factor = rng.uniform(*augmentation.contrast) if chosen[1] else 1.0
    saturation = rng.uniform(*augmentation.saturation) if chosen[2] else 1.0
    hue = rng.uniform(-augmentation.hue, augmentation.hue) if chosen[3] else 0.0
    contrast_first = rng.random() < 0.5
    brightness_table = _table(levels + shift)
    contrast_table = _table(levels * factor)
    first = contrast_table[brightness_table] if contrast_first else brightness_table
    image = cv2.LUT(image, first) if chosen[0] or (chosen[1] and contrast_first) else image
    if chosen[2] or chosen[3]:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        tables = np.stack([_hue_table(hue), _table(levels * saturation), levels], 1)
        hsv = cv2.LUT(hsv, tables[None].astype(np.uint8))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return cv2.LUT(image, contrast_table) if chosen[1] and not contrast_first else image


def _table(values):
    """Round and saturate 256 levels to a uint8 look-up table."""
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _hue_table(shift):
    """Turn OpenCV's 0-179 hue circle; entries above 179 never occur."""
    return np.mod(np.rint(np.arange(256) + shift), 180)
