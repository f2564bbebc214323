"""Training and prediction see one image, whichever way it comes: JPEG, PNG, array, PIL image."""

import io
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
from PIL import Image

from ssd import SSD
from utils.data.annotations import Record
from utils.data.augment import AUGMENTATIONS, Geometry, apply_geometry
from utils.data.loader import DetectionDataset
from utils.detections import Detections
from utils.image import decode_image, load_image, read_header, read_input, resize_to_input
from utils.resize import average_cells
from utils.multibox.spec import RESIZES, SSDSpec

OPENCV = int(cv2.__version__.partition(".")[0])
NO_BOX = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
STILL = replace(AUGMENTATIONS["paper"], expand_probability=0, crop_overlaps=(None,),
                flip_probability=0, colour_probability=0)


def noise(width, height, seed=0):
    """Return white noise, the hardest image there is."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photo_like(width, height):
    """Return smooth shapes of strong colours with fine grain on them."""
    grain = cv2.GaussianBlur(noise(width, height, 1), (0, 0), 1.5).astype(np.float32)
    shapes = cv2.resize(noise(9, 7, 2), (width, height), interpolation=cv2.INTER_CUBIC)
    return (0.6 * shapes + 3 * (grain - 128) + 50).clip(0, 255).astype(np.uint8)


def written(folder, image, kind):
    """Save the image as "png" or as a JPEG of a kind of chroma sampling; return the path."""
    path = folder / ("a.png" if kind == "png" else "a.jpg")
    options = {"compress_level": 0} if kind == "png" else {"quality": 75, "subsampling": kind}
    Image.fromarray(image).save(path, **options)
    return path


def difference(a, b):
    return np.abs(a.astype(float) - b).mean()


class Eye:
    """A detector that keeps what its network would get."""

    def __init__(self, spec):
        self.spec, self.seen = spec, []
        self.detector = SSD.__new__(SSD)
        self.detector.spec, self.detector.class_names = spec, ("a",)
        self.detector._detect_inputs = self.keep

    def keep(self, inputs, sizes, thresholds):
        self.seen += inputs
        none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        return [Detections(*none)] * len(inputs)


@pytest.mark.parametrize("make, width, height, kind", [
    (noise, 640, 480, "4:2:0"), (noise, 1200, 1203, "png"), (noise, 1200, 1600, "4:2:0"),
    (noise, 1921, 1441, "4:2:0"), (noise, 2048, 3072, "4:2:0"), (noise, 4000, 3000, "4:2:0"),
    (noise, 2048, 2048, "4:4:4"), (noise, 2560, 2048, "4:2:2"), (photo_like, 1600, 1200, "png"),
    (photo_like, 2048, 2048, "4:2:0")])
def test_all_ways_give_one_input(tmp_path, make, width, height, kind):
    path = written(tmp_path, make(width, height), kind)
    array, record = load_image(path), Record(path, *NO_BOX)
    # A square of 2048 is reduced by whole numbers alone: nothing is smoothed away.
    specs = ((300, False), (300, True), (512, False))
    for size, letterbox in specs[:1] if width * height > 5e6 else specs:
        spec = SSDSpec(input_shape=(size, size), letterbox=letterbox)
        plain, eye = resize_to_input(array, spec), Eye(spec)
        eye.detector.detect_batch([path, array, Image.open(path)])
        eye.detector.evaluate([record])
        eye.seen += [DetectionDataset([record], spec, augmentation, 0)[0, 0].image
                     for augmentation in (None, STILL)]
        assert len(eye.seen) == 6
        assert max(difference(image, plain) for image in eye.seen) < 0.45
        # Of files training and prediction share every bit.
        assert all(np.array_equal(eye.seen[0], eye.seen[k]) for k in (3, 4, 5))


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
        place = ((np.arange(size) + 0.5) * side / size) / factor - 0.5
        low = np.floor(place).astype(int)
        part = (place - low).reshape([-1 if k == axis else 1 for k in range(3)])
        out = (means.take(low.clip(0, cells - 1), axis) * (1 - part)
               + means.take((low + 1).clip(0, cells - 1), axis) * part)
    return out


@pytest.mark.parametrize("width, height", [
    (300, 300), (640, 480), (641, 479), (899, 601), (1201, 1801), (1999, 1207), (200, 3001),
    (1, 700), (1, 1), (2399, 1499)])
def test_the_rule_is_cell_means_and_linear(width, height):
    image = noise(width, height)
    got = resize_to_input(image, SSDSpec())
    error = np.abs(got - naive_input(image, 300))
    # OpenCV 4 weighs in 1/32 pixels.
    assert error.mean() < (0.6 if OPENCV >= 5 else 0.75) and error.max() < 5


@pytest.mark.parametrize("cell", [(2, 1), (1, 2), (2, 2), (3, 2), (4, 6)])
def test_cells_are_means(cell):
    image = noise(24 * cell[0], 36 * cell[1])
    means = image.reshape(36, cell[1], 24, cell[0], 3).mean((1, 3))
    assert np.abs(average_cells(image, cell) - means).max() <= 0.51


def test_a_ramp_stays_in_place():
    # A half-pixel shift or a lost edge would show: level = place on both axes.
    for width, height in ((2405, 1501), (2400, 1500), (999, 700), (4000, 3000)):
        image = np.zeros((height, width, 3), np.uint8)
        image[..., 0] = np.linspace(0, 250, width)
        image[..., 1] = np.linspace(0, 250, height)[:, None]
        got = resize_to_input(image, SSDSpec()).astype(float)
        expected = 250 * (np.arange(300) + 0.5) / 300
        assert np.abs(got[150, :, 0] - expected).max() < 1.5
        assert np.abs(got[:, 150, 1] - expected).max() < 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_halved_jpeg_is_the_mean_of_the_whole(orientation):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(noise(212, 134)).save(file, "jpeg", quality=80, exif=exif)
    data = file.getvalue()
    whole = decode_image(data, "x").astype(float)
    halved = decode_image(data, "x", read_header(io.BytesIO(data)), halve=True)
    means = whole.reshape(whole.shape[0] // 2, 2, whole.shape[1] // 2, 2, 3).mean((1, 3))
    assert halved.shape == means.shape
    assert difference(halved[1:-1, 1:-1], means[1:-1, 1:-1]) < 0.6


def test_which_images_may_be_halved():
    def can_be_halved(image, kind="jpeg", **options):
        file = io.BytesIO()
        image.save(file, kind, **options)
        return read_header(file).can_be_halved
    image = Image.fromarray(noise(64, 48))
    assert can_be_halved(image) and can_be_halved(image, subsampling="4:2:0")
    assert not any(can_be_halved(image, subsampling=kind) for kind in ("4:2:2", "4:4:4"))
    assert not any(can_be_halved(image, kind) for kind in ("png", "tiff", "bmp", "webp"))
    for other in (image.convert("CMYK"), image.convert("L"), image.crop((0, 0, 63, 48)),
                  image.crop((0, 0, 64, 47))):
        assert not can_be_halved(other)


@pytest.mark.parametrize("rule", [rule for rule in RESIZES if rule != "area_linear_uint8"])
def test_older_rules_see_the_whole_jpeg(tmp_path, rule):
    spec = SSDSpec(resize=rule)
    path = written(tmp_path, noise(1600, 1200), "4:2:0")
    plain = resize_to_input(load_image(path), spec)
    record = Record(path, *NO_BOX)
    assert np.array_equal(read_input(path, spec)[0], plain)
    assert np.array_equal(DetectionDataset([record], spec, None, 0)[0, 0].image, plain)
    assert difference(DetectionDataset([record], spec, STILL, 0)[0, 0].image, plain) <= 0.5


def laplacian(image):
    return cv2.Laplacian(image, cv2.CV_64F).std()


@pytest.mark.parametrize("kind", ["png", "4:2:0"])
def test_training_samples_are_as_sharp_as_prediction_inputs(tmp_path, kind):
    path = written(tmp_path, photo_like(2400, 1800), kind)
    record, spec = Record(path, *NO_BOX), SSDSpec()
    seen = laplacian(read_input(path, spec)[0])
    # Regions as large as the image, but resampled: a thousandth off every edge.
    region = np.array([0.001, 0.001, 0.999, 0.999])
    whole = load_image(path)
    sample, *_ = apply_geometry(whole, record.boxes_px, Geometry(region, False), spec, STILL,
                                np.random.default_rng(0))
    assert 0.85 < laplacian(sample) / seen < 1.15
    # Point-sampling, which training and older rules do, shows twice as much.
    assert laplacian(resize_to_input(whole, SSDSpec(resize="cv2_linear_uint8"))) > 1.6 * seen


@cache
def soft_blobs():
    """Return blurred noise of full contrast, 1601x1203."""
    image = cv2.GaussianBlur(noise(1601, 1203), (0, 0), 9)
    return ((image.astype(float) - 128) * 9 + 128).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("region, letterbox", [
    ((0.1, 0.2, 0.85, 0.9), False), ((0.01, 0.02, 0.2, 0.3), False), ((0.4, 0.1, 0.6, 0.9), True),
    ((-0.5, -0.8, 1.7, 1.4), False), ((-1.0, 0.2, 0.5, 1.7), True), ((0.7, 0.7, 1.9, 1.9), False)])
def test_regions_are_area_means_in_place(region, letterbox, flip):
    """Against the canvas that the region is cut from, averaged over squares by integration."""
    spec = SSDSpec(letterbox=letterbox, letterbox_fill=7)
    image = soft_blobs()
    rng, geometry = np.random.default_rng(0), Geometry(np.array(region), flip)
    sample, *_ = apply_geometry(image, np.zeros((0, 4)), geometry, spec, STILL, rng)
    canvas = np.full((1203 * 4, 1601 * 4, 3), spec.mean, np.float32)
    canvas[1203:2406, 1601:3202] = image
    xs = 1601 + np.linspace(*(np.array(region) * 1601)[[0, 2]], 6 * 300 + 1)
    ys = 1203 + np.linspace(*(np.array(region) * 1203)[[1, 3]], 6 * 300 + 1)
    if letterbox:
        return check_letterboxed(sample, region, spec)
    xs, ys = ((axis[1:] + axis[:-1]) / 2 - 0.5 for axis in (xs, ys))
    grid = np.meshgrid(xs.astype(np.float32), ys.astype(np.float32))
    fine = cv2.remap(canvas, *grid, cv2.INTER_LINEAR)
    expected = fine.reshape(300, 6, 300, 6, 3).mean((1, 3))
    expected = expected[:, ::-1] if flip else expected
    assert difference(sample, expected) < 3


def check_letterboxed(sample, region, spec):
    """Bars lie on two sides and nowhere else."""
    wide = (region[2] - region[0]) * 1601 > (region[3] - region[1]) * 1203
    sample = sample if wide else sample.transpose(1, 0, 2)
    bars = (sample == spec.letterbox_fill).all((1, 2))
    assert bars[0] and bars[-1] and not bars[bars.argmin():-bars[::-1].argmin()].any()


@pytest.mark.parametrize("region", [(1.5, 0.2, 2.5, 0.9), (-2.0, -2.0, -0.5, -1.0)])
def test_a_region_beside_the_image_is_fill(region):
    spec = SSDSpec(mean=(9.0, 8.0, 7.0))
    geometry = Geometry(np.array(region), False)
    sample, boxes, kept = apply_geometry(noise(1300, 900), np.array([[0.1, 0.1, 0.9, 0.9]]),
                                         geometry, spec, STILL, np.random.default_rng(0))
    assert (sample == (9, 8, 7)).all() and len(boxes) == len(kept) == 0


def test_small_crops_of_a_large_jpeg_keep_their_detail(tmp_path):
    path = written(tmp_path, noise(2400, 1800), "4:4:4")
    whole, record = load_image(path), Record(path, np.array([[1000, 700, 1350, 1050]], np.float32),
                                             np.zeros(1, np.int64), np.zeros(1, bool))
    tight = replace(STILL, crop_overlaps=(0.3,), crop_scale=(0.13, 0.16),
                    crop_aspect=(1.0, 1.0))
    cropped = 0
    for epoch in range(6):
        sample = DetectionDataset([record], SSDSpec(), tight, 0)[epoch, 0]
        side = sample.boxes[0, 2:] - sample.boxes[0, :2]
        if side.max() > 0.4:
            cropped += 1
            # At a scale near 1 noise keeps its deviation; decoded at a half it would halve.
            assert sample.image.std() > 0.6 * whole.std()
    assert cropped >= 3
