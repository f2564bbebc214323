"""TIDE's errors against tidecv, hotcoco and cases worked by hand; the confusion matrix."""

import numpy as np
import pytest

from utils.evaluation import errors as errors_module
from utils.evaluation.assignment import Found, Objects, box_areas
from utils.evaluation.coco_ap import evaluate_coco
from utils.evaluation.errors import (KINDS, ErrorKind, confuse, cost_of_each, cost_of_errors,
                                     find_errors)

CLASSES, IMAGES = 3, 20
# What both libraries call the kinds, in the order of ours.
NAMES = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), KINDS))


def as_found(rows):
    """Return Found of (image, label, score, box) rows."""
    boxes = np.array([row[3] for row in rows], np.float64).reshape(-1, 4)
    image, labels, scores = (np.array([row[k] for row in rows], kind)
                             for k, kind in enumerate((int, int, float)))
    return Found(image, labels, scores, boxes, box_areas(boxes))


def as_objects(rows):
    """Return Objects of (image, label, difficult, box) rows."""
    boxes = np.array([row[3] for row in rows], np.float64).reshape(-1, 4)
    image, labels, difficult = (np.array([row[k] for row in rows], kind)
                                for k, kind in enumerate((int, int, bool)))
    return Objects(image, labels, boxes, difficult, box_areas(boxes), box_areas(boxes))


def random_set(seed, crowds=0.0):
    """Return (Found, Objects) of detections of all qualities."""
    rng = np.random.default_rng(seed)
    found, objects = [], []
    for image in range(IMAGES):
        for _ in range(rng.integers(0, 6)):
            low, sides = rng.uniform(0, 300, 2), rng.uniform(10, 100, 2)
            label = int(rng.integers(CLASSES))
            objects.append((image, label, rng.random() < crowds, (*low, *(low + sides))))
            for _ in range(rng.integers(0, 4)):
                box = np.add(objects[-1][3], rng.normal(0, rng.choice([2, 10, 25]), 4))
                claimed = label if rng.random() < 0.7 else int(rng.integers(CLASSES))
                found.append((image, claimed, rng.random(),
                              (*box[:2], *np.maximum(box[:2] + 2, box[2:]))))
        for _ in range(rng.integers(0, 3)):
            low, sides = rng.uniform(0, 300, 2), rng.uniform(10, 100, 2)
            found.append((image, int(rng.integers(CLASSES)), rng.random(), (*low, *(low + sides))))
    return as_found(found), as_objects(objects)


def xywh(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()


def hotcoco_eval(found, objects):
    hotcoco = pytest.importorskip("hotcoco")
    truth = [{"id": k + 1, "image_id": int(i) + 1, "category_id": int(c) + 1, "bbox": box,
              "area": box[2] * box[3], "iscrowd": int(crowd)} for k, (i, c, box, crowd) in
             enumerate(zip(objects.image, objects.labels, xywh(objects.boxes), objects.difficult))]
    rows = [{"image_id": int(i) + 1, "category_id": int(c) + 1, "bbox": box, "score": float(s)}
            for i, c, box, s in zip(found.image, found.labels, xywh(found.boxes), found.scores)]
    data = hotcoco.COCO({"images": [{"id": k + 1, "width": 400, "height": 400}
                                    for k in range(IMAGES)], "annotations": truth,
                         "categories": [{"id": k + 1, "name": str(k)} for k in range(CLASSES)]})
    return hotcoco.COCOeval(data, data.load_res(rows), "bbox")


def tidecv_figures(found, objects):
    """Return (AP, {name: cost}, {name: number}) by the paper's authors, in 0..1."""
    tidecv = pytest.importorskip("tidecv")
    truth, claims = tidecv.Data("truth"), tidecv.Data("found")
    for image in range(IMAGES):
        truth.add_image(image, str(image))
    for image, label, box in zip(objects.image, objects.labels, xywh(objects.boxes)):
        truth.add_ground_truth(int(image), int(label), box)
    for image, label, score, box in zip(found.image, found.labels, found.scores,
                                        xywh(found.boxes)):
        claims.add_detection(int(image), int(label), float(score), box)
    tide = tidecv.TIDE()
    run = tide.evaluate(truth, claims, mode=tidecv.TIDE.BOX, name="run")
    costs = tide.get_main_errors()["run"]
    return (run.ap / 100, {name: cost / 100 for name, cost in costs.items()},
            {kind.short_name: number for kind, number in run.count_errors().items()})


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_those_of_tidecv(seed, monkeypatch):
    """Its levels of recall are k / 100, which rounds otherwise than COCO's linspace."""
    monkeypatch.setattr(errors_module, "RECALLS", np.arange(101) / 100)
    found, objects = random_set(seed)
    base, costs, counts = tidecv_figures(found, objects)
    ours = find_errors(found, objects)
    our_base, our_costs = cost_of_errors(ours, CLASSES)
    assert our_base == pytest.approx(base, abs=1e-12)
    for name, kind in NAMES.items():
        assert our_costs[kind] == pytest.approx(costs[name], abs=1e-12), name
        assert len(ours.chosen(kind)) == counts[name], name
    assert min(counts.values()) > 0, "the set should have errors of all kinds"


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_those_of_hotcoco(seed):
    found, objects = random_set(seed)
    evaluation = hotcoco_eval(found, objects)
    evaluation.evaluate()
    theirs = evaluation.tide_errors()
    ours = find_errors(found, objects)
    base, costs = cost_of_errors(ours, CLASSES)
    assert base == pytest.approx(theirs["ap_base"], abs=1e-12)
    assert base == pytest.approx(evaluate_coco(found, objects, CLASSES).figure("AP50"), abs=1e-12)
    for name, kind in NAMES.items():
        assert costs[kind] == pytest.approx(theirs["delta_ap"][name], abs=1e-12), name
        assert len(ours.chosen(kind)) == theirs["counts"][name], name


@pytest.mark.parametrize("crowds", [0, 0.3])
@pytest.mark.parametrize("confidence", [0, 0.4, 0.99])
def test_the_confusion_matrix_is_that_of_hotcoco(confidence, crowds):
    for seed in range(4):
        found, objects = random_set(seed, crowds)
        ours = confuse(found, objects, CLASSES, confidence)
        theirs = hotcoco_eval(found, objects).confusion_matrix(min_score=confidence)["matrix"]
        if crowds:  # hotcoco counts what is found on them as found on background
            assert (ours.matrix[CLASSES] <= theirs[CLASSES]).all()
            theirs[CLASSES] = ours.matrix[CLASSES]
        assert np.array_equal(ours.matrix, theirs)
        assert ours.lost.sum() == ours.matrix[:, CLASSES].sum()


A, B = (0, 0, 100, 100), (500, 500, 600, 600)
HALF = (0, 0, 100, 50)  # an IoU of exactly 0.5 with A


@pytest.mark.parametrize("box, label, kind", [
    ((0, 0, 100, 100), 1, ErrorKind.CLASSIFICATION), ((0, 0, 100, 40), 0, ErrorKind.LOCALISATION),
    ((0, 0, 100, 40), 1, ErrorKind.BOTH), ((0, 0, 100, 90), 0, ErrorKind.DUPLICATE),
    ((200, 0, 300, 100), 0, ErrorKind.BACKGROUND), ((0, 0, 100, 9), 0, ErrorKind.BACKGROUND),
    (HALF, 0, ErrorKind.DUPLICATE), (HALF, 1, ErrorKind.CLASSIFICATION),
    ((0, 0, 100, 10), 0, ErrorKind.LOCALISATION), ((0, 0, 100, 10), 1, ErrorKind.BOTH)])
def test_each_kind_by_hand(box, label, kind):
    """Beside a right detection of A, B is missed: half of the recall is reached at precision 1."""
    found = as_found([(0, label, 0.5, box), (0, 0, 0.9, A)])
    errors = find_errors(found, as_objects([(0, 0, False, A), (0, 0, False, B)]))
    assert KINDS[errors.kind[0]] is kind and errors.kind[1] == -1
    assert errors.missed.tolist() == [False, True]
    assert errors.target[0] == (-1 if kind is ErrorKind.BACKGROUND else 0)
    base, costs = cost_of_errors(errors, 2)
    assert base == pytest.approx(51 / 101)
    assert costs[ErrorKind.MISSED] == pytest.approx(50 / 101)
    assert sum(costs.values()) == costs[ErrorKind.MISSED]  # the false one is below the right one


def test_the_better_one_of_two_mendable_errors_counts():
    """Of A once found at IoU 0.4 and once as another class; mending the latter finds nothing."""
    found = as_found([(0, 0, 0.8, (0, 0, 100, 40)), (0, 1, 0.7, A)])
    errors = find_errors(found, as_objects([(0, 0, False, A), (0, 1, False, B)]))
    assert errors.fixable.tolist() == [True, False] and errors.missed.tolist() == [False, True]
    base, costs = cost_of_errors(errors, 2)
    assert base == 0 and costs[ErrorKind.LOCALISATION] == 0.5
    assert costs[ErrorKind.CLASSIFICATION] == 0


def test_detections_of_difficult_objects_are_no_errors():
    found = as_found([(0, 0, 0.9, A), (0, 0, 0.8, B)])
    errors = find_errors(found, as_objects([(0, 0, True, A), (0, 0, False, B)]))
    assert errors.kind.tolist() == [-1, -1] and not errors.missed.any()


@pytest.mark.parametrize("found, objects", [
    ([], []), ([], [(0, 0, False, A)]), ([(0, 0, 0.5, A)], []),
    ([(0, 2, 0.5, A)], [(1, 0, False, A)]), ([(0, 0, 0.5, A)], [(0, 0, True, A)])])
def test_empty_sets(found, objects):
    errors = find_errors(as_found(found), as_objects(objects))
    base, costs = cost_of_errors(errors, 3)
    assert np.isnan(base) == (not any(not row[2] for row in objects))
    assert len(cost_of_each(errors)) == len(found)
    if not found and objects:
        assert (base, costs[ErrorKind.MISSED], sum(costs.values())) == (0, 1, 1)
    matrix = confuse(as_found(found), as_objects(objects), 3, 0.1).matrix
    assert matrix.sum() == sum(not row[2] for row in objects) + (len(found) if not any(
        row[2] for row in objects) else 0)


def test_each_costs_what_the_curve_gains_without_it():
    """Against the mean precision at right detections, with the false one taken out."""
    def mean_precision(right):
        return sum(np.cumsum(right)[right] / (np.flatnonzero(right) + 1)) / 4

    right = np.array([True, False, True, False, False, True, False])
    objects = as_objects([(k, 0, False, A) for k in range(4)])
    found = as_found([(k, 0, 0.9 - k / 10, A if hit else B)
                      for k, hit in zip((0, 3, 1, 3, 3, 2, 3), right)])
    found = found._replace(scores=0.9 - np.arange(7) / 10)
    costs = cost_of_each(find_errors(found, objects))
    expected = [0 if hit else mean_precision(np.delete(right, k)) - mean_precision(right)
                for k, hit in enumerate(right)]
    np.testing.assert_allclose(costs, expected, atol=1e-12)
    assert costs[1] > costs[3] == costs[4] > costs[6] == 0
