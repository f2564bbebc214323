"""Image files: sizes, damage of every kind, and no false alarm for what is only unusual."""

import io
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features

from utils.cli import UserError
from utils.data import image_check
from utils.data.image_check import inspect_image, inspect_images, is_truncated
from utils.image import decode_image

REPO = Path(__file__).resolve().parents[2]


def photo(width=160, height=120, seed=0):
    """Return a PIL image with smooth and noisy parts, as photographs have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels[:, width // 2:] += rng.integers(-30, 31, pixels[:, width // 2:].shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_opencv(*flags, grey=False):
    pixels = np.asarray(photo())
    return cv2.imencode(".jpg", pixels[..., 0] if grey else pixels, list(flags))[1].tobytes()


def check(tmp_path, data, name="a.jpg"):
    (tmp_path / name).write_bytes(data)
    return inspect_image(tmp_path / name)


JPEGS = {
    "baseline": lambda: encoded(photo(), "jpeg"),
    "progressive": lambda: encoded(photo(), "jpeg", progressive=True),
    "restart markers": lambda: encoded(photo(), "jpeg", restart_marker_rows=1),
    "4:4:4": lambda: encoded(photo(), "jpeg", subsampling=0, quality=97),
    "optimised": lambda: encoded(photo(), "jpeg", optimize=True, quality=40),
}
SOUND = JPEGS | {
    "grey": lambda: encoded(photo().convert("L"), "jpeg"),
    "CMYK": lambda: encoded(photo().convert("CMYK"), "jpeg"),
    "flat": lambda: encoded(Image.new("RGB", (160, 120)), "jpeg", progressive=True),
    "OpenCV progressive": lambda: by_opencv(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "OpenCV restarts": lambda: by_opencv(cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
    "OpenCV grey": lambda: by_opencv(grey=True),
    "more behind the end": lambda: JPEGS["baseline"]() + b"\0more" * 2000,
    "camera's needless bytes": lambda: JPEGS["baseline"]()[:-2] + b"\0" * 30 + b"\xff\xd9",
    "thumbnail": lambda: encoded(photo(), "jpeg", exif=thumbnail()),
    "text with an end mark": lambda: encoded(photo(), "jpeg", comment=b"\xff\xd9 no end"),
    "PNG": lambda: encoded(photo(), "png"),
    "PNG with more behind": lambda: encoded(photo(), "png") + b"\0" * 9000,
    "PNG with an odd profile": lambda: encoded(photo(), "png", icc_profile=b"no profile" * 9),
    "BMP": lambda: encoded(photo(), "bmp"), "TIFF": lambda: encoded(photo(), "tiff"),
    "TIFF with a tag of its own": lambda: encoded(photo(), "tiff", tiffinfo={60000: "mine"}),
    "TIFF LZW": lambda: encoded(photo(), "tiff", compression="tiff_lzw"),
    "WebP": lambda: encoded(photo(), "webp"),
}


def thumbnail():
    """Return EXIF data with a whole JPEG in it."""
    exif, small = Image.Exif(), encoded(photo(16, 12), "jpeg")
    exif[0x010E] = small.decode("latin1")
    return exif


@pytest.mark.parametrize("name", SOUND)
def test_sound_images_have_no_fault(tmp_path, name):
    facts = check(tmp_path, SOUND[name]())
    assert (facts.fault, facts.reason, facts.size) == (None, "", (160, 120))
    assert facts.orientation == 1


def scan_of(data):
    """Return where the pixels of a JPEG begin."""
    place = data.index(b"\xff\xda")
    return place + 2 + int.from_bytes(data[place + 2:place + 4], "big")


def damaged(data, how, length, seed):
    """Return a JPEG with a random stretch of its pixels gone, zero or random; its end stays."""
    rng = random.Random(seed)
    place = rng.randrange(scan_of(data), len(data) - 2 - length)
    middle = {"gone": b"", "zero": bytes(length), "random": rng.randbytes(length)}[how]
    return data[:place] + middle + data[place + length:]


@pytest.mark.parametrize("how", ["gone", "zero", "random"])
@pytest.mark.parametrize("name", JPEGS)
def test_stretches_that_are_gone_are_found(tmp_path, name, how):
    data = JPEGS[name]()
    found = [check(tmp_path, damaged(data, how, len(data) // 4, seed)) for seed in range(8)]
    assert all(facts.fault in ("image damaged", "image unreadable") for facts in found)
    assert all(facts.reason for facts in found)
    assert {"image damaged"} <= {facts.fault for facts in found}


@pytest.mark.parametrize("name", JPEGS)
def test_the_middle_is_gone_up_to_the_end_mark(tmp_path, name):
    data = JPEGS[name]()
    half = (scan_of(data) + len(data)) // 2
    assert check(tmp_path, data[:half] + b"\xff\xd9").fault == "image damaged"


def test_scan_data_left_over_is_damage_and_filling_is_none(tmp_path):
    """Codes that were changed end the image before its data ends; see the table for cameras."""
    data = JPEGS["baseline"]()
    half = len(data) // 2
    spoilt = data[:half] + bytes(200) + data[half + 200:-2]
    for rest in (b"\x35\x81\x4f" * 10, b""):
        assert check(tmp_path, spoilt + rest + b"\xff\xd9").fault == "image damaged"
    assert check(tmp_path, data[:-2] + b"\x35\x81\x4f" * 10 + b"\xff\xd9").fault == "image damaged"


def test_a_progressive_jpeg_with_a_scan_script_that_was_spoilt(tmp_path):
    """Where scan headers are spoilt, libjpeg speaks of the sequence alone."""
    data = bytearray(JPEGS["progressive"]())
    scan = data.index(b"\xff\xda")  # marker, length, n components in 2n bytes, Ss, Se, Ah and Al
    data[scan + 5 + 2 * data[scan + 4] + 2] = 0x10  # refines bits that no scan has given
    assert check(tmp_path, bytes(data)).fault == "image damaged"


@pytest.mark.skipif(int(cv2.__version__.partition(".")[0]) < 5, reason="OpenCV 4 does not say")
@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits"])
def test_damaged_tiffs_are_found(tmp_path, compression):
    data = encoded(photo(), "tiff", compression=compression)
    assert check(tmp_path, data[:3000] + bytes(800) + data[3800:]).fault == "image damaged"


def png_chunks(data):
    """Yield (offset, kind, length) of the chunks of a PNG."""
    place = 8
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place:place + 8])
        yield place, kind, length
        place += 12 + length


def test_damaged_pngs_are_found(tmp_path):
    data = encoded(photo(), "png")
    place, _, length = next(chunk for chunk in png_chunks(data) if chunk[1] == b"IDAT")
    middle = place + 8 + length // 2
    for bad in (data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:],  # the CRC is wrong
                data[:middle] + bytes(50) + data[middle + 50:],
                data[:place] + data[place + 12 + length:]):  # no pixels at all
        assert check(tmp_path, bad).fault in ("image damaged", "image unreadable")
    assert check(tmp_path, data[:-12]).fault == "image truncated"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95, 0.999])
@pytest.mark.parametrize("name", ["baseline", "progressive", "thumbnail", "PNG"])
def test_truncated_images_are_found(tmp_path, name, share):
    data = SOUND[name]()
    assert not is_truncated(data) and not is_truncated(data + b"\0" * 9999)
    assert is_truncated(data[:int(len(data) * share)])
    facts = check(tmp_path, data[:int(len(data) * share)])
    assert facts.fault in ("image truncated", "image unreadable")


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_images_are_facts(tmp_path, data):
    facts = check(tmp_path, data)
    assert facts.size is None and facts.fault == "image unreadable" and facts.reason
    assert inspect_image(tmp_path / "none.jpg").fault == "image unreadable"


FORMATS = ["jpeg", "png", "bmp", "tiff", "webp", "gif", "ppm", "tga", "ico", "jpeg2000", "pcx",
           "dds", "sgi", "icns", "im", "msp", "qoi"] + ["avif"] * features.check("avif")


@pytest.mark.parametrize("kind", FORMATS)
def test_no_damage_of_any_format_raises(tmp_path, kind):
    mode = {"msp": "1"}.get(kind, "RGB")
    if kind.upper() not in Image.registered_extensions().values():
        Image.init()
    if kind.upper() not in Image.SAVE:
        pytest.skip("this Pillow does not write it")
    data, rng = encoded(photo(64, 64).convert(mode), kind), random.Random(0)
    paths = []
    for k in range(20):
        place = rng.randrange(min(len(data), rng.choice([40, 400, len(data)])))
        length = rng.choice([1, 4, 40])
        middle = rng.choice([b"", bytes(length), rng.randbytes(length), b"\xff" * length])
        paths.append(tmp_path / f"{k}.jpg")
        paths[-1].write_bytes(data[:place] + middle + data[place + length:])
    for facts in inspect_images(paths, num_threads=2).values():
        assert (facts.fault is None) == (facts.size is not None) == (not facts.reason) \
            or facts.fault in ("image damaged", "image truncated")


UNUSUAL = {
    "16 bits": lambda: cv2.imencode(".png", np.zeros((9, 7, 3), np.uint16))[1].tobytes(),
    "CMYK": lambda: encoded(photo(9, 7).convert("CMYK"), "jpeg"),
    "CMYK TIFF": lambda: encoded(photo(9, 7).convert("CMYK"), "tiff"),
    "palette": lambda: encoded(photo(9, 7).convert("P"), "png"),
    "1 bit": lambda: encoded(photo(9, 7).convert("1"), "png"),
    "1 bit fax": lambda: encoded(photo(9, 7).convert("1"), "tiff", compression="group4"),
    "4 channels": lambda: encoded(photo(9, 7).convert("RGBA"), "tiff", compression="tiff_lzw"),
    "BigTIFF": lambda: encoded(photo(9, 7), "tiff", big_tiff=True),
    "floats": lambda: encoded(photo(9, 7).convert("F"), "tiff"),
    "32 bits": lambda: encoded(photo(9, 7).convert("I"), "tiff"),
    "animated": lambda: encoded(photo(9, 7), "webp", save_all=True, append_images=[photo(9, 7, 1)]),
    "transparent": lambda: encoded(photo(40, 40).convert("RGBA"), "webp"),
    "JPEG 2000": lambda: encoded(photo(40, 40).convert("L"), "jpeg2000"),
    "a bomb": lambda: encoded(Image.new("1", (14000, 14000)), "png"),
    "too wide": lambda: encoded(Image.new("L", (2_000_000, 1)), "png")}


def seen_by_training(data):
    """Return (width, height) of an image as the training reads it, None where it does not."""
    try:
        return decode_image(data, "a.jpg").shape[1::-1]
    except UserError:
        return None


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_readable_is_what_the_training_reads(tmp_path, name):
    data = UNUSUAL[name]()
    assert check(tmp_path, data).size == seen_by_training(data)


@pytest.mark.parametrize("name", ["transparent", "animated"])
def test_no_image_passes_that_the_training_cannot_read(tmp_path, name):
    data = UNUSUAL[name]()
    for place in [*range(8, 24), *range(60, len(data), len(data) // 20)]:
        bad = data[:place] + bytes([data[place] ^ 1]) + data[place + 1:]
        facts = check(tmp_path, bad)
        assert facts.fault == "image damaged" or facts.size == seen_by_training(bad), bad


def test_a_colon_in_a_name_does_not_cut_the_reason(tmp_path):
    assert check(tmp_path, b"no image", "a: b.jpg").reason.startswith("not an image")


@pytest.mark.parametrize("error", [struct.error, SyntaxError, RuntimeError, OverflowError,
                                   MemoryError, EOFError, KeyError, ZeroDivisionError])
def test_whatever_a_decoder_raises_is_a_fact(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error("deep down")
    monkeypatch.setattr(image_check, "image_size", fail)
    facts = check(tmp_path, SOUND["PNG"]())
    assert facts.fault == "image unreadable" and error.__name__ in facts.reason


def test_a_decoder_that_crashes_is_a_fact_and_the_next_image_is_read(tmp_path, monkeypatch):
    crash = tmp_path / "crash.py"
    crash.write_text("import os\nos.abort()\n")
    with monkeypatch.context() as patch:
        patch.setattr(image_check, "_IDLE", [])
        patch.setattr(image_check.decoder, "__file__", str(crash))
        for _ in range(2):
            facts = check(tmp_path, SOUND["baseline"]())
            assert facts.fault == "image unreadable" and "crashed" in facts.reason
    assert check(tmp_path, SOUND["baseline"]()).fault is None


def test_a_decoder_that_was_killed_between_two_images_costs_none(tmp_path):
    assert check(tmp_path, SOUND["baseline"]()).fault is None
    process = image_check._IDLE.pop()
    process.kill()
    process.wait()
    image_check._IDLE.append(process)
    for _ in range(len(image_check._IDLE) + 1):
        assert check(tmp_path, SOUND["baseline"]()).fault is None


def test_nothing_is_printed_past_the_facts_and_no_process_is_left(tmp_path):
    """In a process of its own, since decoders print past Python's sys.stderr."""
    for k, name in enumerate(JPEGS):
        (tmp_path / f"{k}.jpg").write_bytes(damaged(JPEGS[name](), "zero", 900, k))
    data = encoded(photo(), "png")
    (tmp_path / "5.png").write_bytes(data[:2000] + b"\0" * 99 + data[2099:])
    code = f"""
from pathlib import Path
from utils.data import image_check
paths = sorted(Path({str(tmp_path)!r}).iterdir())
def ctrl_c(results):
    yield next(results)
    raise KeyboardInterrupt
for progress in (iter, ctrl_c):
    try:
        facts = image_check.inspect_images(paths, num_threads=2, progress=progress)
    except KeyboardInterrupt:
        print(*(process.pid for process in image_check._IDLE))
print(*(item.fault for item in facts.values()))
"""
    done = subprocess.run([sys.executable, "-W", "always::ResourceWarning", "-c", code], cwd=REPO,
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    pids, faults = done.stdout.splitlines()
    assert faults.count("image") == 6 and pids
    for pid in map(int, pids.split() if os.name == "posix" else ()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_equal_files_have_equal_digests(tmp_path):
    digests = [check(tmp_path, encoded(photo(seed=seed), "png"), f"{k}.png").digest
               for k, seed in enumerate((0, 1, 0))]
    assert digests[0] == digests[2] != digests[1]
