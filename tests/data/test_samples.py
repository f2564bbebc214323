"""Sheets of samples: which images, which part of them, and what is drawn where."""

import numpy as np
import pytest
from PIL import Image

from utils.data.annotations import Record
from utils.data.samples import (GAP, LINE, TILE, choose_samples, choose_window, draw_samples)
from utils.detections import Detections
from utils.draw import class_colour

NAMES = ("cat", "dog", "\u4ea4\u901a")


class Detector:
    """Finds the same (box, score, label) rows in every image."""

    def __init__(self, rows):
        rows = np.array(rows, np.float32).reshape(-1, 6)
        self.detections = Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(int))
        self.class_names = NAMES

    def detect_batch(self, images, confidence):
        return [self.detections] * len(images)


def make_record(path, boxes, labels, size=(220, 110)):
    Image.new("RGB", size, (100, 100, 100)).save(path)
    return Record(path, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, int),
                  np.zeros(len(labels), bool))


def has_outline(sheet, left, box, label):
    """Tell whether a box of a tile has edges of a class's colour, at a scale of 2."""
    x1, y1, x2, y2 = (2 * edge for edge in box)
    pixels = np.asarray(sheet).astype(int)[2 * LINE:, left:]
    edges = [pixels[(y1 + y2) // 2, x1 + 1], pixels[(y1 + y2) // 2, x2 - 2],
             pixels[y2 - 2, (x1 + x2) // 2]]
    return all(abs(edge - class_colour(label, 3)).max() <= 2 for edge in edges)


@pytest.mark.parametrize("scores, drawn", [((0.9, 0.3), (True, False)), ((0.4, 0.3), (True, True))])
def test_ground_truth_is_left_and_detections_right(tmp_path, scores, drawn):
    assert TILE == 440  # twice the image
    truth, boxes = (20, 40, 80, 90), [(100, 30, 150, 80), (160, 40, 200, 100)]
    record = make_record(tmp_path / "a.png", [truth], [1])
    detector = Detector([(*box, score, label) for box, score, label in zip(boxes, scores, (0, 2))])
    sheet = draw_samples([record], detector, "epoch 1", confidence=0.5)
    right = TILE + GAP
    assert has_outline(sheet, 0, truth, 1) and not has_outline(sheet, right, truth, 1)
    for box, label, is_drawn in zip(boxes, (0, 2), drawn):
        assert has_outline(sheet, right, box, label) == is_drawn
        assert not has_outline(sheet, 0, box, label)


def test_small_objects_of_a_large_photo_are_shown_large():
    boxes = np.array([[100, 100, 110, 110], [3000, 2000, 3010, 2010], [3040, 2040, 3050, 2050]])
    x1, y1, x2, y2 = choose_window(boxes, 4000, 3000)
    assert 10 * TILE / (x2 - x1) >= 20 and x2 - x1 == y2 - y1
    assert x1 <= 3000 and y1 <= 2000 and x2 >= 3050 and y2 >= 2050  # where most of them are
    assert choose_window(np.array([[0, 0, 300, 300]]), 640, 480) == (0, 0, 640, 480)


def test_samples_are_always_the_same_of_all_classes(tmp_path):
    labels = [[0]] * 20 + [[], [1], [0, 2]]
    records = [Record(tmp_path / f"{k}.jpg", np.zeros((len(row), 4)), np.array(row, int),
                      np.zeros(len(row), bool)) for k, row in enumerate(labels)]
    chosen = choose_samples(records, 3)
    assert [r.path for r in chosen] == [r.path for r in choose_samples(records, 3)]
    assert {int(label) for record in chosen for label in record.labels} == {0, 1, 2}
    assert len(choose_samples(records)) == 8 and len(choose_samples(records[-3:])) == 2
