"""The examples that need packages of their own; tests/nets/test_export.py runs onnx_only.py."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.detections import Detections

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
FOUND = Detections(np.array([[1, 2, 3, 4], [5, 6, 9, 9]], np.float32),
                   np.array([0.9, 0.4], np.float32), np.array([1, 0]), ("cat", "dog"))


def test_supervision_gets_all_fields():
    pytest.importorskip("supervision")
    theirs = FOUND.to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, FOUND.boxes)
    np.testing.assert_array_equal(theirs.confidence, FOUND.scores)
    assert theirs.class_id.tolist() == [1, 0] and theirs["class_name"].tolist() == ["dog", "cat"]
    assert len(FOUND[[]].to_supervision()) == 0


class BrightObjects:
    """Detects what is bright, in place of a network."""

    def detect(self, frame, *, bgr, confidence):
        _, _, stats, _ = cv2.connectedComponentsWithStats(np.uint8(frame.max(2) > 128))
        left, top, width, height = stats[1:, :4].T
        boxes = np.stack([left, top, left + width, top + height], 1).astype(np.float32)
        return Detections(boxes, np.full(len(boxes), 0.9, np.float32), np.zeros(len(boxes), int),
                          ("square",))


def test_squares_that_cross_a_line_are_counted(tmp_path):
    """Two squares fall across the line, one rises across it, one turns back before it."""
    pytest.importorskip("trackers")
    from count_crossings import count_crossings
    video = str(tmp_path / "squares.avi")
    writer = cv2.VideoWriter(video, cv2.VideoWriter_fourcc(*"MJPG"), 25, (240, 160))
    for k in range(40):
        frame = np.zeros((160, 240, 3), np.uint8)
        heights = (10 + 3 * k, 20 + 3 * k, 140 - 3 * k, 10 + 3 * min(k, 40 - k) // 2)
        for x, y in zip((20, 80, 140, 200), heights):
            frame[y:y + 14, x:x + 14] = 255
        writer.write(frame)
    writer.release()
    counts = count_crossings(BrightObjects(), video, (0, 80, 240, 80))
    assert counts == (1, 2)
