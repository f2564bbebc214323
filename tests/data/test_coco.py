"""COCO JSON."""

import json
import math

import numpy as np
import pytest
from source_files import kinds, plain, read_by_key
from voc_folder import save_image, write_text

from utils.cli import UserError

COCO = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 50, "height": 40},
               {"id": "3", "file_name": "sub/b 1.png", "width": 10, "height": 20},
               {"id": 9, "file_name": "none.jpg"}],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": " traffic light "}],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [2.5, 3, 10, 20.25], "iscrowd": 0},
        {"image_id": 3, "category_id": 90, "bbox": [0, 0, 10, 20], "iscrowd": 1},
        {"image_id": 7, "category_id": 90, "bbox": [40, 30, 10, 10]}]}


@pytest.fixture
def read(tmp_path):
    """Return a function that reads COCO with some parts replaced."""
    save_image(tmp_path / "a.jpg")
    return lambda **changes: read_by_key(
        write_text(tmp_path / "c.json", json.dumps(COCO | changes)))


def test_values(read, tmp_path):
    image = save_image(tmp_path / "sub" / "b 1.png")
    items, problems = read()
    assert not problems and list(items) == ["a.jpg", "sub/b 1.png", "none.jpg"]
    a, b, none = items.values()
    assert plain(a.objects) == [("traffic light", (2.5, 3, 12.5, 23.25), False),
                                ("toothbrush", (40, 30, 50, 40), False)]
    assert plain(b.objects) == [("toothbrush", (0, 0, 10, 20), True)]  # a crowd
    assert (a.size, b.size, none.size) == ((50, 40), (10, 20), None)
    assert (a.image, b.image, none.image) == (tmp_path / "a.jpg", image, None)
    assert none.objects == [] and "c.json" in none.origin


@pytest.mark.parametrize("broken", [
    {"image_id": 99}, {"category_id": 5}, {"category_id": None}, {"iscrowd": "x"}])
def test_bad_annotations_are_numbered(read, broken):
    rows = COCO["annotations"]
    items, (problem,) = read(annotations=[rows[0], rows[1] | broken, rows[2]])
    assert kinds([problem]) == ["bad object"] and problem.where.endswith("c.json, annotation 2")
    assert len(items["a.jpg"].objects) == 2 and not items["sub/b 1.png"].objects


POLYGONS = [[3, 4, 9, 4, 9, 12], [1, 20, 2, 5, 3, 30]]


@pytest.mark.parametrize("row, box", [
    ({"bbox": []}, None), ({"bbox": [1, 2, 3]}, None), ({"bbox": [1, 2, "x", 4]}, None),
    ({"bbox": [0, 0, 0, 0], "segmentation": POLYGONS}, (1, 4, 9, 30)),
    ({"segmentation": POLYGONS}, (1, 4, 9, 30)), ({"segmentation": {"counts": "x"}}, None),
    ({"bbox": [1, 2, 3, 4], "segmentation": POLYGONS}, (1, 2, 4, 6)),
    # Turned by a right angle about its centre, (10, 20).
    ({"bbox": [5, 19, 10, 2], "attributes": {"rotation": 90.0}}, (9, 15, 11, 25))])
def test_boxes_of_polygons_and_of_rotated_boxes(read, row, box):
    items, problems = read(annotations=[{"image_id": 7, "category_id": 1} | row])
    [thing] = items["a.jpg"].objects
    np.testing.assert_allclose(thing.box_px, box or [math.nan] * 4)
    assert not problems


@pytest.mark.parametrize("text", [
    "", "[]", "{", "5", '{"images": []}', '{"images": 1, "categories": 1}',
    json.dumps(COCO | {"annotations": None}), json.dumps(COCO | {"images": ["a.jpg"]}),
    json.dumps(COCO | {"images": [{"id": 1}, {"id": 1}]}), b"\xff\xfe\0"])
def test_a_broken_file_is_refused(tmp_path, text):
    (tmp_path / "broken.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match="broken.json: (not COCO|an id is duplicated|not a UTF-8)"):
        read_by_key(tmp_path / "broken.json")
