"""Image files: sizes, damage, and no false alarm for what is only unusual."""

import hashlib
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.data.doctor import inspect_image, inspect_images
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


def with_thumbnail():
    """Return EXIF data with a whole JPEG in it."""
    exif = Image.Exif()
    exif[0x010E] = encoded(photo(16, 12), "jpeg").decode("latin1")
    return exif


def check(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    return inspect_image(tmp_path / "a.jpg")


SOUND = {
    "baseline": lambda: encoded(photo(), "jpeg"),
    "progressive": lambda: encoded(photo(), "jpeg", progressive=True),
    "restart markers": lambda: encoded(photo(), "jpeg", restart_marker_rows=1),
    "grey": lambda: encoded(photo().convert("L"), "jpeg"),
    "CMYK": lambda: encoded(photo().convert("CMYK"), "jpeg"),
    "OpenCV": lambda: cv2.imencode(".jpg", np.asarray(photo()))[1].tobytes(),
    "more behind the end": lambda: encoded(photo(), "jpeg") + b"\0\xff\xda" * 2000,
    "camera's needless bytes": lambda: encoded(photo(), "jpeg")[:-2] + b"\0" * 30 + b"\xff\xd9",
    "thumbnail": lambda: encoded(photo(), "jpeg", exif=with_thumbnail()),
    "PNG": lambda: encoded(photo(), "png"),
    "palette": lambda: encoded(photo().convert("P"), "png"),
    "transparent": lambda: encoded(photo().convert("RGBA"), "png"),
    "16 bits": lambda: encoded(Image.fromarray(
        np.asarray(photo().convert("L")).astype(np.uint16) * 257), "png"),
    "BMP": lambda: encoded(photo(), "bmp"), "TIFF": lambda: encoded(photo(), "tiff"),
    "TIFF LZW": lambda: encoded(photo(), "tiff", compression="tiff_lzw"),
    "WebP": lambda: encoded(photo(), "webp"), "GIF": lambda: encoded(photo(), "gif"),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_images_have_no_fault(tmp_path, name):
    data = SOUND[name]()
    facts = check(tmp_path, data)
    assert (facts.fault, facts.reason, facts.size, facts.orientation) == (None, "", (160, 120), 1)
    assert facts.digest == hashlib.blake2b(data, digest_size=16).digest()
    assert load_image(tmp_path / "a.jpg").shape == (120, 160, 3)


@pytest.mark.parametrize("share", [0.999, 0.9, 0.5])
@pytest.mark.parametrize("name", ["baseline", "progressive", "thumbnail", "PNG", "BMP", "WebP"])
def test_cut_files_are_found(tmp_path, name, share):
    data = SOUND[name]()
    facts = check(tmp_path, data[:min(int(share * len(data)), len(data) - 20)])
    assert facts.fault and facts.reason
    if name in ("baseline", "progressive", "thumbnail"):
        assert facts.fault.name == "image truncated"


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


def test_what_is_no_file_of_a_kind_that_is_read_is_unreadable(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    photo().save(tmp_path / "a.gif")
    paths = [tmp_path / name for name in ("none.jpg", "folder.jpg", "a.gif", "none.HEIC")]
    facts = inspect_images(paths + paths, num_threads=2)
    assert {facts[path].fault.name for path in paths} == {"image unreadable"}
    assert "convert it" in facts[paths[2]].reason and "convert it" in facts[paths[3]].reason
