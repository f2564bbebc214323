"""COCO's figures against pycocotools, to the last digit."""

import json

import numpy as np
import pytest
from coco_sets import flatten, pycocotools, random_set
from PIL import Image

from utils.data.annotations import list_text, read_list
from utils.data.doctor import Doctor, inspect_images
from utils.data.layouts import read_source
from utils.evaluation import assignment
from utils.evaluation.assignment import flatten_records
from utils.evaluation.coco_ap import evaluate_coco
from utils.evaluation.detection_files import read_detections
from utils.multibox.spec import SSDSpec


def crowded():
    """More than 100 detections of a class in an image, of two scores."""
    truth, results = random_set(3)
    return truth, [{**row, "image_id": 1 + k % 3, "category_id": 1, "score": row["score"] // 0.5}
                   for k, row in enumerate(results * 4)]


def equal_overlaps():
    """Two objects and the detections between them; the IoU with both is the same, or 0.5."""
    boxes = [[0, 0, 10, 10], [10, 0, 10, 10], [5, 0, 10, 10], [0, 0, 10, 20], [0, 0, 20, 10]]
    return ([{"image_id": k, "category_id": 1, "bbox": box, "area": 100.0, "iscrowd": k % 2}
             for k in range(1, 5) for box in boxes[:2]],
            [{"image_id": k, "category_id": 1, "bbox": box, "score": 0.5}
             for k in range(1, 5) for box in boxes * 2])


def size_edges():
    """Areas on both ends of COCO's ranges, detections on either side of them."""
    sides = [32.0, 96.0, 31.9, 96.1, 1e5]
    return ([{"image_id": k + 1, "category_id": 1, "bbox": [0, 0, side, side], "iscrowd": 0,
              "area": side * side} for k, side in enumerate(sides)],
            [{"image_id": k + 1, "category_id": 1, "bbox": [grown, 0, side, side], "score": 0.5}
             for k, side in enumerate(sides) for grown in (0, 0.1, 500.0)])


SETS = {
    **{f"random {seed}": lambda seed=seed: random_set(seed, decimals=seed % 3 * 2, tied=seed % 2)
       for seed in range(8)},
    "more than 100 detections": crowded, "equal IoUs": equal_overlaps, "sizes": size_edges,
    "all crowds": lambda: ([{**row, "iscrowd": 1} for row in random_set(1)[0]], random_set(1)[1]),
    "no detections": lambda: (random_set(2)[0], []),
    "no ground truth": lambda: ([], random_set(2)[1]),
    "nothing": lambda: ([], []),
    "one score": lambda: (random_set(4)[0], [{**row, "score": 0.5} for row in random_set(4)[1]]),
    "a class without objects": lambda: (
        [row for row in random_set(5)[0] if row["category_id"] != 2], random_set(5)[1]),
}


@pytest.mark.parametrize("name", SETS)
def test_figures_equal_pycocotools(name, monkeypatch):
    pytest.importorskip("pycocotools")
    monkeypatch.setattr(assignment, "CHUNK", 100)
    truth, results = SETS[name]()
    judge = pycocotools(truth, results)
    ours = evaluate_coco(*flatten(truth, results), 3)
    assert (ours.precision == judge.eval["precision"][..., 2]).all()
    assert (ours.recall == judge.eval["recall"]).all()
    figures = np.nan_to_num(list(ours.figures().values()), nan=-1)
    assert figures.tolist() == judge.stats.tolist()


def test_a_list_of_a_coco_file_has_the_figures_of_that_file(tmp_path):
    """Areas of masks, boxes that reach beyond their images, and all decimals."""
    pytest.importorskip("pycocotools")
    truth, results = random_set(6, images=12, decimals=2, tied=False)
    truth = [row for row in truth if min(row["bbox"][2:]) > 0]
    images = [{"id": k, "file_name": f"image {k}.png"} for k in range(1, 13)]
    for row in images:
        Image.new("RGB", (150, 150)).save(tmp_path / row["file_name"])
    names = ["a", "b", "c"]
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    for name, values in (("truth", {"images": images, "categories": categories,
                                    "annotations": truth}), ("results", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    annotations = read_source(tmp_path / "truth.json", box_format="xywh").annotations
    doctor = Doctor(names, inspect_images(annotations), SSDSpec())
    records = [doctor.record(one, measured=True) for one in annotations]
    (tmp_path / "list.txt").write_text(list_text(records, names), encoding="utf-8")
    records, _ = read_list(tmp_path / "list.txt")
    detections = read_detections(tmp_path / "results.json", records, names,
                                 ids_path=tmp_path / "truth.json")
    figures = evaluate_coco(detections, flatten_records(records), 3).figures()
    assert np.nan_to_num(list(figures.values()), nan=-1).tolist() == pycocotools(
        truth, results, images=12).stats.tolist()
