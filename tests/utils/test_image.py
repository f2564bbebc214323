"""Images from file to network input, against OpenCV, PIL and geometry worked out by hand."""

import io
import os
import pickle
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from ssd import SSD
from utils.cli import UserError
from utils.data.image_check import inspect_image
from utils.image import (
    IMAGE_SUFFIXES,
    as_rgb_array,
    boxes_to_input,
    boxes_to_pixels,
    image_size,
    input_rect,
    load_image,
    normalise,
    read_input,
    resize_to_input,
    stack_inputs,
)
from utils.multibox.spec import RESIZES, SSDSpec

ORIENTATION = 0x0112
BROKEN = {"empty": b"", "text": b"not an image at all", "html": b"<!DOCTYPE html><html></html>",
          "header only": b"\x89PNG\r\n\x1a\n", "cut jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"}


def blocks(height=40, width=56, seed=0):
    """Return an image of random 8x8 blocks, which JPEG keeps nearly as they are."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return small.repeat(8, 0).repeat(8, 1)


def png_header(width, height):
    """Return a PNG that claims a size and has no pixels to go with it."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"0" * 100)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a b ö 图.png", "no_suffix"])
def test_lossless_files_are_read_exactly(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(blocks()).save(path, format=None if "." in name else "png")
    for where in (path, str(path)):
        image = load_image(where)
        assert image.dtype == np.uint8 and np.array_equal(image, blocks())
    assert image_size(path) == (56, 40)


def test_jpeg_agrees_with_pil(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(blocks()).save(path, quality=95, subsampling=0)
    assert np.abs(load_image(path).astype(int) - np.asarray(Image.open(path))).max() <= 2


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / "a.png"
    image = Image.fromarray(blocks()).convert(mode)
    if mode == "RGBA":
        image.putalpha(77)
    image.save(path)
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(load_image(path), expected)
    assert image_size(path) == (56, 40)


def test_16_bits_keep_the_high_byte(tmp_path):
    path = tmp_path / "a.png"
    levels = blocks()[..., 0]
    Image.fromarray(levels.astype(np.uint16) * 257).save(path)
    assert np.abs(load_image(path).astype(int) - levels[..., None]).max() <= 1


@pytest.mark.parametrize("suffix", [
    "jpg", "png", "webp", "tif"])
def test_exif_rotation_is_carried_out(tmp_path, suffix):
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.{suffix}"
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        lossless = {"lossless": True} if suffix == "webp" else {}
        Image.fromarray(blocks()).save(path, exif=exif, **lossless)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        image = load_image(path)
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).mean() < 4
        assert image_size(path) == image.shape[1::-1]


@pytest.mark.parametrize("reader", [load_image, image_size])
def test_broken_files_are_named(tmp_path, reader):
    for name, data in BROKEN.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(data)
        with pytest.raises(UserError) as error:
            reader(path)
        assert f"{name}.jpg" in str(error.value) and str(error.value).count("\n") < 2
    for path in (tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(UserError, match=path.name):
            reader(path)


@pytest.mark.parametrize("reader", [
    load_image, image_size])
def test_absurd_size_is_refused(tmp_path, reader):
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(60000, 60000))
    with pytest.raises(UserError, match="huge.png"):
        reader(path)


def test_half_a_jpeg_is_not_a_crash(tmp_path):
    path = tmp_path / "half.jpg"
    data = io.BytesIO()
    Image.fromarray(blocks(160, 160)).save(data, "jpeg")
    path.write_bytes(data.getvalue()[:len(data.getvalue()) // 2])
    try:
        assert load_image(path).shape == (160, 160, 3)
    except UserError as error:
        assert "half.jpg" in str(error)


def test_as_rgb_array_takes_paths_pil_and_arrays(tmp_path):
    Image.fromarray(blocks()).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(blocks()), blocks()):
        assert np.array_equal(as_rgb_array(image), blocks())
    grey = Image.fromarray(blocks()).convert("L")
    assert as_rgb_array(grey).shape == (40, 56, 3)


@pytest.mark.parametrize("array", [
    np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32),
    np.zeros((0, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.uint8), np.zeros((3, 4, 4), np.uint8)])
def test_as_rgb_array_refuses_other_arrays(array):
    with pytest.raises(ValueError, match="expected"):
        as_rgb_array(array)


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


@pytest.mark.parametrize("resize", RESIZES)
def test_letterbox_fills_the_rest(resize):
    image = np.full((100, 200, 3), 200, np.uint8)
    out = resize_to_input(image, SSDSpec(letterbox=True, letterbox_fill=55, resize=resize))
    assert out.shape == (300, 300, 3)
    assert (out[75:225] == 200).all() and (out[:75] == 55).all() and (out[225:] == 55).all()


@pytest.mark.parametrize("letterbox", [False, True])
def test_boxes_go_where_the_pixels_go(letterbox):
    spec = SSDSpec(letterbox=letterbox)
    rng = np.random.default_rng(2)
    for _ in range(30):
        width, height = rng.integers(150, 700, 2)
        x1, y1 = rng.uniform(0, 0.6, 2) * (width, height)
        x2, y2 = (x1, y1) + rng.uniform(0.2, 0.4, 2) * (width, height)
        x1, y1, x2, y2 = (int(edge) for edge in (x1, y1, x2, y2))
        image = np.zeros((height, width, 3), np.uint8)
        image[y1:y2, x1:x2] = 255
        out = resize_to_input(image, SSDSpec(letterbox=letterbox, letterbox_fill=0))[..., 0] >= 128
        columns, rows = out.any(0).nonzero()[0], out.any(1).nonzero()[0]
        measured = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        box = np.array([[x1, y1, x2, y2]]) / (width, height, width, height)
        assert np.abs(boxes_to_input(box, width, height, spec) * 300 - measured).max() < 1


@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("width, height", [(640, 480), (333, 777), (1, 1), (5000, 7)])
def test_boxes_to_pixels_undoes_boxes_to_input(letterbox, width, height):
    spec = SSDSpec(letterbox=letterbox)
    corners = np.random.default_rng(3).random((20, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    back = boxes_to_pixels(boxes_to_input(boxes, width, height, spec), width, height, spec)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, boxes * (width, height, width, height), rtol=1e-5, atol=1e-3)


def test_boxes_outside_are_clipped_where_the_spec_clips():
    box = np.array([[-0.1, -0.5, 1.2, 0.5]], dtype=np.float32)
    clipped = boxes_to_pixels(box, 200, 100, SSDSpec(box_clip="after_nms"))
    free = boxes_to_pixels(box, 200, 100, SSDSpec(box_clip="none"))
    np.testing.assert_allclose(clipped, [[0, 0, 200, 50]], atol=1e-4)
    np.testing.assert_allclose(free, [[-20, -50, 240, 50]], atol=1e-4)
    # Under letterbox the input's edge lies in the fill: the image's own edge is the limit.
    whole = np.array([[0, 0, 1, 1]], dtype=np.float32)
    np.testing.assert_allclose(boxes_to_pixels(whole, 200, 100, SSDSpec(letterbox=True)),
                               [[0, 0, 200, 100]])


def test_no_boxes_stay_no_boxes():
    none = np.zeros((0, 4), np.float32)
    assert boxes_to_input(none, 20, 10, SSDSpec()).shape == (0, 4)
    assert boxes_to_pixels(none, 20, 10, SSDSpec(letterbox=True)).shape == (0, 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalise_is_level_minus_mean_over_std(dtype):
    spec = SSDSpec(mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0))
    pixel = np.full((300, 300, 3), (110, 220, 230), dtype=dtype)
    batch = stack_inputs([pixel, np.zeros_like(pixel)])
    assert batch.shape == (2, 3, 300, 300)
    before = batch.clone()
    out = normalise(batch, spec)
    expected = [[100, 100, 50], [-10, -10, -7.5]]
    assert out.dtype == torch.float32
    assert out[:, :, 7, 200].tolist() == expected
    assert torch.equal(batch, before)


def xmp(value):
    return (f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
            f'tiff:Orientation="{value}"/></rdf:RDF></x:xmpmeta>').encode()


def exif_of(value, kind=3):
    """Return an EXIF block whose orientation has any TIFF type and value."""
    packed = value if isinstance(value, bytes) else struct.pack("<HH", value, 0)
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack(
        "<HHI", ORIENTATION, kind, 1 if kind == 3 else 2) + packed + b"\0\0\0\0"


def png_with_xmp(value):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp(value).decode())
    return {"pnginfo": info}


# what is noted, the file's kind, options of Pillow's save, whether width and height change places
MARKS = [
    ("EXIF 6", "jpeg", {"exif": exif_of(6)}, True), ("EXIF 8", "png", {"exif": exif_of(8)}, True),
    ("EXIF 3", "jpeg", {"exif": exif_of(3)}, False),
    ("EXIF 0", "jpeg", {"exif": exif_of(0)}, False),
    ("EXIF 9", "png", {"exif": exif_of(9)}, False),
    ("EXIF in letters", "jpeg", {"exif": exif_of(b"6\0\0\0", 2)}, False),
    ("EXIF cut", "jpeg", {"exif": exif_of(6)[:19]}, False),
    ("EXIF without sense", "jpeg", {"exif": b"Exif\0\0" + b"\xff" * 60_000}, False),
    ("EXIF of 60 KB", "jpeg", {"exif": exif_of(6) + bytes(60_000)}, True),
    ("XMP in a JPEG", "jpeg", {"xmp": xmp(6)}, True), ("XMP 8", "jpeg", {"xmp": xmp(8)}, True),
    ("XMP 0", "jpeg", {"xmp": xmp(0)}, False), ("XMP 9", "jpeg", {"xmp": xmp(9)}, False),
    ("XMP in a PNG", "png", png_with_xmp(5), True),
    ("XMP in a WEBP", "webp", {"xmp": xmp(6), "lossless": True}, True),
    ("XMP in a TIFF", "tiff", {"tiffinfo": {700: xmp(6)}}, True),
    ("tag of a TIFF", "tiff", {"tiffinfo": {ORIENTATION: 6}}, True)]


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: mark[0])
def test_path_header_and_pil_image_are_turned_alike(tmp_path, mark):
    _, kind, options, turned = mark
    path = tmp_path / f"a.{kind}"
    Image.fromarray(blocks(80, 112)).save(path, kind, **options)
    loaded = load_image(path)
    for other in (as_rgb_array(Image.open(path)),
                  np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))):
        assert loaded.shape == other.shape and np.abs(loaded.astype(int) - other).mean() < 4
    assert image_size(path) == loaded.shape[1::-1]
    if turned is not None:
        assert loaded.shape == ((112, 80, 3) if turned else (80, 112, 3))
    facts = inspect_image(path)
    assert facts.size == loaded.shape[1::-1] and not facts.fault


@pytest.mark.parametrize("thing", [None, b"a.png", torch.zeros(4, 4, 3), [1, 2], 7, object()])
def test_other_things_are_no_images(thing):
    for reader in (as_rgb_array, lambda thing: read_input(thing, SSDSpec())):
        with pytest.raises(TypeError, match="expected a path, a PIL image or an"):
            reader(thing)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(size):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}"):
        as_rgb_array(Image.new("RGB", size))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_pipes_and_devices_are_not_read(tmp_path):
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    link = tmp_path / "link.jpg"
    link.symlink_to("/dev/zero")
    for path in (pipe, link, "/dev/zero", tmp_path):
        for reader in (load_image, image_size, as_rgb_array, lambda p: read_input(p, SSDSpec())):
            with pytest.raises(UserError, match="not a file with an image in it"):
                reader(path)


def test_jfif_is_jpeg(tmp_path):
    Image.fromarray(blocks()).save(tmp_path / "a.jfif", "jpeg")
    assert load_image(tmp_path / "a.jfif").shape == (40, 56, 3) and ".jfif" in IMAGE_SUFFIXES


def test_no_images_give_no_detections():
    assert SSD.detect_batch(None, []) == [] == SSD.detect_batch(None, ())


@pytest.mark.parametrize("marks", [{}, {"exif": exif_of(6)}])
def test_the_pixels_of_a_png_are_not_decoded_for_its_header(tmp_path, monkeypatch, marks):
    Image.fromarray(blocks(80, 112)).save(tmp_path / "a.png", **marks)
    loads = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: loads.append(self))
    assert image_size(tmp_path / "a.png") == ((80, 112) if marks else (112, 80))
    assert not loads


def test_exif_behind_the_pixels_of_a_png_is_seen(tmp_path):
    Image.fromarray(blocks(80, 112)).save(tmp_path / "a.png", exif=exif_of(6))
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at:at + 4], "big")
    tail = data.index(b"IEND") - 4
    (tmp_path / "b.png").write_bytes(data[:at] + data[end:tail] + data[at:end] + data[tail:])
    for name in "ab":
        assert image_size(tmp_path / f"{name}.png") == (80, 112)
        assert load_image(tmp_path / f"{name}.png").shape == (112, 80, 3)


def test_images_with_too_many_pixels_say_so(tmp_path):
    Image.new("1", (14000, 14000)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="more than 178 megapixels; cut it into parts"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif"])
def test_loaded_images_can_be_drawn_on(tmp_path, suffix):
    Image.fromarray(blocks(80, 112)).save(tmp_path / f"a.{suffix}")
    load_image(tmp_path / f"a.{suffix}")[:] = 0
    as_rgb_array(Image.open(tmp_path / f"a.{suffix}"))[:] = 0


def test_images_out_of_a_pickle_are_read(tmp_path):
    """As they come from other processes: without their file."""
    Image.fromarray(blocks(80, 112)).save(tmp_path / "a.png")
    image = pickle.loads(pickle.dumps(Image.open(tmp_path / "a.png")))
    assert np.array_equal(as_rgb_array(image), load_image(tmp_path / "a.png"))
