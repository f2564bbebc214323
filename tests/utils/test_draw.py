"""Boxes drawn on images."""

import numpy as np
import pytest

from utils.detections import Detections
from utils.draw import FONT, _place_plates, class_colour, draw_boxes, draw_detections

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


def test_no_edge_runs_through_a_label(grey):
    """A label is the same whether or not another box crosses its place."""
    boxes = [(40, 80, 240, 160), (20, 60, 100, 190), (60, 20, 90, 75), (30, 70, 260, 72)]
    alone = np.asarray(draw_boxes(grey, boxes[:1], [1], ["traffic light"], 3))
    among = np.asarray(draw_boxes(grey, [*boxes[1:], boxes[0]], [0, 0, 0, 1],
                                  ["", "", "", "traffic light"], 3))
    label = (alone != grey).any(2)
    label[80:] = False
    assert label.sum() > 500 and np.array_equal(alone[label], among[label])


@pytest.mark.parametrize("size", [(640, 480), (4000, 3000), (100, 80)])
def test_labels_stay_inside_and_apart(size):
    rng = np.random.default_rng(0)
    sides = rng.uniform(0.1, 0.3, (6, 2)) * size
    low = np.array([(x, y) for y in (0, 0.65) for x in (0, 0.33, 0.66)]) * size
    boxes = np.concatenate([low, low + sides], 1)
    extents = [(0, 0, size[0] * 0.25, size[1] * 0.05)] * 6
    plates = _place_plates([tuple(box) for box in boxes], size, extents)
    for k, (x1, y1, x2, y2) in enumerate(plates):
        assert 0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]
        assert not any(min(x2, b[2]) > max(x1, b[0]) and min(y2, b[3]) > max(y1, b[1])
                       for b in plates[:k])


def test_boxes_of_one_place_have_labels_apart():
    plates = _place_plates([(100, 100, 200, 200)] * 4, (400, 400), [(0, 0, 60, 12)] * 4)
    assert len({tuple(plate) for plate in plates}) == 4
    assert plates[-1][3] == 100, "the best, drawn last, has the usual place above its box"


@pytest.mark.parametrize("size", [(640, 480), (4000, 3000), (320, 240)])
def test_letters_grow_with_the_image(size):
    image = np.full((size[1], size[0], 3), 100, np.uint8)
    x1, y1 = size[0] // 4, size[1] // 2
    drawn = np.asarray(draw_boxes(image, [(x1, y1, 3 * x1, 1.5 * y1)], [0], ["cat"], 1))
    rows = np.nonzero((drawn[:y1] != image[:y1]).any((1, 2)))[0]
    assert 0.006 < len(rows) / sum(size) < 0.04 and len(rows) >= 11


def test_a_text_wider_than_the_image_is_written_smaller():
    drawn = draw_boxes(np.full((80, 100, 3), 100, np.uint8), [(5, 30, 90, 70)], [0],
                       ["traffic light 0.95"], 1)
    white = np.nonzero((np.asarray(drawn)[:30] > 200).all(2).any(0))[0]
    assert len(white) > 20 and white.max() < 98, "the last letter is inside"
