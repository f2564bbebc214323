"""The SSD training augmentation (paper sections 2.2 and 3.6; Caffe `AnnotatedData`).

Crop, expansion and flip are chosen as numbers first. One resampling, by the spec's rule, goes from
the image to the network's input, where the colours change: Caffe changes them before the crop and
resizes by one of five filters at random. Boxes under a pixel of the input are left out.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from utils.image import WHOLE, boxes_to_input, resize_to_input
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
    crop_keeps_object: bool = False  # that object's centre must be in the crop, unlike in Caffe
    crop_scale: tuple[float, float] = (0.3, 1.0)
    crop_aspect: tuple[float, float] = (0.5, 2.0)
    flip_probability: float = 0.5


AUGMENTATIONS = {
    "paper": Augmentation(),
    "light": Augmentation(
        expand_probability=0.25, expand_max=1.5, crop_overlaps=(None, None, None, 0.5, 0.7, 0.9),
        crop_keeps_object=True, crop_scale=(0.6, 1.0), crop_aspect=(0.75, 1.33)),
    "none": None,
}


class Geometry(NamedTuple):
    """The region of the (expanded) image that becomes the network input."""

    region: np.ndarray  # (4,) xyxy, fractions of the image; may reach outside of [0, 1]
    flip: bool


def apply_geometry(image: np.ndarray, boxes: np.ndarray, geometry: Geometry, spec: SSDSpec,
                   augmentation: Augmentation | None, rng: np.random.Generator
                   ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a region out of an (H, W, 3) uint8 RGB image, change its colours, move the boxes along.

    Boxes, (G, 4), are xyxy fractions of the image. Returns the network input (S, S, 3), (K, 4)
    float32 boxes as fractions of it, and the (K,) int64 indices of those boxes among the G.
    """
    region, flip = geometry
    sample = resize_to_input(image, spec, region, flip=flip)
    sides = (region[2:] - region[:2]) * image.shape[1::-1]
    if augmentation:
        sample = cv2.convertScaleAbs(sample)  # float32 to uint8
        shown = boxes_to_input(_to_region(WHOLE[None], geometry), *sides, spec)[0]
        x0, y0, x1, y1 = np.rint(shown * spec.size).astype(int)
        if x1 > x0 and y1 > y0:  # the expansion around it keeps the mean
            sample[y0:y1, x0:x1] = change_colours(sample[y0:y1, x0:x1], augmentation, rng)
    moved, indices = move_boxes(boxes, geometry)
    moved = boxes_to_input(moved, *sides, spec)
    large = ((moved[:, 2:] - moved[:, :2]) * spec.size >= MIN_SIDE_PX).all(1)
    return sample, moved[large].astype(np.float32), indices[large]


def choose_geometry(boxes: np.ndarray, augmentation: Augmentation | None,
                    rng: np.random.Generator) -> Geometry:
    """Draw expansion, crop and flip for an image with (G, 4) boxes, xyxy fractions of it."""
    if augmentation is None:
        return Geometry(WHOLE, flip=False)
    region = WHOLE
    if rng.random() < augmentation.expand_probability:
        ratio = rng.uniform(1, augmentation.expand_max)
        origin = -rng.uniform(0, ratio - 1, 2)
        region = np.concatenate([origin, origin + ratio])
    if len(boxes):
        origin, side = region[[0, 1, 0, 1]], region[2] - region[0]
        region = origin + choose_crop((boxes - origin) / side, augmentation, rng) * side
    return Geometry(region, rng.random() < augmentation.flip_probability)


def choose_crop(boxes: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
                ) -> np.ndarray:
    """Draw a (4,) crop of the canvas for boxes, (G > 0, 4) (Caffe `GenerateBatchSamples`)."""
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
    return WHOLE


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
    indices = _centres_inside(boxes, geometry.region[None])[:, 0].nonzero()[0]
    return _to_region(boxes[indices], geometry), indices


def _to_region(boxes, geometry):
    low, high = geometry.region.reshape(2, 2)
    corners = ((boxes.reshape(-1, 2, 2) - low) / (high - low)).clip(0, 1)
    if geometry.flip:  # x becomes 1 - x, and the right edge the left one
        corners[..., 0] = 1 - corners[:, ::-1, 0]
    return corners.reshape(-1, 4)


def change_colours(image: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
                   ) -> np.ndarray:
    """Distort the colours of an (H, W, 3) uint8 RGB image (Caffe `ApplyDistort`, in uint8)."""
    chosen = rng.random(4) < augmentation.colour_probability
    shift = rng.uniform(-augmentation.brightness, augmentation.brightness) if chosen[0] else 0.0
    contrast = rng.uniform(*augmentation.contrast) if chosen[1] else 1.0
    saturation = rng.uniform(*augmentation.saturation) if chosen[2] else 1.0
    hue = rng.uniform(-augmentation.hue, augmentation.hue) if chosen[3] else 0.0
    contrast_first = rng.random() < 0.5
    values = np.arange(256.0)
    brightness_table, contrast_table = _table(values + shift), _table(values * contrast)
    first = contrast_table[brightness_table] if contrast_first else brightness_table
    image = cv2.LUT(image, first)
    if chosen[2] or chosen[3]:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hue_table = np.rint(values + hue) % 180  # OpenCV's circle is 0..179
        tables = np.stack([hue_table, _table(values * saturation), values], 1)
        image = cv2.cvtColor(cv2.LUT(hsv, tables[None].astype(np.uint8)), cv2.COLOR_HSV2RGB)
    return image if contrast_first else cv2.LUT(image, contrast_table)


def _table(values):
    return np.rint(values).clip(0, 255).astype(np.uint8)
