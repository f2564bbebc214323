"""Image files: sizes, damage, and no false alarm for what is only unusual."""

import hashlib
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.data.doctor import inspect_image
from utils.image import load_image


def photo(width=160, height=120):
    """Return a PIL image with smooth and noisy parts, as photographs have."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels[:, width // 2:] += rng.integers(-30, 31, pixels[:, width // 2:].shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def check(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    return inspect_image(tmp_path / "a.jpg")


SOUND = {
    "baseline": lambda: encoded(photo(), "jpeg"),
    "progressive": lambda: encoded(photo(), "jpeg", progressive=True),
    "grey": lambda: encoded(photo().convert("L"), "jpeg"),
    "CMYK": lambda: encoded(photo().convert("CMYK"), "jpeg"),
    "OpenCV": lambda: cv2.imencode(".jpg", np.asarray(photo()))[1].tobytes(),
    "more behind the end": lambda: encoded(photo(), "jpeg") + b"\0\xff\xda" * 2000,
    "PNG": lambda: encoded(photo(), "png"),
    "palette": lambda: encoded(photo().convert("P"), "png"),
    "transparent": lambda: encoded(photo().convert("RGBA"), "png"),
    "16 bits": lambda: encoded(Image.fromarray(
        np.asarray(photo().convert("L")).astype(np.uint16) * 257), "png"),
    "BMP": lambda: encoded(photo(), "bmp"), "TIFF": lambda: encoded(photo(), "tiff"),
    "WebP": lambda: encoded(photo(), "webp"),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_images_have_no_fault(tmp_path, name):
    data = SOUND[name]()
    facts = check(tmp_path, data)
    assert (facts.size, facts.orientation) == ((160, 120), 1)
    assert facts.digest == hashlib.blake2b(data, digest_size=16).digest()
    assert load_image(tmp_path / "a.jpg").shape == (120, 160, 3)


@pytest.mark.parametrize("share", [0.999, 0.9, 0.5])
@pytest.mark.parametrize("name", ["baseline", "progressive", "PNG", "BMP", "WebP"])
def test_cut_files_are_found(tmp_path, name, share):
    data = SOUND[name]()
    facts = check(tmp_path, data[:min(int(share * len(data)), len(data) - 20)])
    assert facts.size is None and facts.reason
    if name in ("baseline", "progressive"):
        assert facts.fault == "image truncated"


def spoilt_png():
    """Return a PNG file in which some bytes of the pixels are wrong."""
    data = bytearray(encoded(photo(), "png"))
    data[len(data) // 2:len(data) // 2 + 50] = bytes(50)
    return bytes(data)


def huge_png():
    """Return a PNG file whose header claims 60000x60000 pixels."""
    data = encoded(Image.new("L", (1, 1)), "png")
    return data[:16] + (60000).to_bytes(4, "big") * 2 + data[24:]


@pytest.mark.parametrize("data", [
    b"", b"text\n" * 50, b"\xff\xd8", b"<html>404</html>", spoilt_png(), huge_png(),
    encoded(photo(), "jpeg")[:100]])
def test_files_without_an_image_are_unreadable(tmp_path, data):
    facts = check(tmp_path, data)
    assert facts.fault and facts.reason and facts.size is None


def test_a_folder_and_nothing_are_unreadable(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    for name in ("none.jpg", "folder.jpg"):
        assert inspect_image(tmp_path / name).fault == "image unreadable"
