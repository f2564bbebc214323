"""COCO's figures against pycocotools, to the last digit."""

import numpy as np
import pytest
from coco_sets import flat, pycocotools, random_set

from utils.evaluation import assignment, coco_ap
from utils.evaluation.assignment import Found, flatten_detections, flatten_records
from utils.evaluation.coco_ap import FIGURES, evaluate_coco


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
    """Annotated areas on both ends of COCO's ranges, detections on either side of them."""
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
@pytest.mark.parametrize("first_id", [1, 0])
def test_figures_equal_pycocotools(name, first_id):
    """Annotation ids from 0 make pycocotools lose a match; here there are none to lose."""
    pytest.importorskip("pycocotools")
    truth, results = SETS[name]()
    judge = pycocotools(truth, results)
    if first_id == 0 and len(truth) > 20:
        assert (pycocotools(truth, results, first_id=0).stats <= judge.stats + 1e-9).all()
    ours = evaluate_coco(*flat(truth, results), 3)
    assert (ours.precision == judge.eval["precision"][..., 2]).all()
    assert (ours.recall == judge.eval["recall"]).all()
    figures = np.nan_to_num(list(ours.figures().values()), nan=-1)
    assert figures.tolist() == judge.stats.tolist()


def test_figures_of_a_class_are_its_columns():
    found, objects = flat(*random_set(0))
    ours = evaluate_coco(found, objects, 3)
    for label in range(3):
        found_part, objects_part = (
            type(part)(*(field[part.labels == label] for field in part))
            for part in (found, objects))
        alone = evaluate_coco(found_part, objects_part, 3)
        for name in FIGURES:
            np.testing.assert_equal(ours.figure(name, label), alone.figure(name))


def test_large_sets_go_through_in_parts(monkeypatch):
    found, objects = flat(*random_set(6, images=60))
    whole = evaluate_coco(found, objects, 3)
    monkeypatch.setattr(assignment, "PAIRS_AT_ONCE", 7)
    monkeypatch.setattr(coco_ap, "AT_ONCE", 20)
    parts = evaluate_coco(found, objects, 3)
    assert (whole.precision == parts.precision).all() and (whole.recall == parts.recall).all()


def test_the_order_of_rows_has_no_say():
    found, objects = flat(*random_set(7, tied=False))
    mixed = np.random.default_rng(0).permutation(len(found.scores))
    shuffled = Found(*(field[mixed] for field in found))
    assert evaluate_coco(found, objects, 3).figures() == evaluate_coco(shuffled, objects,
                                                                       3).figures()


def test_lists_of_nothing():
    figures = evaluate_coco(flatten_detections([]), flatten_records([]), 2).figures()
    assert len(figures) == 12 and np.isnan(list(figures.values())).all()
