"""The synthetic data set of `make demo`."""

import numpy as np

from utils.data.annotations import read_class_names
from utils.data.demo_data import CLASS_NAMES, DemoSettings, draw_scene, main
from utils.data.layouts import read_source

IMAGES = 36


def test_the_annotations_are_those_of_the_drawings(tmp_path):
    main(DemoSettings(folder=str(tmp_path), images=IMAGES))
    source = read_source(tmp_path / "VOCdevkit" / "VOC2007")
    items = source.annotations
    assert len(items) == IMAGES and not source.problems
    assert read_class_names(tmp_path / "classes.txt") == CLASS_NAMES
    for item in items[::2]:
        _, objects = draw_scene(np.random.default_rng((0, int(item.key))))
        assert [thing[:3] for thing in item.objects] == objects
    assert {thing.name for item in items for thing in item.objects} == set(CLASS_NAMES)
    assert 0 < sum(thing.difficult for item in items for thing in item.objects) < IMAGES
