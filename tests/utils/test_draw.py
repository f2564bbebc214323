"""Boxes drawn on images."""

import numpy as np
import pytest

from utils.detections import Detections
from utils.draw import FONT, class_colour, draw_detections, draw_heat, find_font, place_plates

NAMES = ("cat", "traffic light", "Ампель ö")
GREY = np.full((200, 300, 3), 100, np.uint8)
GREY.setflags(write=False)  # drawing changes a copy


def draw(image, rows):
    """Return the drawn image of (x1, y1, x2, y2, score, label) rows, and the mask of changes."""
    rows = np.array(rows, dtype=np.float32).reshape(-1, 6)
    detections = Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), NAMES)
    drawn = np.asarray(draw_detections(image, detections))
    return drawn, (drawn != image).any(2)


def test_outline_covers_the_box_and_no_more():
    image, mask = draw(GREY, [(40, 80, 240, 160, 0.9, 1)])
    outline = (image == class_colour(1, len(NAMES))).all(2)
    # Edges are between pixels: the box covers columns 40..239 and rows 80..159.
    assert outline[159, 40:240].all() and outline[80:160, 40].all() and outline[80:160, 239].all()
    assert not mask[160:].any() and not mask[:, 240:].any() and not mask[:, :40].any()
    assert not mask[90:150, 50:230].any()
    assert mask[60:80, 40:100].any(), "the text is above the box"


@pytest.mark.parametrize("box", [
    (-50, -60, 400, 300), (290, 190, 400, 300), (-30, -30, 2, 2), (10, 10, 10.5, 90),
    (0, 0, 1, 1), (0, 0, 300, 200), (250, 0, 300, 120)])
@pytest.mark.parametrize("shape", [(200, 300, 3), (1, 1, 3), (8, 2000, 3)])
def test_any_box_on_any_image(box, shape):
    assert draw(np.zeros(shape, np.uint8), [(*box, 0.7, 2)])[0].shape == shape


def test_characters_that_no_font_has_cost_a_note(capsys):
    assert find_font("Ампель") == FONT and not capsys.readouterr().out
    assert find_font("\U00010000") == FONT and "Noto Sans" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(640, 480), (4000, 3000), (100, 80)])
def test_texts_stay_inside_and_apart(size):
    rng = np.random.default_rng(0)
    low = np.array([(x, y) for y in (0, 0.65) for x in (0, 0.33, 0.66)]) * size
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.3, (6, 2)) * size], 1)
    plates = place_plates(boxes.tolist(), [(size[0] * 0.25, size[1] * 0.05)] * 6, size)
    for k, (x1, y1, x2, y2) in enumerate(plates):
        assert 0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]
        assert not any(min(x2, b[2]) > max(x1, b[0]) and min(y2, b[3]) > max(y1, b[1])
                       for b in plates[:k])


def test_heat_is_red_where_the_class_scores():
    heat = np.zeros((3, 4, 6), np.float32)
    heat[1, :, 3:] = 1
    sheet = np.asarray(draw_heat(GREY, heat, NAMES)).astype(int)
    assert sheet.shape == (2 * 224, 2 * 300, 3), "three classes on two rows, with lines of text"
    first = sheet[24:224, :300]  # the class with the best scores
    assert (first[:, 240:, 0] > first[:, 240:, 2]).all() and (first[:, :60, 0] < 100).all()
