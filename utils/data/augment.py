"""The SSD training augmentation (paper section 2.2 "Data augmentation" and 3.6; Caffe
`AnnotatedData` and `DistortionParameter`).

Crop, expansion and flip are chosen as numbers first. One resampling then goes straight from the
image to the network's input size, and the colours change on that small image.

What differs from Caffe under "paper": colours change after the crop instead of before (the numbers
drawn are alike), images are always resized by the spec's rule instead of one of five filters at
random, regions are not rounded to pixels, boxes under a pixel of the input are left out, and
hue is a circle.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from utils.image import add_bars, boxes_to_input, resize_region, resize_to_input
from utils.multibox.boxes import pairwise_iou
from utils.multibox.spec import SSDSpec

CROP_TRIALS = 50
MIN_SIDE_PX = 1.0  # a box thinner than this in the network's input is no use to train on


@dataclass(frozen=True)
class Augmentation:
    """How strong the augmentation is. The defaults are the paper's."""

    # Each colour change happens with this probability, by a uniform draw from its range.
    colour_probability: float = 0.5
    brightness: float = 32  # pixel values added or taken
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
    """The region of the (expanded) image that becomes the network input."""

    region: np.ndarray  # (4,) xyxy, fractions of the image; may reach outside of [0, 1]
    flip: bool


def apply_geometry(image: np.ndarray, boxes: np.ndarray, geometry: Geometry, spec: SSDSpec,
                   augmentation: Augmentation | None, rng: np.random.Generator
                   ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a region out of an image, change its colours, and move the boxes along.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (G, 4) float, xyxy fractions of the image; G may be 0.
        augmentation: for the colours; None only resizes the image.

    Returns:
        The network input (S, S, 3), (K, 4) float32 boxes as fractions of it, and the (K,) int64
        indices of those boxes among the G.
    """
    if augmentation is None:
        sample = resize_to_input(image, spec)
    else:
        sample = resize_region(image, geometry.region, spec, flip=geometry.flip)
        x0, y0, x1, y1 = _image_in_sample(geometry, sample.shape[1], sample.shape[0])
        if x1 > x0 and y1 > y0:  # the expansion around it keeps the mean
            sample[y0:y1, x0:x1] = change_colours(sample[y0:y1, x0:x1], augmentation, rng)
        sample = add_bars(sample, spec)
    moved, indices = move_boxes(boxes, geometry)
    sides = (geometry.region[2:] - geometry.region[:2]) * image.shape[1::-1]
    moved = boxes_to_input(moved, *sides, spec)
    large = ((moved[:, 2:] - moved[:, :2]) * spec.size >= MIN_SIDE_PX).all(1)
    return sample, moved[large].astype(np.float32), indices[large]


def choose_geometry(boxes: np.ndarray, augmentation: Augmentation | None,
                    rng: np.random.Generator) -> Geometry:
    """Draw expansion, crop and flip for an image with (G, 4) boxes, xyxy fractions of it.

    Without an Augmentation the image stays as it is; images without objects are not cropped.
    """
    region = np.array([0.0, 0, 1, 1])
    if augmentation is None:
        return Geometry(region, flip=False)
    if rng.random() < augmentation.expand_probability:
        ratio = rng.uniform(1, augmentation.expand_max)
        origin = -rng.uniform(0, ratio - 1, 2)
        region = np.concatenate([origin, origin + ratio])
    if len(boxes):
        x0, y0, x1, _ = region
        origin, side = np.array([x0, y0, x0, y0]), x1 - x0
        region = origin + choose_crop((boxes - origin) / side, augmentation, rng) * side
    return Geometry(region, rng.random() < augmentation.flip_probability)


def choose_crop(boxes: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
                ) -> np.ndarray:
    """Draw a crop that meets one of the overlap constraints (Caffe `GenerateBatchSamples`).

    Boxes, (G, 4) with G >= 1, and the (4,) crop are xyxy fractions of the canvas; the crop is the
    whole canvas where no other one meets its constraint.
    """
    # The first feasible one in random order is a uniform choice among the feasible ones.
    for k in rng.permutation(len(augmentation.crop_overlaps)):
        min_iou = augmentation.crop_overlaps[k]
        if min_iou is None:
            break
        crops = _draw_crops(augmentation, rng)
        feasible = pairwise_iou(boxes, crops) >= min_iou  # (G, CROP_TRIALS)
        if augmentation.crop_keeps_object:
            feasible &= _centres_inside(boxes, crops)
        if feasible.any():
            return crops[feasible.any(0).argmax()]
    return np.array([0.0, 0, 1, 1])


def _draw_crops(augmentation, rng):
    """Return (CROP_TRIALS, 4) random crops inside the unit square (Caffe `SampleBBox`)."""
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


def move_boxes(boxes: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes centred in the region, clipped, as fractions of it, and their indices."""
    region, flip = geometry
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    indices = _centres_inside(boxes, region[None])[:, 0].nonzero()[0]
    corners = boxes[indices].reshape(-1, 2, 2)
    corners = ((corners - region[:2]) / (region[2:] - region[:2])).clip(0, 1)
    if flip:  # x becomes 1 - x, and the right edge the left one
        corners[..., 0] = 1 - corners[:, ::-1, 0]
    return corners.reshape(-1, 4), indices


def _image_in_sample(geometry, width, height):
    """Return the pixels (x0, y0, x1, y1) of a sample of this size that show the image."""
    region, flip = geometry
    low, high = (np.array([0, 1])[:, None] - region[:2]) / (region[2:] - region[:2])
    x0, y0 = np.round(low * (width, height)).astype(int).clip(0, (width, height))
    x1, y1 = np.round(high * (width, height)).astype(int).clip(0, (width, height))
    return (width - x1, y0, width - x0, y1) if flip else (x0, y0, x1, y1)


def change_colours(image: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
                   ) -> np.ndarray:
    """Distort brightness, contrast, saturation and hue of an (H, W, 3) uint8 RGB image, not empty.

    Caffe `ApplyDistort`, but in uint8 throughout; contrast comes first or last, at random.
    """
    chosen = rng.random(4) < augmentation.colour_probability
    shift = rng.uniform(-augmentation.brightness, augmentation.brightness) if chosen[0] else 0.0
    contrast = rng.uniform(*augmentation.contrast) if chosen[1] else 1.0
    saturation = rng.uniform(*augmentation.saturation) if chosen[2] else 1.0
    hue = rng.uniform(-augmentation.hue, augmentation.hue) if chosen[3] else 0.0
    contrast_first = rng.random() < 0.5
    values = np.arange(256, dtype=np.float64)
    brightness_table, contrast_table = _table(values + shift), _table(values * contrast)
    if chosen[0] or chosen[1]:
        image = cv2.LUT(image, contrast_table[brightness_table] if contrast_first
                        else brightness_table)
    if chosen[2] or chosen[3]:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hue_table = np.mod(np.rint(values + hue), 180)  # OpenCV's circle is 0..179
        tables = np.stack([hue_table, _table(values * saturation), values], 1)
        image = cv2.cvtColor(cv2.LUT(hsv, tables[None].astype(np.uint8)), cv2.COLOR_HSV2RGB)
    return cv2.LUT(image, contrast_table) if chosen[1] and not contrast_first else image


def _table(values):
    """Round and saturate 256 pixel values to a uint8 look-up table."""
    return np.rint(values).clip(0, 255).astype(np.uint8)
