"""The training augmentation, measured on its images and on the statistics of its draws."""

from dataclasses import replace

import numpy as np
import pytest
from naive import naive_iou

from utils.data.augment import (AUGMENTATIONS, Augmentation, apply_geometry, choose_crop,
                                choose_geometry)
from utils.multibox.spec import SSDSpec

PAPER = AUGMENTATIONS["paper"]
PLAIN_COLOURS = replace(PAPER, colour_probability=0)
NO_GEOMETRY = Augmentation(expand_probability=0, crop_overlaps=(None,), flip_probability=0)
WHOLE = [0.0, 0.0, 1.0, 1.0]


def augment(image, boxes, spec, augmentation, rng):
    """Make one training sample of an image, as the dataset does."""
    geometry = choose_geometry(boxes, augmentation, rng)
    return apply_geometry(image, boxes, geometry, spec, augmentation, rng)


def rectangle_scene(rng):
    """Return a green image with red rectangles side by side, and their boxes as fractions.

    The blue value tells the rectangles apart in the output.
    """
    width, height = rng.integers(150, 600, 2)
    image = np.full((height, width, 3), (0, 90, 0), dtype=np.uint8)
    count, boxes = int(rng.integers(1, 4)), []
    for k in range(count):
        low, high = width * k // count + 3, width * (k + 1) // count - 3
        x1 = int(rng.integers(low, (low + high) // 2))
        x2 = int(rng.integers(x1 + (high - low) // 3, high))
        y1 = int(rng.integers(0, height // 2))
        y2 = int(rng.integers(y1 + height // 6, height))
        image[y1:y2, x1:x2] = (255, 90, 80 * k)
        boxes.append((x1, y1, x2, y2))
    return image, np.array(boxes) / (width, height, width, height)


def extent(sample, k):
    """Return where the k-th rectangle lies in a sample, in pixel edges."""
    red, blue = sample[..., 0].astype(float), sample[..., 2].astype(float)
    # An edge lies where red has risen half way; blue rises with it.
    mask = (red >= 128) & (np.abs(blue - 80 * k * red / 255) <= 20)
    columns, rows = mask.any(0).nonzero()[0], mask.any(1).nonzero()[0]
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("augmentation", [
    PLAIN_COLOURS, replace(NO_GEOMETRY, colour_probability=0), replace(
        AUGMENTATIONS["light"], colour_probability=0), None,
    replace(PLAIN_COLOURS, expand_probability=1, flip_probability=1),
    replace(PLAIN_COLOURS, expand_probability=0, crop_overlaps=(0.3,))])
def test_boxes_follow_their_objects(letterbox, augmentation):
    # A mean and a fill without red, so that only the rectangles are red.
    spec = SSDSpec(letterbox=letterbox, letterbox_fill=40, mean=(20.0, 90.0, 20.0))
    scenes, measured = np.random.default_rng(0), 0
    for seed in range(60):
        image, boxes = rectangle_scene(scenes)
        sample, moved, kept = augment(image, boxes, spec, augmentation, np.random.default_rng(seed))
        assert sample.shape == (300, 300, 3) and sample.dtype == np.uint8
        assert moved.dtype == np.float32 and moved.shape == (len(kept), 4)
        assert len(set(kept.tolist())) == len(kept)
        assert (moved >= 0).all() and (moved <= 1).all()
        for box, k in zip(moved * 300, kept):
            if min(box[2:] - box[:2]) < 4:
                continue  # too blurred to be measured
            assert np.abs(extent(sample, k) - box).max() <= 1.5, (seed, box, extent(sample, k))
            measured += 1
    assert measured > 60


def test_expansion_is_uniform_in_ratio_and_place():
    draws = [choose_geometry(np.zeros((0, 4)), PAPER, np.random.default_rng((1, seed)))
             for seed in range(4000)]
    regions = np.array([region for region, _ in draws])
    ratios = regions[:, 2] - regions[:, 0]
    # Without objects nothing is cropped: the region is a square canvas around the image.
    np.testing.assert_allclose(regions[:, 3] - regions[:, 1], ratios)
    assert regions[:, :2].max() <= 0 and regions[:, 2:].min() >= 1 and ratios.max() <= 4
    expanded = ratios > 1 + 1e-9
    assert abs(expanded.mean() - 0.5) < 0.035
    assert abs(np.mean([flip for _, flip in draws]) - 0.5) < 0.035
    # Kolmogorov-Smirnov against the uniform distribution, at far below one per cent.
    for values in ((ratios[expanded] - 1) / 3, *(-regions[expanded, :2] / (
            ratios[expanded] - 1)[:, None]).T):
        steps = np.arange(1, len(values) + 1) / len(values)
        assert np.abs(np.sort(values) - steps).max() < 1.8 / np.sqrt(len(values))


def best_centred_iou(boxes, crop):
    """Return the best IoU with an object whose centre is inside, -1 without one."""
    ious = [naive_iou(box, crop) for box in boxes
            if crop[0] < (box[0] + box[2]) / 2 < crop[2]
            and crop[1] < (box[1] + box[3]) / 2 < crop[3]]
    return max(ious, default=-1)


def random_boxes(rng):
    corners = np.sort(rng.random((int(rng.integers(1, 5)), 2, 2)), axis=1)
    return corners.reshape(-1, 4)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_crops_meet_their_constraint(overlap, keeps):
    rng = np.random.default_rng(7)
    only = replace(PAPER, crop_overlaps=(overlap,), crop_keeps_object=keeps)
    cropped = 0
    for _ in range(200):
        # The image itself as an object, so that crops of much overlap exist.
        boxes = np.concatenate([random_boxes(rng), [WHOLE]])
        crop = choose_crop(boxes, only, rng)
        if crop.tolist() == WHOLE:
            continue  # no crop met the constraint
        cropped += 1
        assert max(naive_iou(box, crop) for box in boxes) >= overlap - 1e-9
        if keeps:
            assert best_centred_iou(boxes, crop) >= overlap - 1e-9
        assert (crop >= 0).all() and (crop <= 1 + 1e-12).all()
        width, height = crop[2:] - crop[:2]
        assert 0.5 - 1e-9 <= width / height <= 2 + 1e-9
        assert 0.3 - 1e-9 <= np.sqrt(width * height) <= 1 + 1e-9
    assert cropped > 150


def caffe_crop(boxes, rng):
    """Return a crop as Caffe draws it, in its own order (`GenerateBatchSamples`, `SampleBBox`)."""
    crops = [WHOLE]
    for overlap in (0.1, 0.3, 0.5, 0.7, 0.9, 0.0):  # the last is max_jaccard_overlap 1
        for _ in range(50):
            scale = rng.uniform(0.3, 1)
            aspect = rng.uniform(max(0.5, scale**2), min(2, 1 / scale**2))
            width, height = scale * np.sqrt(aspect), scale / np.sqrt(aspect)
            x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
            crop = [x, y, x + width, y + height]
            if any(naive_iou(box, crop) >= overlap for box in boxes):
                crops.append(crop)
                break
    return np.array(crops[rng.integers(len(crops))])


def test_paper_crops_are_caffes():
    """The same shares of crops without objects, of objects kept, and the same areas."""
    scenes = [random_boxes(np.random.default_rng((12, k))) ** 1.5 for k in range(600)]
    shares = []
    for draw in (lambda boxes, rng: choose_crop(boxes, PAPER, rng), caffe_crop):
        kept, areas = [], []
        for k, boxes in enumerate(scenes):
            crop = draw(boxes, np.random.default_rng((13, k)))
            kept.append([best_centred_iou([box], crop) >= 0 for box in boxes])
            areas.append((crop[2:] - crop[:2]).prod())
        shares.append((np.mean([not any(row) for row in kept]), np.mean(sum(kept, [])),
                       np.mean(areas), np.mean(np.array(areas) == 1)))
    drawn, expected = np.array(shares)
    # Six standard deviations of 600 draws, less for what both have in common.
    assert np.abs(drawn - expected).max() < 0.08 and drawn[0] > 0.03


def test_expansion_is_filled_with_the_mean_whatever_the_colours():
    spec = SSDSpec(mean=(123.0, 117.0, 104.0))
    always = Augmentation(colour_probability=1, expand_probability=1, crop_overlaps=(None,))
    image = np.full((200, 200, 3), (250, 250, 10), np.uint8)
    for rng in map(np.random.default_rng, range(30)):
        sample, box, _ = augment(image, np.array([WHOLE]), spec, always, rng)
        x1, y1, x2, y2 = box[0] * 300
        ys, xs = np.mgrid[:300, :300] + 0.5
        outside = (xs < x1 - 1) | (xs > x2 + 1) | (ys < y1 - 1) | (ys > y2 + 1)
        assert (sample[outside] == (123, 117, 104)).all()
        inside = sample[(xs > x1 + 1) & (xs < x2 - 1) & (ys > y1 + 1) & (ys < y2 - 1)]
        # OpenCV's HSV differs by a level or two between its vector and scalar code.
        assert np.ptp(inside.astype(int), axis=0).max() <= 2
