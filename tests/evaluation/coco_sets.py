"""Sets of detections for pycocotools and for this project: crowds, ties, boxes of no area."""

import contextlib
import io

import numpy as np

from utils.evaluation.assignment import FlatDetections, FlatObjects


def random_set(seed, *, images=40, classes=3, decimals=0, tied=True):
    """Return (truth, results) as COCO's rows: crowds, boxes of no area, empty images, ties."""
    rng = np.random.default_rng(seed)
    truth, results = [], []

    def add_result(image, label, box):
        score = float(rng.integers(1, 6) / 5 if tied else rng.random())
        results.append({"image_id": image, "category_id": label, "score": score,
                        "bbox": np.round(box, decimals).tolist()})

    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 7) * (rng.random() > 0.1)):
            label = int(rng.integers(classes)) + 1
            box = np.round(rng.uniform([0, 0, 2, 2], [90, 90, 120, 120]), decimals)
            box[2:] *= rng.random(2) > 0.04
            truth.append({"image_id": image, "category_id": label, "bbox": box.tolist(),
                          "area": 0.7 * float(box[2] * box[3]),
                          "iscrowd": int(rng.random() < 0.15)})
            for _ in range(rng.integers(0, 4)):
                near = box + rng.integers(-4, 5, 4)
                near[2:] = near[2:].clip(0)
                add_result(image, label if rng.random() < 0.9 else 1, near)
        for _ in range(rng.integers(0, 6)):
            add_result(image, int(rng.integers(classes)) + 1, rng.uniform(0, 90, 4))
    return truth, results


def flatten(truth, results):
    """Return COCO's rows as (FlatDetections, FlatObjects)."""
    def column(rows, name, dtype, shape=-1):
        return np.array([row[name] for row in rows], dtype).reshape(shape)

    def columns(rows):
        x, y, width, height = column(rows, "bbox", float, (-1, 4)).T
        return (column(rows, "image_id", int) - 1, column(rows, "category_id", int) - 1,
                np.stack([x, y, x + width, y + height], 1), width * height)

    image, labels, boxes, area = columns(results)
    detections = FlatDetections(image, labels, column(results, "score", float), boxes, area)
    image, labels, boxes, area = columns(truth)
    return detections, FlatObjects(image, labels, boxes, column(truth, "iscrowd", bool), area,
                                   column(truth, "area", float))


def judge_files(truth_path, results_path):
    """Return pycocotools' COCOeval of two files."""
    from pycocotools.coco import COCO
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_path))
        return judge(truth, truth.loadRes(str(results_path)))


def judge(truth, results):
    """Return COCOeval of two COCO objects after evaluate, accumulate and summarize."""
    from pycocotools.cocoeval import COCOeval
    evaluation = COCOeval(truth, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def pycocotools(truth, results, *, images=40, classes=3):
    """Return pycocotools' COCOeval of rows."""
    from pycocotools.coco import COCO
    parts = {"info": {}, "images": [{"id": k + 1} for k in range(images)],
             "categories": [{"id": k + 1} for k in range(classes)]}
    # Annotation ids from 1: pycocotools loses the match of an object with the id 0.
    rows = [{**row, "id": k} for k, row in enumerate(truth, start=1)]
    guesses = [{**row, "id": k, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
               for k, row in enumerate(results, start=1)]
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for annotations in (rows, guesses):
            sides.append(COCO())
            sides[-1].dataset = parts | {"annotations": annotations}
            sides[-1].createIndex()
        return judge(*sides)
