"""Boxes drawn on images."""

import numpy as np
import pytest

from utils.draw import FONT, class_colour, draw_detections
from utils.postprocess import Detections

NAMES = ("cat", "traffic light", "Ампель ö")


def make_detections(rows):
    """Return NumPy Detections of (x1, y1, x2, y2, score, label) rows."""
    rows = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))


def changed(image, rows):
    """Return the drawn image and the mask of pixels that differ from the original."""
    drawn = np.asarray(draw_detections(image, make_detections(rows), NAMES))
    return drawn, (drawn != image).any(2)


@pytest.fixture
def grey():
    return np.full((200, 300, 3), 100, np.uint8)


def test_nothing_found_changes_nothing(grey):
    image = draw_detections(grey, make_detections([]), NAMES)
    assert image.mode == "RGB" and image.size == (300, 200)
    assert np.array_equal(np.asarray(image), grey)


def test_outline_covers_the_box_and_no_more(grey):
    image, mask = changed(grey, [(40, 80, 240, 160, 0.9, 1)])
    colour = class_colour(1, len(NAMES))
    outline = (image == colour).all(2)
    # Edges are between pixels: the box covers columns 40..239 and rows 80..159.
    assert outline[159, 40:240].all() and outline[80:160, 40].all() and outline[80:160, 239].all()
    assert not mask[160:].any() and not mask[:, 240:].any() and not mask[:, :40].any()
    assert not mask[90:150, 50:230].any()
    # The label stands above the box.
    assert mask[60:80, 40:100].any()


def test_label_at_the_top_stays_inside_the_image(grey):
    _, mask = changed(grey, [(250, 0, 300, 120, 0.5, 1)])
    assert mask[10:18, 200:250].any() and not mask[40:, :250].any()


def test_the_original_is_not_changed(grey):
    before = grey.copy()
    grey.setflags(write=False)
    changed(grey, [(40, 80, 240, 160, 0.9, 1)])
    assert np.array_equal(grey, before)


def test_the_best_detection_is_on_top(grey):
    box = (40, 80, 240, 160)
    best_first = [(*box, 0.9, 0), (*box, 0.4, 1)]
    image, _ = changed(grey, best_first)
    assert image[120, 40].tolist() == list(class_colour(0, len(NAMES)))


@pytest.mark.parametrize("box", [
    (-50, -60, 400, 300), (290, 190, 400, 300), (-30, -30, 2, 2), (10, 10, 10.5, 90),
    (10, 10, 90, 10), (0, 0, 1, 1), (0, 0, 300, 200), (5, 5, 6.5, 6.5)])
@pytest.mark.parametrize("shape", [(200, 300, 3), (1, 1, 3), (8, 2000, 3)])
def test_any_box_on_any_image(box, shape):
    image = draw_detections(np.zeros(shape, np.uint8), make_detections([(*box, 0.7, 2)]), NAMES)
    assert image.size == (shape[1], shape[0])


def test_classes_have_colours_of_their_own():
    for count in (1, 2, 20, 80):
        colours = {class_colour(label, count) for label in range(count)}
        assert len(colours) == count
        assert all(0 <= value <= 255 for colour in colours for value in colour)


def test_the_font_is_installed():
    assert FONT.is_file()
