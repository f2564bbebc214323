"""Training and prediction see one image, whichever way it comes: JPEG, PNG, array, PIL image."""

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.data.annotations import Record
from utils.data.augment import AUGMENTATIONS, Geometry, apply_geometry
from utils.data.loader import DetectionDataset
from utils.image import load_image, prepare, resize_to_input
from utils.multibox.spec import RESIZES, SSDSpec

OPENCV = int(cv2.__version__.partition(".")[0])
NO_BOXES = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
STILL = replace(AUGMENTATIONS["paper"], expand_probability=0, crop_overlaps=(None,),
                flip_probability=0, colour_probability=0)


def noise(width, height, seed=0):
    """Return white noise, the hardest image there is."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("name, size", [("a.png", (640, 480)), ("a.jpg", (1921, 1441))])
def test_all_ways_give_one_input(tmp_path, name, size, letterbox, resize):
    path, spec = tmp_path / name, SSDSpec(resize=resize, letterbox=letterbox)
    Image.fromarray(noise(*size)).save(path)
    expected = resize_to_input(load_image(path), spec)
    record = Record(path, *NO_BOXES)
    inputs = [prepare(image, spec)[0] for image in (path, load_image(path), Image.open(path))]
    still, none = (DetectionDataset([record], spec, augmentation, 0)[0, 0][0]
                   for augmentation in (STILL, None))
    assert np.array_equal(still, np.rint(expected)), "augmentation gives uint8"
    difference = np.abs(inputs.pop().astype(float) - expected).mean()
    assert difference < 0.45, "Pillow decodes JPEG a little differently"
    assert all(np.array_equal(image, expected) for image in [*inputs, none])


def naive_input(image, size):
    """Average whole cells and interpolate between their centres, in floats, one axis at a time."""
    out = image.astype(np.float64)
    sides = image.shape[:2]
    factors = [max(1, side // size) for side in sides]
    if min(factors) >= 4:
        factors = [factor // 2 * 2 for factor in factors]
    for axis, (side, factor) in enumerate(zip(sides, factors)):
        cells = -(-side // factor)
        index = np.minimum(np.arange(cells * factor), side - 1)
        means = out.take(index, axis).reshape(
            *out.shape[:axis], cells, factor, *out.shape[axis + 1:]).mean(axis + 1)
        position = ((np.arange(size) + 0.5) * side / size) / factor - 0.5
        low = np.floor(position).astype(int)
        part = (position - low).reshape([-1 if k == axis else 1 for k in range(3)])
        out = (means.take(low.clip(0, cells - 1), axis) * (1 - part)
               + means.take((low + 1).clip(0, cells - 1), axis) * part)
    return out


@pytest.mark.parametrize("width, height", [
    (300, 300), (640, 480), (641, 479), (899, 601), (1201, 1801), (1999, 1207), (200, 3001),
    (1, 700), (1, 1), (2399, 1499)])
def test_the_rule_is_cell_means_and_linear(width, height):
    image = noise(width, height)
    error = np.abs(resize_to_input(image, SSDSpec()) - naive_input(image, 300))
    # OpenCV 4 weighs in 1/32 pixels.
    assert error.mean() < (0.6 if OPENCV >= 5 else 0.75) and error.max() < 5


@cache
def soft_blobs():
    """Return blurred noise of full contrast, 1601x1203."""
    image = cv2.GaussianBlur(noise(1601, 1203), (0, 0), 9)
    return ((image.astype(float) - 128) * 9 + 128).clip(0, 255).astype(np.uint8)


def crop(image, region, flip, spec):
    """Return the training sample of a region, without changes of colour."""
    geometry = Geometry(np.array(region), flip)
    return apply_geometry(image, np.zeros((0, 4)), geometry, spec, STILL,
                          np.random.default_rng(0))[0]


@pytest.mark.parametrize("region, flip", [
    ((0.1, 0.2, 0.85, 0.9), True), ((0.01, 0.02, 0.2, 0.3), False),
    ((-0.5, -0.8, 1.7, 1.4), True), ((0.7, 0.7, 1.9, 1.9), False)])
def test_regions_are_area_means_in_place(region, flip):
    """Against the canvas that the region is cut from, averaged over squares by integration."""
    image, spec = soft_blobs(), SSDSpec()
    canvas = np.full((1203 * 4, 1601 * 4, 3), spec.mean, np.float32)
    canvas[1203:2406, 1601:3202] = image
    x1, y1, x2, y2 = region
    xs = 1601 * (1 + np.linspace(x1, x2, 6 * 300 + 1))
    ys = 1203 * (1 + np.linspace(y1, y2, 6 * 300 + 1))
    centres = [((edges[1:] + edges[:-1]) / 2 - 0.5).astype(np.float32) for edges in (xs, ys)]
    fine = cv2.remap(canvas, *np.meshgrid(*centres), cv2.INTER_LINEAR)
    expected = fine.reshape(300, 6, 300, 6, 3).mean((1, 3))
    expected = expected[:, ::-1] if flip else expected
    assert np.abs(crop(image, region, flip, spec) - expected).mean() < 3
