"""Files of detections: written, read back, read by pycocotools; those of others, and bad ones."""

import json

import numpy as np
import pytest
from coco_sets import judge_files

from utils.cli import UserError
from utils.data.annotations import Record
from utils.detections import Detections
from utils.evaluation.assignment import (FlatDetections, assign_voc, flatten_detections,
                                         flatten_records)
from utils.evaluation.coco_ap import evaluate_coco
from utils.evaluation.detection_files import (image_ids, image_names, read_detections,
                                              write_detections)
from utils.evaluation.measurement import measure
from utils.evaluation.voc_ap import class_results

CLASSES = ("red cell", "a/b%", "Äpfel")
ROWS = [{"image_id": 1, "category_id": 1, "bbox": [1.5, 2, 10, 20], "score": 0.9},
        {"image_id": 2, "category_id": 3, "bbox": [0, 0, 30.25, 7], "score": 0.4}]


def make_records(folder, names):
    """Return Records of image files that do not exist, with an object of each class."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 40, (len(names), 3, 2))
    boxes = np.concatenate([low, low + rng.uniform(15, 40, low.shape)], 2).astype(np.float32)
    return [Record(folder / name, box, np.arange(3), np.array([False, False, k % 3 == 0]))
            for k, (name, box) in enumerate(zip(names, boxes))]


def guess(records):
    """Return detections near the objects of records, with scores that tie."""
    rng = np.random.default_rng(1)
    return flatten_detections([Detections(
        (np.tile(record.boxes_px, (3, 1)) + rng.normal(0, 3, (9, 4))).astype(np.float32),
        rng.integers(1, 9, 9).astype(np.float32) / 7, rng.integers(0, 3, 9))
        for record in records])


@pytest.fixture
def records(tmp_path):
    return make_records(tmp_path, [f"image {k}.jpg" for k in range(12)])


@pytest.mark.parametrize("form", [".", "detections.json"])
def test_detections_that_are_read_back_have_the_same_figures(form, records, tmp_path):
    detections = guess(records)
    write_detections(tmp_path, detections, records, CLASSES)
    again = read_detections(tmp_path / form, records, CLASSES)
    objects = flatten_records(records)
    for figures in (lambda some: evaluate_coco(some, objects, 3).figures(),
                    lambda some: class_results(assign_voc(some, objects), 3)):
        np.testing.assert_equal(figures(again), figures(detections))
    order, same = (np.lexsort((some.scores, some.boxes[:, 0], some.labels, some.image))
                   for some in (detections, again))
    for field, field_again in zip(detections, again):
        assert (field[order] == field_again[same]).all()


def test_pycocotools_reads_the_files_and_finds_the_same(tmp_path):
    """With tied scores in images that are not in the order of their ids, which are its order."""
    pytest.importorskip("pycocotools")
    records = make_records(tmp_path, [f"{k}.jpg" for k in (7, 10, 2, 31, 4, 25, 1, 16)])
    detections = guess(records)
    detections = detections._replace(scores=np.ceil(detections.scores * 2) / 4)
    write_detections(tmp_path, detections, records, CLASSES)
    figures = measure(detections, records, CLASSES).coco.figures()
    theirs = judge_files(tmp_path / "ground_truth.json", tmp_path / "detections.json")
    assert np.nan_to_num(list(figures.values()), nan=-1).tolist() == theirs.stats.tolist()
    assert figures["AP50:95"] > 0
    assert figures != evaluate_coco(detections, flatten_records(records), 3).figures()


def test_comp4_has_the_pixels_of_voc(tmp_path):
    """As the kit reads them: the first pixel is 1, the last one belongs to the box."""
    detections = FlatDetections(np.array([0]), np.array([0]), np.array([0.5]),
                                np.array([[0, 4, 10.5, 8.0]]), np.array([42.0]))
    write_detections(tmp_path, detections, make_records(tmp_path, ["000007.jpg"]), CLASSES)
    text = (tmp_path / "comp4/comp4_det_test_red cell.txt").read_text()
    assert text == "000007 0.5 1.0 5.0 10.5 8.0\n"
    assert (tmp_path / "comp4/comp4_det_test_a%2Fb%.txt").read_text() == ""


@pytest.mark.parametrize("files, names, ids", [
    (["000139.jpg", "000008.jpg"], ["000139", "000008"], [139, 8]),
    (["2007_000027.jpg", "8.jpg"], ["2007_000027", "8"], [1, 2]),
    (["01.jpg", "1.jpg"], ["01", "1"], [1, 2]),
    (["a/1.jpg", "a/1.png"], ["/r/a/1.jpg", "/r/a/1.png"], [1, 2]),
])
def test_names_and_ids_of_images(files, names, ids, tmp_path):
    records = make_records(tmp_path, files)
    assert [name.replace(str(tmp_path), "/r") for name in image_names(records)] == names
    assert image_ids(records) == ids


def read(tmp_path, rows, records, **ids):
    (tmp_path / "r.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return read_detections(tmp_path / "r.json", records, CLASSES, **ids)


@pytest.mark.parametrize("changes", [
    {}, {"image_id": "image 0"}, {"image_id": "image 0.jpg"}, {"category_id": "red cell"}])
def test_ids_and_names_that_other_projects_write(changes, records, tmp_path):
    detections = read(tmp_path, [ROWS[0] | changes, ROWS[1]], records)
    assert (detections.image.tolist(), detections.labels.tolist()) == ([0, 1], [0, 2])
    assert detections.boxes[0].tolist() == [1.5, 2, 11.5, 22]
    assert detections.area.tolist() == [200, 211.75]
    rows = [ROWS[0] | {"category_id": k} for k in (2, 0, 1)]  # from 0, as YOLOv5 writes them
    assert read(tmp_path, rows, records).labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize("names, rows, images", [
    (["2.jpg", "1.jpg"], [1, 2], [1, 0]),
    (["2.jpg", "a b.jpg", "001.jpg"], [1, 2, "a b"], [2, 0, 1]),
    (["2.jpg", "a.jpg", "1.jpg"], [(7, "1.jpg"), (7, "a.jpg"), (7, "2")], [2, 1, 0]),
    (["2.jpg", "a.jpg", "1.jpg"], [1, 2], "may be names, such as 1, or lines"),
    (["x/1.jpg", "y/1.jpg"], [(1, "1.jpg")], "'1.jpg' is not one of the images")])
def test_images_as_ultralytics_names_them(names, rows, images, tmp_path):
    """An integer where the stem is one, else the stem; newer versions add file_name."""
    rows = [ROWS[0] | (dict(zip(("image_id", "file_name"), row)) if isinstance(row, tuple)
                       else {"image_id": row}) for row in rows]
    if isinstance(images, str):
        with pytest.raises(UserError, match=images):
            read(tmp_path, rows, make_records(tmp_path, names))
    else:
        assert read(tmp_path, rows, make_records(tmp_path, names)).image.tolist() == images


def test_ids_of_another_annotation_file(records, tmp_path):
    """An id is an id, even where another image has that name."""
    files = [{"id": f"image {k + 1}", "file_name": f"folder/image {k}.jpg"} for k in range(11)]
    classes = [{"id": 7 - k, "name": name} for k, name in enumerate(CLASSES)]
    (tmp_path / "ids.json").write_text(json.dumps({"images": files, "categories": classes}))
    rows = [ROWS[0] | {"image_id": "image 3", "category_id": 6}]
    detections = read(tmp_path, rows, records, ids_path=tmp_path / "ids.json")
    assert (detections.image.tolist(), detections.labels.tolist()) == ([2], [1])


@pytest.mark.parametrize("name, content, message", [
    ("r.json", json.dumps(ROWS)[:-9], "not JSON, or cut short"),
    ("r.json", {"annotations": ROWS}, "not a list"),
    ("r.json", [*ROWS, 3], "row 3: needs .* got 3"),
    ("r.json", [ROWS[0] | {"bbox": [1, 2, 3]}], "row 1: .* bbox of 4"),
    ("r.json", [*ROWS, ROWS[0] | {"image_id": 99}], r"99 is not one of the images, .*, 11, 12\]"),
    ("r.json", [ROWS[0] | {"image_id": "other"}], r"'other' is not one of the images, .*image 0"),
    ("r.json", [ROWS[0] | {"category_id": 4}], r"4 is not one of the classes, .*, 2, 3\]"),
    ("r.json", [*ROWS, ROWS[0] | {"score": float("nan")}], "row 3: .* finite numbers"),
    ("r.json", [ROWS[0] | {"bbox": [5, 5, 3, -1]}], "row 1: .* finite numbers"),
    ("ids.json", {"images": [3], "categories": []}, "not a COCO annotation file")])
def test_files_that_cannot_be_scored(name, content, message, records, tmp_path):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        if name == "ids.json":
            read(tmp_path, ROWS, records, ids_path=tmp_path / name)
        else:
            read_detections(tmp_path / name, records, CLASSES)
    assert len(str(error.value).splitlines()) <= 2
