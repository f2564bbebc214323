"""The synthetic data set of `make demo`."""

import xml.etree.ElementTree as ElementTree
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.cli import UserError
from utils.data.annotations import read_class_names
from utils.data.demo_data import CLASS_NAMES, DemoSettings, draw_scene, main
from utils.data.voc import read_voc

IMAGES = 36


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Draw a small data set; return its folder."""
    folder = tmp_path_factory.mktemp("demo")
    main(DemoSettings(folder=str(folder), images=IMAGES))
    return folder


def annotations(folder):
    """Return {id: Annotation} of a drawn data set."""
    found, problems = read_voc(folder / "VOCdevkit" / "VOC2007")
    assert not problems
    return {annotation.key: annotation for annotation in found}


def test_the_layout_is_vocs(demo):
    root = demo / "VOCdevkit" / "VOC2007"
    ids = sorted(path.stem for path in (root / "JPEGImages").glob("*.jpg"))
    assert len(ids) == IMAGES and ids == sorted(annotations(demo))
    assert read_class_names(demo / "classes.txt") == CLASS_NAMES


def test_same_seed_same_files(demo, tmp_path):
    main(DemoSettings(folder=str(tmp_path), images=4))
    files = [path for path in sorted((tmp_path / "VOCdevkit").rglob("*")) if path.is_file()]
    assert len(files) == 8
    for path in files:
        assert path.read_bytes() == (demo / path.relative_to(tmp_path)).read_bytes()


def test_seeds_and_images_differ():
    scenes = [draw_scene(np.random.default_rng(key))[0] for key in ((0, 0), (0, 1), (1, 0))]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert scenes[a].shape != scenes[b].shape or not np.array_equal(scenes[a], scenes[b])


def test_boxes_and_sizes_fit_the_images(demo):
    root = demo / "VOCdevkit" / "VOC2007"
    for name, annotation in list(annotations(demo).items())[::2]:
        with Image.open(root / "JPEGImages" / f"{name}.jpg") as image:
            assert annotation.size == image.size
        assert annotation.image == root / "JPEGImages" / f"{name}.jpg"
        _, drawn = draw_scene(np.random.default_rng((0, int(name))))
        assert [item[:2] for item in annotation.objects] == [item[:2] for item in drawn]
        # Read again without our reader: VOC pixels lie in 1..width and 1..height.
        tree = ElementTree.parse(root / "Annotations" / f"{name}.xml")
        for box in tree.iter("bndbox"):
            x1, y1, x2, y2 = (int(box.findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax"))
            assert 1 <= x1 < x2 <= annotation.size[0] and 1 <= y1 < y2 <= annotation.size[1]


def test_classes_and_difficult_objects_are_mixed(demo):
    objects = [item for annotation in annotations(demo).values() for item in annotation.objects]
    counts = Counter(item.name for item in objects)
    assert set(counts) == set(CLASS_NAMES) and len(CLASS_NAMES) >= 4
    assert min(counts.values()) >= 10
    assert 0 < sum(item.difficult for item in objects) < 0.2 * len(objects)


def test_boxes_bound_the_drawn_shapes():
    measured = Counter()
    for number in range(50):
        image, objects = draw_scene(np.random.default_rng((5, number)))
        if len(objects) != 1:
            continue
        name, (x1, y1, x2, y2), _ = objects[0]
        # Shapes are vivid, the ground is pale.
        same = (image.max(2).astype(int) - image.min(2) > 90).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(same, connectivity=8)
        x, y, width, height, _ = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
        found = np.array([x, y, x + width, y + height])
        assert np.abs(found - (x1, y1, x2, y2)).max() <= 2, (number, name)
        measured[name] += 1
    assert len(measured) >= 4, measured


def test_no_images_are_refused(tmp_path):
    with pytest.raises(UserError, match="images"):
        main(DemoSettings(folder=str(tmp_path), images=0))
