"""The synthetic data set of `make demo`."""

from collections import Counter

import cv2
import numpy as np
import pytest

from utils.data.annotations import read_class_names
from utils.data.demo_data import CLASS_NAMES, DemoSettings, draw_scene, main
from utils.data.layouts import read_source

IMAGES = 36


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Draw a small data set; return its folder."""
    folder = tmp_path_factory.mktemp("demo")
    main(DemoSettings(folder=str(folder), images=IMAGES))
    return folder


def test_the_annotations_are_those_of_the_drawings(demo):
    source = read_source(demo / "VOCdevkit" / "VOC2007")
    items = source.annotations
    assert len(items) == IMAGES and not source.problems
    assert read_class_names(demo / "classes.txt") == CLASS_NAMES
    for item in items[::2]:
        _, objects = draw_scene(np.random.default_rng((0, int(item.key))))
        assert [thing[:3] for thing in item.objects] == objects
    assert {thing.name for item in items for thing in item.objects} == set(CLASS_NAMES)
    assert 0 < sum(thing.difficult for item in items for thing in item.objects) < IMAGES


def test_boxes_bound_the_drawn_shapes():
    measured = Counter()
    for number in range(50):
        image, objects = draw_scene(np.random.default_rng((5, number)))
        if len(objects) != 1:
            continue
        name, box, _ = objects[0]
        # Shapes are vivid, the ground is pale.
        vivid = (image.max(2).astype(int) - image.min(2) > 90).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(vivid, connectivity=8)
        x, y, width, height, _ = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
        assert np.abs(np.subtract((x, y, x + width, y + height), box)).max() <= 2, (number, name)
        measured[name] += 1
    assert len(measured) == 4, measured
