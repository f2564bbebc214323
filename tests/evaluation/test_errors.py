"""TIDE's errors against tidecv, hotcoco and cases worked by hand; the confusion matrix."""

import numpy as np
import pytest

from utils.evaluation import errors as errors_module
from utils.evaluation.assignment import FlatDetections, FlatObjects
from utils.evaluation.coco_ap import evaluate_coco
from utils.evaluation.errors import KINDS, confusion_matrix, cost_of_errors, find_errors
from utils.coco_ids import boxes_xywh
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
    return FlatObjects(image, labels, boxes, difficult.astype(bool), areas)


def random_set(seed, crowds=0.0):
    """Return (FlatDetections, FlatObjects) of detections of all qualities."""
    rng = np.random.default_rng(seed)
    detections, objects = [], []
    for image in range(IMAGES):
        for _ in range(rng.integers(0, 6)):
            low, sides = rng.uniform(0, 300, 2), rng.uniform(10, 100, 2)
            label = int(rng.integers(CLASSES))
            objects.append((image, label, rng.random() < crowds, (*low, *(low + sides))))
            for _ in range(rng.integers(0, 4)):
                box = np.add(objects[-1][3], rng.normal(0, rng.choice([2, 10, 25]), 4))
                claimed = label if rng.random() < 0.7 else int(rng.integers(CLASSES))
                detections.append((image, claimed, rng.random(),
                                   (*box[:2], *np.maximum(box[:2] + 2, box[2:]))))
        for _ in range(rng.integers(0, 3)):
            low, sides = rng.uniform(0, 300, 2), rng.uniform(10, 100, 2)
            detections.append((image, int(rng.integers(CLASSES)), rng.random(),
                               (*low, *(low + sides))))
    return as_detections(detections), as_objects(objects)


def hotcoco_eval(detections, objects):
    hotcoco = pytest.importorskip("hotcoco")

    def rows(boxes):
        return [{"id": k + 1, "image_id": int(image) + 1, "category_id": int(label) + 1,
                 "bbox": box, "area": box[2] * box[3]} for k, (image, label, box) in
                enumerate(zip(boxes.image, boxes.labels, boxes_xywh(boxes.boxes).tolist()))]

    truth = [row | {"iscrowd": int(crowd)} for row, crowd in zip(rows(objects), objects.difficult)]
    results = [row | {"score": score} for row, score in zip(rows(detections),
                                                            detections.scores.tolist())]
    data = hotcoco.COCO({"images": [{"id": k + 1, "width": 400, "height": 400}
                                    for k in range(IMAGES)], "annotations": truth,
                         "categories": [{"id": k + 1, "name": str(k)} for k in range(CLASSES)]})
    return hotcoco.COCOeval(data, data.load_res(results), "bbox")


def tidecv_figures(detections, objects):
    """Return (AP, {name: cost}, {name: number}) by the paper's authors, in 0..1."""
    tidecv = pytest.importorskip("tidecv")
    truth, claims = tidecv.Data("truth"), tidecv.Data("found")
    for image in range(IMAGES):
        truth.add_image(image, str(image))
    for image, label, box in zip(objects.image, objects.labels, boxes_xywh(objects.boxes).tolist()):
        truth.add_ground_truth(int(image), int(label), box)
    for image, label, score, box in zip(*detections[:3], boxes_xywh(detections.boxes).tolist()):
        claims.add_detection(int(image), int(label), float(score), box)
    tide = tidecv.TIDE()
    run = tide.evaluate(truth, claims, mode=tidecv.TIDE.BOX, name="run")
    costs = tide.get_main_errors()["run"]
    return (run.ap / 100, {name: cost / 100 for name, cost in costs.items()},
            {kind.short_name: number for kind, number in run.count_errors().items()})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("library", ["tidecv", "hotcoco"])
def test_figures_are_those_of_other_code(seed, library, monkeypatch):
    detections, objects = random_set(seed)
    if library == "tidecv":  # its levels of recall are rounded otherwise than COCO's linspace
        monkeypatch.setattr(errors_module, "RECALLS", np.arange(101) / 100)
        base, costs, counts = tidecv_figures(detections, objects)
    else:
        evaluation = hotcoco_eval(detections, objects)
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


@pytest.mark.parametrize("crowds", [0, 0.3])
@pytest.mark.parametrize("confidence", [0, 0.4, 0.99])
def test_the_confusion_matrix_is_that_of_hotcoco(confidence, crowds):
    for seed in range(4):
        detections, objects = random_set(seed, crowds)
        ours = confusion_matrix(detections, objects, CLASSES, confidence)
        matrix = hotcoco_eval(detections, objects).confusion_matrix(min_score=confidence)["matrix"]
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


def test_the_better_one_of_two_fixable_errors_counts():
    """Of A once found at IoU 0.4 and once as another class; correcting the latter finds nothing."""
    errors = find_errors(as_detections([(0, 0, 0.8, (0, 0, 100, 40)), (0, 1, 0.7, A)]),
                         as_objects([(0, 0, False, A), (0, 1, False, B)]))
    assert errors.fixable.tolist() == [True, False] and errors.missed.tolist() == [False, True]
    base, costs = cost_of_errors(errors, 2)
    assert base == 0 and costs["localisation"] == 0.5
    assert costs["classification"] == 0


def test_detections_of_difficult_objects_are_no_errors():
    errors = find_errors(as_detections([(0, 0, 0.9, A), (0, 0, 0.8, B)]),
                         as_objects([(0, 0, True, A), (0, 0, False, B)]))
    assert errors.kind.tolist() == ["", ""] and not errors.missed.any()


@pytest.mark.parametrize("detections, objects", [
    ([], []), ([], [(0, 0, False, A)]), ([(0, 0, 0.5, A)], []),
    ([(0, 2, 0.5, A)], [(1, 0, False, A)]), ([(0, 0, 0.5, A)], [(0, 0, True, A)])])
def test_empty_sets(detections, objects):
    errors = find_errors(as_detections(detections), as_objects(objects))
    base, costs = cost_of_errors(errors, 3)
    counted = sum(not difficult for _, _, difficult, _ in objects)
    assert np.isnan(base) == (counted == 0)
    if counted and not detections:
        assert (base, costs["missed"], sum(costs.values())) == (0, 1, 1)
    matrix = confusion_matrix(as_detections(detections), as_objects(objects), 3, 0.1)
    assert matrix.sum() == counted + len(detections) * (counted == len(objects))
