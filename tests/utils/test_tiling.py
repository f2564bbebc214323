"""Windows of large images: where they lie, and that merging neither loses nor doubles objects."""

import cv2
import numpy as np
import pytest
from naive import naive_iou

from utils.detections import Detections
from utils.multibox.postprocess import Thresholds
from utils.multibox.spec import SSDSpec
from utils.tiling import (detect_windows, draw_window, boxes_in_windows, merge_windows,
                          window_grid)

TILE = 120
SPEC = SSDSpec(input_shape=(TILE, TILE), grids=(15, 8, 4, 2, 1, 1), steps=None, tile=TILE,
               anchors_size=(12, 24, 44, 65, 85, 106, 126))
SIZES = [(700, 400), (121, 120), (120, 300), (90, 70), (211, 500)]


def make_detections(boxes, scores, labels):
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32),
                      np.array(labels, np.int64))


@pytest.mark.parametrize("size", SIZES)
def test_windows_cover_the_image_and_cores_part_it(size):
    windows, cores = window_grid(*size, TILE)
    seen, owned = np.zeros(size[::-1], int), np.zeros(size[::-1], int)
    centres = np.stack(np.meshgrid(np.arange(size[0]) + 0.3, np.arange(size[1]) + 0.3), -1)
    for (x1, y1, x2, y2), part in zip(windows, cores):
        assert (x2 - x1, y2 - y1) == (TILE, TILE) and min(x1, y1) >= 0
        assert x1 == 0 or x2 <= size[0]
        seen[y1:y2, x1:x2] += 1
        inside = ((centres > part[:2]) & (centres < part[2:])).all(-1)
        owned += inside
        # An object of a quarter of the window is whole in it wherever its centre is in the core.
        points = centres[inside]
        assert (((points - TILE / 8 >= (x1, y1)) | (np.array([x1, y1]) == 0)).all()
                and ((points + TILE / 8 <= (x2, y2)) | (np.array([x2, y2]) >= size)).all())
    assert seen.min() == 1 and (owned == 1).all()


def squares(size, rng, sides, count=40):
    """Return a black image with squares of values 100 and 200, and [(x1, y1, x2, y2, label)]."""
    image, objects = np.zeros((*size[::-1], 3), np.uint8), set()
    for _ in range(count):
        side, label = int(rng.integers(*sides)), int(rng.integers(2))
        x, y = (int(rng.integers(max(length - side, 0) + 1)) for length in size)
        if side <= min(size) and not image[max(y - 1, 0):y + side + 1,
                                           max(x - 1, 0):x + side + 1].any():
            image[y:y + side, x:x + side] = 100 * (label + 1)
            objects.add((x, y, x + side, y + side, label))
    return image, objects


def find_squares(rng, noise=0):
    """Return a detector of all that its input shows, by connected components, with noise."""
    def detect(inputs, sizes, thresholds):
        assert thresholds.max_per_image == 0 and set(sizes) == {(TILE, TILE)} and len(sizes) <= 16
        results = []
        for image in inputs:
            boxes, labels = [], []
            for label in (0, 1):
                mask = (image[..., 0] == 100 * (label + 1)).astype(np.uint8)
                for x, y, w, h, _ in cv2.connectedComponentsWithStats(mask, connectivity=4)[2][1:]:
                    boxes.append((x, y, x + w, y + h))
                    labels.append(label)
            boxes = np.reshape(boxes, (-1, 4)) + rng.uniform(-noise, noise, (len(boxes), 4))
            results.append(make_detections(boxes, rng.uniform(0.5, 0.99, len(boxes)), labels))
        return results
    return detect


def as_set(detections):
    return {(*np.rint(box).astype(int).tolist(), int(label))
            for box, label in zip(detections.boxes, detections.labels)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_an_exact_network_finds_every_object_once(size, seed):
    rng = np.random.default_rng(seed)
    image, objects = squares(size, rng, (6, TILE // 4 + 1))
    detections = detect_windows(image, SPEC, find_squares(rng), Thresholds())
    assert as_set(detections) == objects and len(detections) == len(objects) > 0
    assert (np.diff(detections.scores) <= 0).all()


@pytest.mark.parametrize("seed", range(12))
def test_objects_larger_than_the_overlap_are_joined(seed):
    """Also those larger than a window, of which no window sees more than a part."""
    rng = np.random.default_rng(seed)
    image, objects = squares((900, 700), rng, (31, 180), count=6)
    for noise in (0, 2):  # pixels
        detections = detect_windows(image, SPEC, find_squares(rng, noise), Thresholds())
        nearest = {min(objects, key=lambda item: np.abs(item - row).max()): row
                   for row in np.column_stack([detections.boxes, detections.labels])}
        assert nearest.keys() == objects and len(detections) == len(objects) > 0
        assert all(np.abs(item - row).max() <= noise for item, row in nearest.items())


def test_agnostic_merging_compares_classes_and_caps_none_of_them():
    # Two windows, x in 0..120 and 90..210, whose cores meet at 105. The last box of the first is
    # the first of the second, of another class.
    parts = [make_detections([(left + 10 * k, 10, left + 10 * k + 8, 18) for k in range(10)],
                             np.linspace(best, best - 0.1, 10), [0, 1] * 5)
             for left, best in ((10, 0.5), (100, 0.9))]
    for nms, count in (("agnostic", 19), ("class", 20)):
        thresholds = Thresholds(nms=nms, max_per_class=2)
        assert len(merge_windows(parts, (210, 120), SPEC, thresholds)) == count


def overlapping_pair(rng, size, sides):
    """Return two boxes (2, 4) of random sides whose IoU lies in 0.1 to 0.4."""
    while True:
        low = rng.random((2, 2)) * (np.array(size) - sides[1])
        boxes = np.concatenate([low, low + rng.uniform(*sides, (2, 2))], 1)
        if 0.1 < naive_iou(*boxes) < 0.4:
            return boxes


@pytest.mark.parametrize("sides", [
    (10, 30), (30, 60), (60, 90), (90, 120), (10, 120), (100, 200)])
def test_overlapping_objects_of_a_class_stay_two(sides):
    """Each window shows what lies in it, exactly; of random pairs, 1% at most go wrong."""
    rng, size, wrong = np.random.default_rng(0), (400, 330), 0
    for _ in range(100):
        objects, parts = overlapping_pair(rng, size, sides), []
        for window in window_grid(*size, TILE)[0]:
            boxes = objects.clip(window[[0, 1, 0, 1]], window[[2, 3, 2, 3]])
            boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(1) > 2]
            parts.append(make_detections(boxes, rng.random(len(boxes)), [0] * len(boxes)))
        merged = merge_windows(parts, size, SPEC, Thresholds()).boxes
        near = [[naive_iou(box, other) >= 0.5 for other in merged] for box in objects]
        wrong += len(merged) != 2 or sum(map(sum, near)) != 2 or near[0] == near[1]
    assert wrong <= 1


@pytest.mark.parametrize("size", SIZES)
def test_training_windows(size):
    middle = np.array(size) / 2
    boxes = np.array([[3, 4, 40, 30], [*middle - 15, *middle + 10]], np.float32)
    drawn = np.array([draw_window(boxes, size, TILE, np.random.default_rng(k)) for k in range(300)])
    low, high = drawn[:, None, :2], drawn[:, None, 2:]  # (300, 1, 2)
    assert (high - low == TILE).all() and (low >= 0).all() and ((high <= size) | (low == 0)).all()
    whole = ((boxes[:, :2] >= low - 1) & (boxes[:, 2:] <= high + 1)).all(2)
    assert (whole.sum(0) > 80).all()  # each is chosen by three eighths
    if min(size) > 2 * TILE:
        assert (~((boxes[:, :2] < high) & (boxes[:, 2:] > low)).all(2).any(1)).sum() > 20


def test_objects_as_fractions_of_their_own_windows():
    # Windows along x begin at 0 and 90, their cores meet at 105.
    boxes = np.array([[90, 12, 114, 24], [100, 12, 124, 24], [0, 0, 210, 120]])
    np.testing.assert_allclose(boxes_in_windows(boxes, (210, 120), TILE) * TILE, [
        [90, 12, 114, 24], [10, 12, 34, 24], [0, 0, 210, 120]])
