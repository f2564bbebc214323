"""Numbers of another convention than their format has."""

import numpy as np
import pytest

from utils.cli import UserError
from utils.data.box_formats import BOX_FORMATS, VOC, read_boxes
from utils.data.sources import Annotation, SourceObject

SIZE = (640, 480)


def random_boxes(count=40):
    """Return (N, 4) integer edges, xyxy, of boxes anywhere in an image."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, (500, 350), (count, 2))
    return np.concatenate([low, low + rng.integers(20, 130, (count, 2))], axis=1)


def write_as(edges, box_format):
    """Return the numbers of boxes in a format, each computed by itself."""
    rows = []
    for x1, y1, x2, y2 in edges.tolist():
        scale = SIZE if "fractions" in box_format else (1, 1)
        form = box_format.partition("_")[0]
        first = ((x1 + x2) / 2, (y1 + y2) / 2) if form == "cxcywh" else (x1, y1)
        second = (x2, y2) if form == "xyxy" else (x2 - x1, y2 - y1)
        rows.append(tuple(value / side for value, side in zip(first + second, scale * 2)))
    return rows


def read(numbers, declared, box_format="auto"):
    """Return (the edges of all boxes, message) of images with one box each."""
    if declared == VOC:  # as its reader has them
        x1, y1, x2, y2 = np.transpose(numbers)
        numbers = np.stack([x1 - (x1 <= x2), y1 - (y1 <= y2), x2 - (x1 > x2), y2 - (y1 > y2)], 1)
    items = [Annotation(str(k), f"{k}.xml", None, [SourceObject("cat", row, False, "object 1")],
                        SIZE) for k, row in enumerate(numbers)]
    items, message = read_boxes(items, declared, box_format)
    return np.array([item.objects[0].box_px for item in items]), message


NOT_READ = {("cxcywh", "xywh"), ("xywh_fractions", "cxcywh_fractions")}  # too few do not fit


@pytest.mark.parametrize("declared", ["xyxy", "xywh", "cxcywh_fractions", VOC])
@pytest.mark.parametrize("actual", BOX_FORMATS)
def test_the_format_that_fits_all_boxes_is_read(actual, declared):
    edges, numbers = random_boxes(), write_as(random_boxes(), actual)
    is_declared = actual == declared or (actual, declared) == ("xyxy", VOC)
    expected = edges - [1, 1, 0, 0] if is_declared and declared == VOC else edges
    if (actual, declared) in NOT_READ:
        with pytest.raises(UserError, match=f"set box_format to {actual}, as which"):
            read(numbers, declared)
    else:
        boxes, message = read(numbers, declared)
        np.testing.assert_allclose(boxes, expected, atol=1e-9)
        assert ("xml, object 1 (cat)" in message) != is_declared
    boxes, message = read(numbers, declared, actual)
    np.testing.assert_allclose(boxes, expected, atol=1e-9)
    assert not message


@pytest.mark.parametrize("change", [
    lambda edges: edges[:, [0, 1, 2, 0]],  # VoTT once wrote xmin for ymax
    lambda edges: edges + 700, lambda edges: edges * 0])
def test_boxes_that_fit_in_no_way_are_refused_and_can_be_forced(change):
    numbers = change(random_boxes())
    with pytest.raises(UserError, match="boxes do not fit .*xml, object 1 .*cat.*box_format"):
        read(numbers, VOC)
    assert (read(numbers, "xyxy", "xyxy")[0] == numbers).all()


def test_two_readings_that_fit_are_a_question():
    numbers = np.tile([300, 200, 100, 100], (20, 1))
    with pytest.raises(UserError, match="set box_format to xywh or cxcywh"):
        read(numbers, "xyxy")


def test_some_bad_boxes_and_few_boxes_show_nothing():
    edges = random_boxes()
    edges[:9, 2:] += 700
    for numbers in (edges, write_as(edges[:9], "xywh")):
        boxes, message = read(numbers, "xyxy")
        assert (boxes == numbers).all() and not message
    numbers = np.array(write_as(random_boxes(), "xywh"))
    numbers[:18] = np.nan
    assert read(numbers, "xyxy")[1]  # what is no number counts for nothing
