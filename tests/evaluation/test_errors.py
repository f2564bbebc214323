"""TIDE's errors against tidecv, hotcoco and cases worked by hand; the confusion matrix."""

import coco_sets
import numpy as np
import pytest

from utils.evaluation import errors as errors_module
from utils.evaluation.assignment import FlatDetections, FlatObjects
from utils.evaluation.coco_ap import evaluate_coco
from utils.evaluation.errors import KINDS, confusion_matrix, cost_of_errors, find_errors
from utils.multibox.boxes import area

CLASSES, IMAGES = 3, 20
# What both libraries call the kinds, in the order of ours.
NAMES = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), KINDS))


def as_detections(rows):
    """Return FlatDetections of (image, label, score, box) rows."""
    image, labels, scores = (np.array([row[k] for row in rows], kind)
                             for k, kind in enumerate((int, int, float)))
    boxes = np.array([row[3] for row in rows], np.float64).reshape(-1, 4)
    return FlatDetections(image, labels, scores, boxes, area(boxes))


def as_objects(rows):
    """Return FlatObjects of (image, label, difficult, box) rows."""
    image, labels, difficult, boxes, areas = as_detections(rows)
    return FlatObjects(image, labels, boxes, difficult.astype(bool), areas, areas)


def random_rows(seed, crowds=False):
    """Return (truth, results) as COCO's rows, with detections of all qualities."""
    truth, results = coco_sets.random_set(seed, images=IMAGES, decimals=2, tied=False)
    return [row | {"iscrowd": row["iscrowd"] * crowds} for row in truth if row["area"]], results


def random_set(seed, crowds=False):
    """Return the same as (FlatDetections, FlatObjects)."""
    return coco_sets.flatten(*random_rows(seed, crowds))


def hotcoco_eval(truth, results):
    hotcoco = pytest.importorskip("hotcoco")
    data = hotcoco.COCO({
        "images": [{"id": k + 1, "width": 400, "height": 400} for k in range(IMAGES)],
        "annotations": [row | {"id": k} for k, row in enumerate(truth, start=1)],
        "categories": [{"id": k + 1, "name": str(k)} for k in range(CLASSES)]})
    return hotcoco.COCOeval(data, data.load_res(results), "bbox")


def tidecv_figures(truth, results):
    """Return (AP, {name: cost}, {name: number}) by the paper's authors, in 0..1."""
    tidecv = pytest.importorskip("tidecv")
    objects, detections = tidecv.Data("truth"), tidecv.Data("found")
    for image in range(1, IMAGES + 1):
        objects.add_image(image, str(image))
    for row in truth:
        objects.add_ground_truth(row["image_id"], row["category_id"], row["bbox"])
    for row in results:
        detections.add_detection(row["image_id"], row["category_id"], row["score"], row["bbox"])
    tide = tidecv.TIDE()
    run = tide.evaluate(objects, detections, mode=tidecv.TIDE.BOX, name="run")
    costs = tide.get_main_errors()["run"]
    return (run.ap / 100, {name: cost / 100 for name, cost in costs.items()},
            {kind.short_name: number for kind, number in run.count_errors().items()})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("library", ["tidecv", "hotcoco"])
def test_figures_are_those_of_other_code(seed, library, monkeypatch):
    rows = random_rows(seed)
    detections, objects = coco_sets.flatten(*rows)
    if library == "tidecv":  # its levels of recall are rounded otherwise than COCO's linspace
        monkeypatch.setattr(errors_module, "RECALLS", np.arange(101) / 100)
        base, costs, counts = tidecv_figures(*rows)
    else:
        evaluation = hotcoco_eval(*rows)
        evaluation.evaluate()
        figures = evaluation.tide_errors()
        base, costs, counts = figures["ap_base"], figures["delta_ap"], figures["counts"]
        assert base == pytest.approx(evaluate_coco(detections, objects, CLASSES).figure("AP50"),
                                     abs=1e-12)
    errors = find_errors(detections, objects)
    our_base, our_costs = cost_of_errors(errors, CLASSES)
    assert our_base == pytest.approx(base, abs=1e-12)
    for name, kind in NAMES.items():
        assert our_costs[kind] == pytest.approx(costs[name], abs=1e-12), name
        assert len(errors.rows_of(kind)) == counts[name] > 0, name


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("confidence", [0, 0.4, 0.99])
def test_the_confusion_matrix_is_that_of_hotcoco(confidence, crowds):
    for seed in range(4):
        rows = random_rows(seed, crowds)
        detections, objects = coco_sets.flatten(*rows)
        above = FlatDetections(*(field[detections.scores > confidence] for field in detections))
        ours = confusion_matrix(above, objects, CLASSES)
        matrix = hotcoco_eval(*rows).confusion_matrix(min_score=confidence)["matrix"]
        if crowds:  # hotcoco counts detections of crowds as of background
            assert (ours[CLASSES] <= matrix[CLASSES]).all()
            matrix[CLASSES] = ours[CLASSES]
        assert np.array_equal(ours, matrix)


A, B = (0, 0, 100, 100), (500, 500, 600, 600)
HALF = (0, 0, 100, 50)  # an IoU of exactly 0.5 with A


@pytest.mark.parametrize("box, label, kind", [
    ((0, 0, 100, 100), 1, "classification"), ((0, 0, 100, 40), 0, "localisation"),
    ((0, 0, 100, 40), 1, "both"), ((0, 0, 100, 90), 0, "duplicate"),
    ((200, 0, 300, 100), 0, "background"), ((0, 0, 100, 9), 0, "background"),
    (HALF, 0, "duplicate"), (HALF, 1, "classification"),
    ((0, 0, 100, 10), 0, "localisation"), ((0, 0, 100, 10), 1, "both")])
def test_each_kind_by_hand(box, label, kind):
    """Beside a right detection of A, B is missed: half of the recall is reached at precision 1."""
    errors = find_errors(as_detections([(0, label, 0.5, box), (0, 0, 0.9, A)]),
                         as_objects([(0, 0, False, A), (0, 0, False, B)]))
    assert errors.kind.tolist() == [kind, ""]
    assert errors.missed.tolist() == [False, True]
    assert errors.target[0] == (-1 if kind == "background" else 0)
    base, costs = cost_of_errors(errors, 2)
    assert base == pytest.approx(51 / 101)
    assert costs["missed"] == pytest.approx(50 / 101)
    assert sum(costs.values()) == costs["missed"]  # the false one is below the right one
