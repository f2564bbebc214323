"""The dataset doctor: boxes checked and corrected, image files inspected."""

import io
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image
from source_files import kinds
from voc_folder import save_image

from utils.data.doctor import Doctor, inspect_image
from utils.data.sources import Annotation, SourceObject
from utils.image import load_image
from utils.multibox.spec import SSDSpec

SIZE = (100, 80)
CLASSES = ("cat", "dog")
nan, inf = math.nan, math.inf


@pytest.fixture
def image(tmp_path):
    return save_image(tmp_path / "a.jpg", SIZE)


@pytest.fixture
def examine(image):
    """Return a function from boxes or (name, box) pairs to (record, problems)."""
    def record(*objects, size=None, path=image):
        rows = [item if isinstance(item[0], str) else ("cat", item) for item in objects]
        doctor = Doctor(CLASSES, {path: inspect_image(path)}, SSDSpec())
        things = [SourceObject(name, box, k % 2 == 0, f"object {k}")
                  for k, (name, box) in enumerate(rows, start=1)]
        return doctor.record(Annotation("a", "a.xml", path, things, size)), doctor.problems
    return record


def test_sound_objects_pass_unchanged(examine, image):
    boxes = [(0, 0, 100, 80), (10.5, 20.25, 60, 70), (10.5, 20.25, 60, 71)]
    record, problems = examine(boxes[0], boxes[1], ("dog", boxes[2]), size=SIZE)
    assert not problems and record.path == image
    assert record.boxes_px.tolist() == [list(box) for box in boxes]
    assert record.labels.tolist() == [0, 0, 1]
    assert record.difficult.tolist() == [False, True, False]
    assert (record.boxes_px.dtype, record.labels.dtype) == (np.float64, np.int64)
    assert record.size == SIZE and np.isnan(record.areas).all()


@pytest.mark.parametrize("box, expected, kind", [
    ((-5, -6, 50, 50), (0, 0, 50, 50), "outside the image"),
    ((50, 40, 1e300, 60), (50, 40, 100, 60), "outside the image"),
    ((-1, -1, 101, 81), (0, 0, 100, 80), None),  # counted from 0 or 1: not worth a word
    ((60, 10, 20, 50), (20, 10, 60, 50), "corners swapped"),
    ((99, 0, 100, 80), (99, 0, 100, 80), None),  # one column of pixels
    ((40, 40, 41, 41), (40, 40, 41, 41), "tiny"),
    ((120, 10, 130, 50), None, "no area"), ((20, 10, 60, 10.5), None, "no area"),
    ((99.5, 10, 140, 50), None, "no area"), ((nan, 10, 9, 9), None, "coordinate not a number"),
    ((20, 10, inf, 50), None, "coordinate not a number"),
    (("Bird", (1, 1, 50, 50)), None, "unknown class"),
    (("cat", (1, 1, 90, 70)), None, "duplicate"), ((90, 70, 1, 1), None, "corners swapped")])
def test_boxes_are_corrected_or_left_out(examine, box, expected, kind):
    record, problems = examine((1, 1, 90, 70), box)
    assert record.boxes_px[1:].tolist() == ([list(expected)] if expected else [])
    assert kinds(problems)[:1] == ([kind] if kind else [])
    assert all(problem.where.startswith("a.xml, object 2 (") for problem in problems)
    assert all(len(problem.images) == 1 and len(problem.box_px) == 4 for problem in problems)


@pytest.mark.parametrize("changes, is_tiny", [
    ({"input_shape": (100, 100)}, 1), ({}, 0), ({"tile": 400}, 1),
    ({"input_shape": (130, 130)}, 0), ({"input_shape": (130, 130), "letterbox": True}, 1)])
def test_tiny_is_measured_at_the_input(image, changes, is_tiny):
    # 6x6 of 100x80 pixels: at 100x100 the sides are 6 and 7.5, in a tile 6 of 400; at 130x130
    # 7.8 and 9.8, or 7.8 each with letterbox.
    doctor = Doctor(CLASSES, {image: inspect_image(image)}, replace(SSDSpec(), **changes))
    item = SourceObject("cat", (9, 9, 15, 15), False, "")
    doctor.record(Annotation("a", "a", image, [item], None))
    assert kinds(doctor.problems) == ["tiny"][:is_tiny]


STORED = (8, 16, 56, 32)


def draw(path, orientation, size=(96, 64)):
    """Save a black image with a red box at STORED and an EXIF orientation."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[16:32, 8:56] = 255, 0, 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def red_box(path):
    """Return xyxy edges of the red pixels as load_image shows them."""
    rows, columns = np.nonzero(load_image(path)[..., 0] > 128)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_as_images_do(examine, tmp_path, orientation):
    path = tmp_path / "turned.png"
    draw(path, orientation)
    shown = tuple(int(edge) for edge in red_box(path))
    # A size from before the rotation turns the boxes; else they are taken as shown.
    record, problems = examine(STORED, size=(96, 64), path=path)
    if orientation >= 5:
        assert tuple(record.boxes_px[0]) == shown and kinds(problems) == ["size disagrees"]
    else:
        assert tuple(record.boxes_px[0]) == STORED
        assert kinds(problems) == ([] if orientation == 1 else ["orientation unclear"])
    # A size from after it leaves them alone.
    record, problems = examine(shown, size=load_image(path).shape[1::-1], path=path)
    assert tuple(record.boxes_px[0]) == shown
    assert kinds(problems) == (["orientation unclear"] if orientation in (2, 3, 4) else [])


@pytest.mark.parametrize("size, scale, words", [
    ((200, 160), 2, "scaled"), ((50, 40), 0.5, "scaled"), ((100, 100), 1, "as they are")])
def test_boxes_of_a_resized_image_are_scaled(examine, size, scale, words):
    record, problems = examine((10 * scale, 20 * scale, 60 * scale, 70 * scale), size=size)
    np.testing.assert_allclose(record.boxes_px, [(10, 20, 60, 70)], atol=1e-4)
    assert kinds(problems) == ["size disagrees"] and words in problems[0].what


def test_unusable_images_and_annotations_have_no_record(tmp_path):
    paths = {name: save_image(tmp_path / f"{name}.jpg") for name in ("cut", "text")}
    paths["cut"].write_bytes(paths["cut"].read_bytes()[:-200])
    paths["text"].write_text("<html>404</html>")
    doctor = Doctor(CLASSES, {path: inspect_image(path) for path in paths.values()}, SSDSpec())
    for name in ("cut", "text", "gone"):
        assert doctor.record(Annotation(name, f"{name}.xml", paths.get(name), [], None)) is None
    assert [(kind, where.rpartition("/")[2]) for kind, where, *_ in doctor.problems] == [
        ("image truncated", "cut.jpg"), ("image unreadable", "text.jpg"),
        ("image missing", "gone.xml")]
    assert doctor.record(Annotation("a", "a.xml", paths["cut"], None, None)) is None
    assert len(doctor.problems) == 3  # its reader has listed it


def test_equal_images(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in ("a", "b", "a2", "a3")]
    for path in paths:
        Image.new("RGB", SIZE, "red" if "a" in path.stem else "blue").save(path)
    doctor = Doctor(CLASSES, {path: inspect_image(path) for path in paths}, SSDSpec())
    records = [doctor.record(Annotation("", "", path, [], None)) for path in paths]
    doctor.check_lists({"train": records[:3], "val": records[3:]})
    assert [(*problem[:3], problem.images) for problem in doctor.problems] == [
        ("same image twice", str(paths[2]), f"in train, as {paths[0]} in train",
         (paths[2], paths[0])),
        ("same image in two splits", str(paths[3]), f"in val, as {paths[0]} in train",
         (paths[3], paths[0]))]


def encoded(kind, mode="RGB", **options):
    """Return the bytes of an image file with smooth and noisy parts, as photographs have."""
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    pixels = cv2.resize(rng.integers(0, 226, (6, 8, 3), dtype=np.uint8), (160, 120))
    pixels[:, 80:] += rng.integers(0, 30, (120, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


SOUND = {"JPEG": encoded("jpeg"), "progressive": encoded("jpeg", progressive=True),
         "CMYK": encoded("jpeg", "CMYK"), "PNG": encoded("png"), "BMP": encoded("bmp"),
         "WebP": encoded("webp")}


@pytest.mark.parametrize("name", SOUND)
def test_image_files_whole_and_cut(tmp_path, name):
    path = tmp_path / "a.jpg"
    path.write_bytes(SOUND[name])
    facts = inspect_image(path)
    assert (facts.size, facts.orientation) == ((160, 120), 1) and len(facts.digest) == 16
    assert load_image(path).shape == (120, 160, 3)
    path.write_bytes(SOUND[name][:len(SOUND[name]) * 9 // 10])
    facts = inspect_image(path)
    assert facts.size is None and facts.reason and facts.kind != "image missing"
