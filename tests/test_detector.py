"""The detector's public calls: what they take, what they refuse, several threads at once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detector import NAMES, photo, tiny_detector

from ssd import SSD, SSDSettings
from utils.cli import UserError


@pytest.fixture(scope="module")
def detector():
    return tiny_detector(confidence=0.3)


def random_image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def test_no_images_are_no_detections(detector):
    assert detector.detect_batch([]) == []
    assert detector.detect_batch(iter(())) == []


@pytest.mark.parametrize("image", [
    torch.zeros(3, 8, 8), [1, 2], None, b"\xff\xd8", 3, {"image": 1}])
def test_what_is_no_image_is_a_type_error(detector, image):
    for call in (detector.detect, detector.detect_image):
        with pytest.raises(TypeError, match=f"path.*PIL.*array, got {type(image).__name__}"):
            call(image)


@pytest.mark.parametrize("images", ["a.jpg", b"a.jpg", Image.new("RGB", (9, 9))])
def test_one_image_is_no_list(detector, images):
    with pytest.raises(TypeError, match="list of images"):
        detector.detect_batch(images)


@pytest.mark.parametrize("image", [
    Image.new("RGB", (0, 0)), Image.new("RGB", (5, 0)), np.zeros((0, 4, 3), np.uint8),
    np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)])
def test_images_without_pixels_or_of_another_kind(detector, image):
    with pytest.raises(ValueError, match="pixels|uint8 RGB"):
        detector.detect(image)


@pytest.mark.parametrize("changes, message", [
    ({"weights_family": "junk"}, "weights_family must be one of 'auto', .*'junk'"),
    ({"precision": "int8"}, "precision must be one of 'fp32', 'bf16', 'fp16', 'auto', got 'int8'"),
    ({"confidence": float("nan")}, "confidence must be finite"),
    ({"confidence": float("inf")}, "confidence must be finite"),
    ({"confidence": "0.5"}, "confidence must be a number, got '0.5'"),
    ({"confidence": True}, "confidence must be a number"),
    ({"confidence": -0.1}, r"confidence must lie in 0\.\.1, got -0.1"),
    ({"nms_iou": 1.5}, r"nms_iou must lie in 0\.\.1, got 1.5"),
    ({"nms_iou": None}, "nms_iou must be a number"),
    ({"model_path": None}, "model_path must be a text"),
])
def test_settings_made_in_python_are_checked(detector, changes, message):
    with pytest.raises(UserError, match=message):
        SSD(replace(SSDSettings(), **changes), network=detector.network, class_names=NAMES)


def test_first_argument_and_keywords(detector, tmp_path):
    with pytest.raises(TypeError, match=r"path or SSDSettings\(model_path=.*got int"):
        SSD(3)
    with pytest.raises(TypeError, match="confidense"):
        SSD("best.pth", confidense=0.3)
    with pytest.raises(UserError, match="nowhere.pth"):
        SSD(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match="classes: 'cow' is none of the detector's: cat, dog"):
        SSD(network=detector.network, class_names=NAMES, classes=("cow",))
    with pytest.raises(UserError, match="'cow' is none"):
        detector.detect_batch([random_image()], classes=("cow",))
    with pytest.raises(UserError, match="nms must be one of"):
        detector.detect_batch([random_image()], nms="hard")
    with pytest.raises(UserError, match="nms must be one of"):
        SSD(network=detector.network, class_names=NAMES, nms="hard")


@pytest.mark.parametrize("thresholds", [
    {"confidence": float("nan")}, {"confidence": 2}, {"nms_iou": -1}, {"max_per_image": -1},
    {"max_per_class": 1.5}])
def test_thresholds_of_a_call_are_checked(detector, thresholds):
    with pytest.raises(UserError, match=next(iter(thresholds))):
        detector.detect_batch([random_image()], **thresholds)


def test_numpy_numbers_are_numbers(detector):
    SSD(SSDSettings(confidence=np.float32(0.5), nms_iou=1), network=detector.network,
        class_names=NAMES)


def test_a_relative_path_is_looked_for_where_one_stands(detector, tmp_path, monkeypatch):
    photo(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(detector.detect("a.png").boxes,
                                  detector.detect(tmp_path / "a.png").boxes)
    with pytest.raises(UserError, match="b.png: no such file"):
        detector.detect("b.png")
    with pytest.raises(UserError, match="a folder, not a file"):
        detector.detect(tmp_path)


def test_six_threads_find_what_one_finds(detector):
    images = [random_image(seed) for seed in range(12)]
    alone = [detector.detect(image) for image in images]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(detector.detect, images))
    assert all(len(found.scores) for found in alone)
    for one, other in zip(alone, together):
        for part, same in zip(one, other):
            np.testing.assert_array_equal(part, same)
