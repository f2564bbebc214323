"""The dataset doctor: images inspected, boxes checked and mended."""

import math

import numpy as np
import pytest
from PIL import Image

from utils.data.doctor import Doctor, check_classes, check_splits, turn_box
from utils.data.image_check import inspect_images
from utils.data.sources import Annotation, SourceObject
from utils.image import load_image

SIZE = (100, 80)
CLASSES = ("cat", "dog")
nan, inf = math.nan, math.inf


@pytest.fixture
def image(tmp_path):
    """Return a noisy 100x80 JPEG."""
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    return tmp_path / "a.jpg"


@pytest.fixture
def examine(image):
    """Return a function from boxes or (name, box) pairs to (record, problems)."""
    def record(*objects, size=None, path=image):
        rows = [item if isinstance(item[0], str) else ("cat", item) for item in objects]
        doctor = Doctor(CLASSES, inspect_images([path], num_threads=1))
        found = doctor.record(Annotation("a", "a.xml", path, [
            SourceObject(name, box, k % 2 == 1, f"object {k + 1}")
            for k, (name, box) in enumerate(rows)], size))
        return found, doctor.problems
    return record


def kinds(problems):
    return [problem.kind for problem in problems]


def test_sound_objects_pass_unchanged(examine, image):
    boxes = [(0, 0, 100, 80), (10.5, 20.25, 60, 70), (10.5, 20.25, 60, 71)]
    record, problems = examine(boxes[0], boxes[1], ("dog", boxes[2]), size=SIZE)
    assert not problems and record.path == image
    assert record.boxes_px.tolist() == [list(box) for box in boxes]
    assert record.labels.tolist() == [0, 0, 1]
    assert record.difficult.tolist() == [False, True, False]
    assert (record.boxes_px.dtype, record.labels.dtype) == (np.float32, np.int64)


def test_an_image_without_objects_is_background(examine):
    record, problems = examine()
    assert record.boxes_px.shape == (0, 4) and len(record.labels) == 0 and not problems


@pytest.mark.parametrize("box, expected, kind", [
    ((-5, -6, 50, 50), (0, 0, 50, 50), "outside the image"),
    ((50, 40, 300, 300), (50, 40, 100, 80), "outside the image"),
    ((50, 40, 102, 60), (50, 40, 100, 60), "outside the image"),
    ((-1, -1, 101, 81), (0, 0, 100, 80), None),  # counted from 0 or 1: not worth a word
    ((60, 10, 20, 50), (20, 10, 60, 50), "corners swapped"),
    ((20, 50, 60, 10), (20, 10, 60, 50), "corners swapped"),
    ((60, 50, 20, 10), (20, 10, 60, 50), "corners swapped"),
    ((99, 0, 100, 80), (99, 0, 100, 80), None),  # one column of pixels
    ((40, 40, 41, 41), (40, 40, 41, 41), "tiny"),
    ((120, 10, 130, 50), None, "no area"), ((-30, 10, -20, 50), None, "no area"),
    ((20, 10, 20, 50), None, "no area"), ((20, 10, 60, 10.5), None, "no area"),
    ((99.5, 10, 140, 50), None, "no area"), ((100, 0, 101, 80), None, "no area"),
    ((nan, 10, 60, 50), None, "coordinate not a number"),
    ((20, 10, inf, 50), None, "coordinate not a number"),
    ((20, -inf, 60, 50), None, "coordinate not a number")])
def test_boxes_are_mended_or_left_out(examine, box, expected, kind):
    record, problems = examine((1, 1, 90, 70), box)
    assert record.boxes_px[1:].tolist() == ([list(expected)] if expected else [])
    assert kinds(problems) == ([kind] if kind else [])
    assert all(problem.where == "a.xml, object 2 (cat)" for problem in problems)


def test_swapped_and_outside_are_both_said(examine):
    record, problems = examine((60, 50, -20, -10))
    assert record.boxes_px.tolist() == [[0, 0, 60, 50]]
    assert sorted(kinds(problems)) == ["corners swapped", "outside the image"]


def test_duplicates_are_of_one_class_and_box(examine):
    record, problems = examine((1, 1, 50, 50), ("dog", (1, 1, 50, 50)), (1, 1, 50, 50.01),
                               (1, 1, 50, 50), (50, 50, 1, 1))
    assert len(record.labels) == 3 and record.difficult.tolist() == [False, True, False]
    where = [problem.where for problem in problems if problem.kind == "duplicate"]
    assert where == ["a.xml, object 4 (cat)", "a.xml, object 5 (cat)"]


def test_tiny_is_measured_at_the_input(image):
    facts = inspect_images([image], num_threads=1)
    # 6x6 of 100x80 pixels: at 100x100 the sides are 6 and 7.5, at 300x300 three times that.
    for input_size, expected in ((100, ["tiny"]), (300, [])):
        doctor = Doctor(CLASSES, facts, input_size)
        item = SourceObject("cat", (9, 9, 15, 15), 0, "")
        doctor.record(Annotation("a", "a", image, [item], None))
        assert kinds(doctor.problems) == expected


def draw(path, box, orientation, size=(96, 64)):
    """Save a black image with a red box, in stored pixels, and an EXIF orientation."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[box[1]:box[3], box[0]:box[2]] = 255, 0, 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **(
        {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}))


def red_box(path):
    """Return xyxy edges of the red pixels as load_image shows them."""
    rows, columns = np.nonzero(load_image(path)[..., 0] > 128)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


STORED = (8, 16, 56, 32)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_boxes_turn_as_images_do(tmp_path, orientation, suffix):
    path = tmp_path / f"a{suffix}"
    draw(path, STORED, orientation)
    assert turn_box(STORED, (96, 64), orientation) == red_box(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_before_rotation_turn_the_boxes(examine, tmp_path, orientation):
    path = tmp_path / "turned.jpg"
    draw(path, STORED, orientation)
    record, problems = examine(STORED, size=(96, 64), path=path)
    if orientation >= 5:
        assert tuple(record.boxes_px[0]) == red_box(path)
        assert kinds(problems) == ["size disagrees"] and problems[0].where == "a.xml"
    else:  # the size says nothing: boxes are taken to be of the image as it is shown
        assert tuple(record.boxes_px[0]) == STORED
        assert kinds(problems) == ["orientation unclear"] * (orientation > 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_after_rotation_leave_boxes_alone(examine, tmp_path, orientation):
    path = tmp_path / "turned.jpg"
    draw(path, STORED, orientation)
    shown = tuple(int(edge) for edge in red_box(path))
    height, width = load_image(path).shape[:2]
    record, problems = examine(shown, size=(width, height), path=path)
    assert tuple(record.boxes_px[0]) == shown
    assert kinds(problems) == ["orientation unclear"] * (orientation in (2, 3, 4))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("side, size", [(64, (64, 64)), (64, None), (96, None)])
def test_orientations_that_no_size_decides_are_listed(examine, tmp_path, orientation, side, size):
    path = tmp_path / "turned.jpg"
    draw(path, STORED, orientation, (side, 64))
    record, problems = examine(STORED, size=size, path=path)
    assert tuple(record.boxes_px[0]) == STORED
    assert kinds(problems) == ["orientation unclear"] * (orientation > 1)
    assert not examine(size=size, path=path)[1], "there is no box to be wrong"


@pytest.mark.parametrize("factor", [2, 0.5, 10])
def test_boxes_of_a_resized_image_are_scaled(examine, factor):
    box = (10, 20, 60, 70)
    size = tuple(round(side * factor) for side in SIZE)
    record, problems = examine(tuple(edge * factor for edge in box), size=size)
    np.testing.assert_allclose(record.boxes_px, [box], atol=1e-4)
    assert kinds(problems) == ["size disagrees"] and "scaled" in problems[0].what


def test_another_aspect_ratio_is_only_said(examine):
    record, problems = examine((10, 20, 60, 70), size=(100, 100))
    assert record.boxes_px.tolist() == [[10, 20, 60, 70]]
    assert kinds(problems) == ["size disagrees"] and "as they are" in problems[0].what


def test_equal_images_are_found_across_and_within_splits(tmp_path):
    for name, shade in (("a", 10), ("b", 20), ("a2", 10), ("a3", 10), ("c", 30)):
        Image.new("RGB", SIZE, (shade, 0, 0)).save(tmp_path / f"{name}.png")
    paths = {path.stem: path for path in tmp_path.glob("*.png")}
    doctor = Doctor(CLASSES, inspect_images(paths.values(), num_threads=2))
    lists = {split: [doctor.record(Annotation(name, name, paths[name], [], None))
                     for name in names.split()]
             for split, names in {"train": "a b a2", "val": "a3", "test": "c"}.items()}
    check_splits(doctor, lists)
    found = {problem.kind: problem for problem in doctor.problems}
    assert len(found) == len(doctor.problems) == 2
    assert found["same image twice"].where == str(paths["a2"])
    across = found["same image in two splits"]
    assert across.where == str(paths["a3"]) and "val" in across.what and "train" in across.what
    check_classes(doctor, lists, CLASSES)
    assert [problem.where for problem in doctor.problems[2:]] == ["cat", "dog"]
