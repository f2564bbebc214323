"""Images from file to network input, against OpenCV, Pillow and geometry worked out by hand."""

import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from utils.cli import UserError
from utils.image import (as_rgb_array, boxes_to_input, boxes_to_pixels, image_size, input_rect,
                         load_image, prepare, resize_to_input)
from utils.multibox.spec import SSDSpec

ORIENTATION = 0x0112


def blocks(height=40, width=56):
    """Return an image of random 8x8 blocks, which JPEG keeps nearly as they are."""
    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return small.repeat(8, 0).repeat(8, 1)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a b ö 图.png", "no_suffix"])
def test_lossless_files_are_read_exactly(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(blocks()).save(path, format=None if "." in name else "png")
    for image in (load_image(path), load_image(str(path))):
        assert image.dtype == np.uint8 and np.array_equal(image, blocks())
    assert image_size(path) == (56, 40)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / "a.png"
    image = Image.fromarray(blocks()).convert(mode)
    if mode == "RGBA":
        image.putalpha(77)
    image.save(path)
    assert np.array_equal(load_image(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_keep_the_high_byte(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    levels = blocks()[..., 0]
    Image.fromarray(levels.astype(np.uint16) * 257).save(path)
    for image in (load_image(path), as_rgb_array(Image.open(path))):
        assert np.abs(image.astype(int) - levels[..., None]).max() <= 1


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_alike_to_files_headers_and_pil_images(tmp_path, suffix,
                                                                      orientation):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(blocks()).save(path, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    for image in (load_image(path), as_rgb_array(Image.open(path))):
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).mean() < 4
    assert image_size(path) == expected.shape[1::-1]


HUGE = (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
        + b"\x15\xa3\x7d\x80")


@pytest.mark.parametrize("data", [
    b"", b"<!DOCTYPE html><html></html>", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01", HUGE, None],
    ids=["empty", "html", "cut", "60000x60000", "missing"])
@pytest.mark.parametrize("read", [load_image, image_size, lambda path: prepare(path, SSDSpec())])
def test_files_that_are_no_images_are_named(tmp_path, data, read):
    path = tmp_path / "broken.jpg"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read(path)
    assert "broken.jpg" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(40, 56), (480, 640), (301, 299), (300, 300), (1, 9)])
def test_resize_rules_are_the_libraries_own(shape):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    uint8 = resize_to_input(image, SSDSpec(resize="cv2_linear_uint8"))
    assert np.array_equal(uint8, cv2.resize(image, (300, 300), interpolation=cv2.INTER_LINEAR))
    float32 = resize_to_input(image, SSDSpec(resize="cv2_linear_float32"))
    assert float32.dtype == np.float32
    assert np.array_equal(float32, cv2.resize(image.astype(np.float32), (300, 300)))
    bicubic = resize_to_input(image, SSDSpec(resize="pil_bicubic_uint8"))
    assert np.array_equal(bicubic, np.asarray(
        Image.fromarray(image).resize((300, 300), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("width, height, rect", [
    (400, 200, (0, 75, 300, 225)), (200, 400, (75, 0, 225, 300)), (300, 300, (0, 0, 300, 300)),
    (30, 60, (75, 0, 225, 300)), (10000, 10, (0, 149, 300, 150)), (301, 300, (0, 0, 300, 299))])
def test_letterbox_keeps_the_aspect_and_centres(width, height, rect):
    assert input_rect(width, height, SSDSpec(letterbox=True)) == rect
    assert input_rect(width, height, SSDSpec()) == (0, 0, 300, 300)


@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("width, height", [(640, 480), (333, 777), (1, 1), (5000, 7)])
def test_boxes_to_pixels_undoes_boxes_to_input(letterbox, width, height):
    spec = SSDSpec(letterbox=letterbox)
    corners = np.random.default_rng(3).random((20, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    back = boxes_to_pixels(boxes_to_input(boxes, width, height, spec), width, height, spec)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, boxes * (width, height, width, height), rtol=1e-5, atol=1e-3)
    none = boxes_to_input(boxes[:0], width, height, spec)
    assert boxes_to_pixels(none, width, height, spec).shape == (0, 4)


def test_boxes_outside_are_clipped_where_the_spec_clips():
    box = np.array([[-0.1, -0.5, 1.2, 0.5]], dtype=np.float32)
    clipped = boxes_to_pixels(box, 200, 100, SSDSpec(box_clip="after_nms"))
    free = boxes_to_pixels(box, 200, 100, SSDSpec(box_clip="none"))
    np.testing.assert_allclose(clipped, [[0, 0, 200, 50]], atol=1e-4)
    np.testing.assert_allclose(free, [[-20, -50, 240, 50]], atol=1e-4)
    # Under letterbox the input's edge lies in the bars: the image's own edge is the limit.
    whole = np.array([[0, 0, 1, 1]], dtype=np.float32)
    np.testing.assert_allclose(boxes_to_pixels(whole, 200, 100, SSDSpec(letterbox=True)),
                               [[0, 0, 200, 100]])
