"""COCO JSON."""

import json
import math

import pytest
from source_files import by_key, plain, save, write

from utils.cli import UserError
from utils.data.coco import read_coco

COCO = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 50, "height": 40},
               {"id": 3, "file_name": "sub/b 1.png", "width": 10, "height": 20},
               {"id": 9, "file_name": "none.jpg"}],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": " traffic light "}],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [2.5, 3, 10, 20.25], "iscrowd": 0},
        {"image_id": 3, "category_id": 90, "bbox": [0, 0, 10, 20], "iscrowd": 1},
        {"image_id": 7, "category_id": 90, "bbox": [40, 30, 10, 10]}]}


@pytest.fixture
def coco(tmp_path):
    """Return a function that reads COCO with some parts replaced."""
    def dump_and_read(**changes):
        save(tmp_path / "a.jpg")
        path = write(tmp_path / "c.json", json.dumps(COCO | changes))
        return by_key(read_coco(path, tmp_path))
    return dump_and_read


def test_coco_values(coco, tmp_path):
    one, two = save(tmp_path / "a.jpg"), save(tmp_path / "sub" / "b 1.png")
    found, problems = coco()
    assert not problems and list(found) == ["a.jpg", "sub/b 1.png", "none.jpg"]
    a, b, none = found.values()
    assert plain(a.objects) == [("traffic light", (2.5, 3, 12.5, 23.25), False),
                                ("toothbrush", (40, 30, 50, 40), False)]
    assert plain(b.objects) == [("toothbrush", (0, 0, 10, 20), True)]  # a crowd
    assert (a.size, b.size, none.size) == ((50, 40), (10, 20), None)
    assert (a.image, b.image, none.image) == (one, two, None)
    assert none.objects == [] and "c.json" in none.origin


@pytest.mark.parametrize("broken", [
    {"image_id": 99}, {"category_id": 5}, {"bbox": [1, 2, 3]}, {"bbox": None}, {"bbox": "abcd"},
    {"bbox": [1, 2, "x", 4]}, {"image_id": [7]}, {"bbox": [1, 2, 3, 10**400]}])
def test_bad_coco_annotations_are_numbered(coco, broken):
    rows = COCO["annotations"]
    found, (problem,) = coco(annotations=[rows[0], rows[1] | broken, rows[2]])
    assert problem.kind == "bad object" and problem.where.endswith("c.json, annotation 2")
    assert len(found["a.jpg"].objects) == 2 and not found["sub/b 1.png"].objects


@pytest.mark.parametrize("missing", ["image_id", "category_id", "bbox"])
def test_coco_annotations_without_a_field(coco, missing):
    row = {key: value for key, value in COCO["annotations"][0].items() if key != missing}
    _, problems = coco(annotations=[row, 5])
    assert [problem.where[-12:] for problem in problems] == ["annotation 1", "annotation 2"]


@pytest.mark.parametrize("text", [
    "", "[]", "{", "5", "null", '{"images": []}', '{"images": 1, "categories": 1}',
    '{"images": [], "categories": [], "annotations": null}', "[" * 5000,
    '{"images": ["a"], "categories": [], "annotations": []}'])
def test_broken_json_is_named(tmp_path, text):
    with pytest.raises(UserError, match="broken.json"):
        read_coco(write(tmp_path / "broken.json", text), tmp_path)


def test_missing_coco_file_is_named(tmp_path):
    with pytest.raises(UserError, match="none.json.*annotation_path"):
        read_coco(tmp_path / "none.json", tmp_path)


def test_coco_ids_and_flags_may_be_text(coco):
    found, problems = coco(
        images=[{"id": "7", "file_name": "a.jpg"}], categories=[{"id": 1.0, "name": "cat"}],
        annotations=[{"image_id": 7, "category_id": "1", "bbox": ["1", 2, "3.5", 4],
                      "iscrowd": flag} for flag in ("0", "1", 0, 1, "false", "true", False, True,
                                                    None, "", 1.0)])
    assert not problems
    assert [item.difficult for item in found["a.jpg"].objects] == [
        False, True, False, True, False, True, False, True, False, False, True]
    assert found["a.jpg"].objects[0].box_px == (1, 2, 4.5, 6)


@pytest.mark.parametrize("broken, what", [
    ({"image_id": 99}, "image_id '99' is the id of no image"),
    ({"image_id": math.inf}, "image_id 'inf' is the id of no image"),
    ({"category_id": "dog"}, "category_id 'dog' is the id of no category"),
    ({"bbox": [1, 2]}, "no bbox of four numbers")])
def test_coco_problems_are_plain_words(coco, broken, what):
    _, (problem,) = coco(annotations=[COCO["annotations"][0] | broken])
    assert problem.what == what


def test_one_image_in_several_spellings_is_one(coco, tmp_path):
    path = save(tmp_path / "sub" / "p0.jpg")
    spellings = ["sub/p0.jpg", "./sub/p0.jpg", "sub\\P0.JPG", "sub/x/../p0.jpg"]
    found, problems = coco(
        images=[{"id": k, "file_name": name} for k, name in enumerate(spellings)],
        annotations=[{"image_id": k, "category_id": 1, "bbox": [k, 0, 5, 5]} for k in range(4)])
    item, = found.values()
    assert item.image == path and [box.box_px[0] for box in item.objects] == [0, 1, 2, 3]
    assert [problem.kind for problem in problems] == ["one image, two spellings"] * 3


def test_a_wrong_images_path_is_named(tmp_path):
    path = write(tmp_path / "c.json", json.dumps(COCO))
    with pytest.raises(UserError, match="nowhere: no such folder; set images_path"):
        read_coco(path, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: none of the 3 .*'a.jpg'; .*images_path"):
        read_coco(path, tmp_path / "empty")
