"""What users get of an image: unpacking, picking, tables."""

import numpy as np
import pytest

from utils.detections import Detections

BOXES = np.array([[1, 2, 30.126, 40], [5, 6, 70, 80], [0, 0, 9, 9]], np.float32)
FOUND = Detections(BOXES, np.array([0.9, 0.8, 0.25], np.float32), np.array([1, 0, 1]),
                   ("cat", "dog"))
NONE = FOUND[:0]


def test_it_unpacks_counts_and_picks():
    boxes, scores, labels = FOUND
    assert boxes is FOUND.boxes and scores is FOUND.scores and labels is FOUND.labels
    assert len(FOUND) == 3 and not NONE and FOUND.names == ["dog", "cat", "dog"]
    assert FOUND.counts() == {"dog": 2, "cat": 1} and NONE.counts() == {}
    sure = FOUND[FOUND.scores > 0.5]
    assert sure.names == ["dog", "cat"] and sure.class_names == FOUND.class_names
    assert FOUND[-1].boxes.tolist() == [[0, 0, 9, 9]]
    assert Detections(*FOUND).names == ["1", "0", "1"]


def test_tables():
    assert FOUND.rows()[0] == {"class": "dog", "label": 1, "score": 0.9, "x1": 1.0, "y1": 2.0,
                               "x2": 30.13, "y2": 40.0}
    assert repr(FOUND).startswith("3 found\n  dog ") and repr(NONE) == "0 found"


def test_supervision_gets_all_fields():
    pytest.importorskip("supervision")
    theirs = FOUND.to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, FOUND.boxes)
    np.testing.assert_array_equal(theirs.confidence, FOUND.scores)
    assert theirs.class_id.tolist() == [1, 0, 1]
    assert theirs["class_name"].tolist() == ["dog", "cat", "dog"]
    assert len(NONE.to_supervision()) == 0
