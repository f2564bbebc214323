"""Sets of detections for pycocotools and for this project: crowds, ties, boxes of no area."""

import contextlib
import io

import numpy as np

from utils.evaluation.assignment import Found, Objects


def random_set(seed, *, images=40, classes=3, decimals=0, tied=True):
    """Return (truth, results) as COCO's rows: crowds, boxes of no area, empty images, ties."""
    rng = np.random.default_rng(seed)
    truth, results = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 7) * (rng.random() > 0.1)):
            label = int(rng.integers(classes)) + 1
            box = np.round(rng.uniform([0, 0, 2, 2], [90, 90, 120, 120]), decimals)
            box[2:] *= rng.random(2) > 0.04
            truth.append({"image_id": image, "category_id": label, "bbox": box.tolist(),
                          "area": float(box[2] * box[3] * rng.choice([1, 0.6])),
                          "iscrowd": int(rng.random() < 0.15)})
            for _ in range(rng.integers(0, 4)):
                near = np.round(box + rng.integers(-4, 5, 4), decimals)
                near[2:] = near[2:].clip(0)
                results.append({"image_id": image, "bbox": near.tolist(), "score": score(rng, tied),
                                "category_id": label if rng.random() < 0.9 else 1})
        for _ in range(rng.integers(0, 6)):
            results.append({"image_id": image, "category_id": int(rng.integers(classes)) + 1,
                            "bbox": np.round(rng.uniform(0, 90, 4), decimals).tolist(),
                            "score": score(rng, tied)})
    return truth, results


def score(rng, tied):
    return float(rng.integers(1, 6) / 5 if tied else rng.random())


def flat(truth, results):
    """Return COCO's rows as (Found, Objects)."""
    def column(rows, name, dtype, shape=-1):
        return np.array([row[name] for row in rows], dtype).reshape(shape)

    def place(rows):
        box = column(rows, "bbox", float, (-1, 4))
        edges = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1)
        return (column(rows, "image_id", int) - 1, column(rows, "category_id", int) - 1, edges,
                box[:, 2] * box[:, 3])
    image, label, edges, area = place(results)
    found = Found(image, label, column(results, "score", float), edges, area)
    image, label, edges, area = place(truth)
    return found, Objects(image, label, edges, column(truth, "iscrowd", bool),
                          column(truth, "area", float), area)


def pycocotools(truth, results, *, images=40, classes=3, first_id=1):
    """Return pycocotools' COCOeval after evaluate, accumulate and summarize."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    parts = {"info": {}, "images": [{"id": k + 1} for k in range(images)],
             "categories": [{"id": k + 1} for k in range(classes)]}
    rows = [{**row, "id": k} for k, row in enumerate(truth, start=first_id)]
    guesses = [{**row, "id": k, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
               for k, row in enumerate(results, start=1)]
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for annotations in (rows, guesses):
            sides.append(COCO())
            sides[-1].dataset = parts | {"annotations": annotations}
            sides[-1].createIndex()
        judge = COCOeval(*sides, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge
