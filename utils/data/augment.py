"""The SSD training augmentation (paper section 2.2 "Data augmentation" and 3.6; Caffe
`AnnotatedData` and `DistortionParameter`).

Crop, expansion and flip are chosen as numbers first. One resampling then goes straight from the
image to the network's input size, and the colours change on that small image.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from utils.boxes import pairwise_iou
from utils.image import add_bars, input_rect, resize_to_input

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
    # a number asks for that IoU with at least one object, 0 for nothing but an object's centre.
    crop_overlaps: tuple[float | None, ...] = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
    crop_scale: tuple[float, float] = (0.3, 1.0)
    crop_aspect: tuple[float, float] = (0.5, 2.0)
    flip_probability: float = 0.5


AUGMENTATIONS = {
    "paper": Augmentation(),
    "light": Augmentation(expand_probability=0.25, expand_max=1.5,
                          crop_overlaps=(None, None, None, 0.5, 0.7, 0.9), crop_scale=(0.6, 1.0),
                          crop_aspect=(0.75, 1.33)),
    "none": None,
}


class Geometry(NamedTuple):
    """Which part of the (expanded) image becomes the network input."""

    region: np.ndarray  # (4,) xyxy, fractions of the image; may reach outside of [0, 1]
    flip: bool


def augment(image, boxes, spec, augmentation, rng):
    """Make one training sample of an image in memory.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (G, 4) float, xyxy fractions of the image; G may be 0.
        spec: SSDSpec.
        augmentation: Augmentation, or None for a plain resize.
        rng: np.random.Generator; the result depends on it alone.

    Returns:
        as `apply_geometry`.
    """
    geometry = choose_geometry(boxes, augmentation, rng)
    return apply_geometry(image, boxes, geometry, spec, augmentation, rng)


def pixels_needed(geometry, spec):
    """Return the (width, height) of the whole image that the sample makes use of."""
    sides = (geometry.region[2:] - geometry.region[:2]).clip(1e-6)
    return tuple((spec.size / sides).tolist())


def apply_geometry(image, boxes, geometry, spec, augmentation, rng):
    """Cut the region out of an image, change its colours, and move the boxes along.

    Args:
        image: (H, W, 3) uint8 RGB; of the image's size or reduced, the result is much the same.
        boxes, spec, augmentation, rng: as in `augment`.
        geometry: of `choose_geometry`.

    Returns:
        input: (S, S, 3) in grey levels; boxes: (K, 4) float32 fractions of the input;
        kept: (K,) int64, which of the G boxes they are.
    """
    height, width = image.shape[:2]
    if augmentation is None:
        sample = resize_to_input(image, spec)
    else:
        sample = _resample(image, geometry, spec, augmentation, rng)
    region = geometry.region
    rect = _region_rect(region, width, height, spec)
    moved, kept = _move_boxes(boxes, geometry)
    moved = (rect[:2] * 2 + moved * ((rect[2] - rect[0], rect[3] - rect[1]) * 2)) / spec.size
    big = ((moved[:, 2:] - moved[:, :2]) * spec.size >= MIN_SIDE_PX).all(1)
    return sample, moved[big].astype(np.float32), kept[big]


def choose_geometry(boxes, augmentation, rng):
    """Draw expansion, crop and flip.

    Args:
        boxes: (G, 4) float xyxy fractions of the image.
        augmentation: Augmentation, or None for the image as it is.
        rng: np.random.Generator.

    Returns:
        Geometry. Where there are objects, at least one has its centre inside the region.
    """
    if augmentation is None:
        return Geometry(np.array([0.0, 0, 1, 1]), False)
    canvas = np.array([0.0, 0, 1, 1])
    if rng.random() < augmentation.expand_probability:
        ratio = rng.uniform(1, augmentation.expand_max)
        origin = -rng.uniform(0, ratio - 1, 2)
        canvas = np.concatenate([origin, origin + ratio])
    region = canvas
    if len(boxes):
        side = canvas[2] - canvas[0]
        crop = choose_crop((boxes - canvas[[0, 1, 0, 1]]) / side, augmentation, rng)
        region = canvas[[0, 1, 0, 1]] + crop * side
    return Geometry(region, rng.random() < augmentation.flip_probability)


def choose_crop(boxes, augmentation, rng):
    """Draw a crop that meets one of the overlap constraints (Caffe `GenerateBatchSamples`).

    Args:
        boxes: (G, 4) float xyxy fractions of the canvas, G >= 1.
        augmentation: Augmentation.
        rng: np.random.Generator.

    Returns:
        (4,) xyxy fractions of the canvas; the whole canvas where no crop was found.
    """
    # The first feasible one in random order is a uniform choice among the feasible ones.
    for k in rng.permutation(len(augmentation.crop_overlaps)):
        min_iou = augmentation.crop_overlaps[k]
        if min_iou is None:
            break
        crops = _draw_crops(augmentation, rng)
        good = (_centres_inside(boxes, crops) & (pairwise_iou(boxes, crops) >= min_iou)).any(0)
        if good.any():
            return crops[good.argmax()]
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


def _move_boxes(boxes, geometry):
    """Return the boxes centred in the region, clipped, as fractions of it, and their indices."""
    region, flip = geometry
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    kept = _centres_inside(boxes, region[None])[:, 0].nonzero()[0]
    moved = (boxes[kept] - region[[0, 1, 0, 1]]) / (region[2:] - region[:2])[[0, 1, 0, 1]]
    moved = moved.clip(0, 1)
    return (moved * (-1, 1, -1, 1) + (1, 0, 1, 0))[:, [2, 1, 0, 3]] if flip else moved, kept


def _region_rect(region, width, height, spec):
    """Return where the region lands in the network input, in pixels."""
    sides = region[2:] - region[:2]
    return input_rect(sides[0] * width, sides[1] * height, spec)


def _resample(image, geometry, spec, augmentation, rng):
    """Map the region of the image to the network input and change its colours."""
    height, width = image.shape[:2]
    rect = _region_rect(geometry.region, width, height, spec)
    inner = (rect[2] - rect[0], rect[3] - rect[1])
    region = geometry.region * (width, height, width, height)  # in pixels of the image
    inside = (geometry.region >= 0).all() and (geometry.region <= 1).all()
    sample = cv2.warpAffine(
        image, _sampling_matrix(region, inner, geometry.flip), inner,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=spec.mean,
        borderMode=cv2.BORDER_REPLICATE if inside else cv2.BORDER_CONSTANT)
    # The fill of the expansion keeps the mean: colours change inside the image only.
    x0, y0, x1, y1 = _image_in_sample(region, (width, height), inner, geometry.flip)
    if x1 > x0 and y1 > y0:
        sample[y0:y1, x0:x1] = change_colours(sample[y0:y1, x0:x1], augmentation, rng)
    return add_bars(sample, rect, spec)


def _sampling_matrix(region, inner, flip):
    """Return the 2x3 matrix from pixels of the sample to pixels of the image.

    Pixel centres lie at +0.5: source + 0.5 = edge + (target + 0.5) * scale.
    """
    left, top, right, bottom = region
    scale_x, scale_y = (right - left) / inner[0], (bottom - top) / inner[1]
    edge = left
    if flip:
        edge, scale_x = right, -scale_x
    return np.array([[scale_x, 0, edge + 0.5 * scale_x - 0.5],
                     [0, scale_y, top + 0.5 * scale_y - 0.5]])


def _image_in_sample(region, size, inner, flip):
    """Return the whole pixels (x0, y0, x1, y1) of the sample that show the image."""
    scale = np.array(inner * 2) / ((region[2:] - region[:2])[[0, 1, 0, 1]])
    edges = (np.array([0, 0, *size]) - region[[0, 1, 0, 1]]) * scale
    x0, y0, x1, y1 = np.round(edges).astype(int).clip(0, inner * 2)
    return (inner[0] - x1, y0, inner[0] - x0, y1) if flip else (x0, y0, x1, y1)


def change_colours(image, augmentation, rng):
    """Distort brightness, contrast, saturation and hue (Caffe `ApplyDistort`, uint8 throughout).

    Args:
        image: (H, W, 3) uint8 RGB, not empty.
        augmentation: Augmentation.
        rng: np.random.Generator.

    Returns:
        (H, W, 3) uint8 RGB.
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
