"""Two measurements compared: against images copied one by one, and cases worked by hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_errors import CLASSES, IMAGES, A, B, as_found, as_objects, random_set

from utils.cli import UserError
from utils.data.annotations import Record
from utils.evaluation.assignment import assign_voc, flatten_records
from utils.evaluation.compare import (compare, compare_folders, count_errors, format_comparison,
                                      resampled_ap)
from utils.evaluation.detection_files import detection_writers, image_sizes
from utils.evaluation.voc_ap import evaluate_voc

NAMES = ["cat", "dog", "ö & 车"]


def by_image(found, objects):
    """Return (detections, records) image by image, as evaluate_voc takes them."""
    return ([SimpleNamespace(**{name: getattr(found, name)[found.image == k]
                                for name in ("boxes", "scores", "labels")}) for k in range(IMAGES)],
            [SimpleNamespace(boxes_px=objects.boxes[objects.image == k],
                             labels=objects.labels[objects.image == k],
                             difficult=objects.difficult[objects.image == k])
             for k in range(IMAGES)])


def test_weighted_images_are_copied_images():
    found, objects = random_set(3, 0.2)
    detections, records = by_image(found, objects)
    weights = np.random.default_rng(0).multinomial(IMAGES, [1 / IMAGES] * IMAGES, 6)
    assignment = assign_voc(found, objects)
    ours = [resampled_ap(assignment, label, weights) for label in range(CLASSES)]
    for k, row in enumerate(weights):
        theirs = evaluate_voc([detections[i] for i in range(IMAGES) for _ in range(row[i])],
                              [records[i] for i in range(IMAGES) for _ in range(row[i])], CLASSES)
        np.testing.assert_allclose([ours[label][k] for label in range(CLASSES)],
                                   [result.ap_area for result in theirs], atol=1e-12)


def test_errors_by_image_equal_a_count_image_by_image():
    found, objects = random_set(1, 0.2)
    errors = count_errors(assign_voc(found, objects), 0.4, IMAGES)
    for k, (mine, record) in enumerate(zip(*by_image(found, objects))):
        kept = mine.scores > 0.4
        mine = SimpleNamespace(**{name: field[kept] for name, field in vars(mine).items()})
        results = evaluate_voc([mine], [record], CLASSES)
        total = 0
        for result in results:
            right = round(result.recall[-1] * result.num_objects) if len(result.recall) else 0
            total += result.num_objects - right + len(result.scores) - right
        assert errors[k] == total


def test_equal_sets_differ_in_nothing():
    found, objects = random_set(0)
    result = compare(found, found, objects, NAMES, IMAGES)
    assert {(it.first - it.second, it.low, it.high) for it in result.differences} == {(0, 0, 0)}
    assert np.array_equal(*result.errors)
    text = format_comparison(result, [f"{k}.jpg" for k in range(IMAGES)])
    assert "images that got better: 0" in text and "images that got worse: 0" in text
    assert text.count("+0.0000 .. +0.0000") == CLASSES + 1


def test_a_class_that_is_better_beyond_chance():
    """Of 40 images class 0 is found in 10 and in 30; class 1 alike; class 2 is not there."""
    objects = as_objects([(k, label, False, (A, B)[label]) for k in range(40)
                          for label in range(2)])
    sets = [as_found([(k, 0, 0.9, A) for k in range(number)]
                     + [(k, 1, 0.8, B) for k in range(20)]) for number in (10, 30)]
    result = compare(*sets, objects, NAMES, 40)
    better, same, absent, mean = result.differences
    assert (better.first, better.second) == (0.25, 0.75)
    # 20 of 40 images differ: a binomial share of 0.5 with a standard deviation of 0.079.
    assert better.low == pytest.approx(0.5 - 1.96 * 0.079, abs=0.03)
    assert better.high == pytest.approx(0.5 + 1.96 * 0.079, abs=0.03)
    assert (same.low, same.high) == (0, 0) and np.isnan([absent.first, absent.low]).all()
    assert mean.second - mean.first == 0.25 and 0 < mean.low < 0.25 < mean.high
    assert (result.errors[0] - result.errors[1]).tolist() == [0] * 10 + [1] * 20 + [0] * 10
    lines = format_comparison(result, [f"{k}.jpg" for k in range(40)]).splitlines()
    assert lines[1].endswith("better") and lines[2].endswith("+0.0000 .. +0.0000")
    assert lines[3].startswith(NAMES[2]) and lines[3].endswith("no objects")
    assert "images that got better: 20" in lines and "  10.jpg: 1 -> 0 errors" in lines
    again = compare(*sets, objects, NAMES, 40)
    assert all(a[1:3] == b[1:3] and a[3:] == b[3:] for a, b in zip(
        result.differences[:2], again.differences[:2]))
    back = compare(*sets[::-1], objects, NAMES, 40).differences[0]
    assert (back.low, back.high) == pytest.approx((-better.high, -better.low))


def test_nothing_found_and_nothing_there():
    none, objects = as_found([]), as_objects([])
    result = compare(none, none, objects, NAMES, 3)
    assert all(np.isnan(it.first) for it in result.differences)
    assert "no objects" in format_comparison(result, ["a", "b", "c"])
    lost = compare(as_found([(0, 0, 0.9, A)]), none, as_objects([(0, 0, False, A)]), NAMES, 1)
    assert (lost.differences[0].low, lost.differences[0].high) == (-1, -1)


def write_folder(path, found, records):
    """Write what get_map.py leaves of a measurement."""
    (path / "comp4").mkdir(parents=True)
    for name, write in detection_writers(found, records, NAMES, image_sizes(records)).items():
        write(path / name)
    return str(path)


@pytest.fixture
def folders(tmp_path):
    """Two folders of results on the same images."""
    found, objects = random_set(0, 0.2)
    _, tables = by_image(found, objects)
    records = [Record(tmp_path / f"{k}.jpg", table.boxes_px.astype(np.float32), table.labels,
                      table.difficult) for k, table in enumerate(tables)]
    kept = found._replace(labels=np.where(found.image % 3, found.labels, 0))
    return (write_folder(tmp_path / "a", found, records),
            write_folder(tmp_path / "b", kept, records),
            compare(found, kept, flatten_records(records), NAMES, IMAGES))


def test_folders_give_what_their_detections_give(folders):
    first, second, expected = folders
    assert compare_folders([first, second]).splitlines()[1:] == format_comparison(
        expected, [str(k) for k in range(IMAGES)]).splitlines()
    assert compare_folders([first, first]).count("+0.0000 .. +0.0000") == CLASSES + 1


@pytest.mark.parametrize("spoil, message", [
    (lambda text: text[:200], "not what get_map.py writes"),
    (lambda text: "[]", "not what get_map.py writes"),
    (lambda text: text.replace('"categories"', '"classes"'), "not what get_map.py writes"),
    (lambda text: text.replace("3.jpg", "33.jpg"), "different test lists"),
    (lambda text: text.replace('"iscrowd": 1', '"iscrowd": 0', 1), "different test lists"),
    (lambda text: text.replace("dog", "cow"), "different test lists")])
def test_folders_that_cannot_be_compared(folders, spoil, message):
    first, second, _ = folders
    truth = Path(second, "ground_truth.json")
    truth.write_text(spoil(truth.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        compare_folders([first, second])
    assert len(str(error.value).splitlines()) == 1


def test_one_folder_three_folders_and_none(folders, tmp_path):
    for wrong in ([folders[0]], [folders[0]] * 3):
        with pytest.raises(UserError, match="needs two folders"):
            compare_folders(wrong)
    with pytest.raises(UserError, match="no such file or folder"):
        compare_folders([folders[0], str(tmp_path / "gone")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"ground_truth\.json: No such file.* Run get_map\.py"):
        compare_folders([folders[0], str(tmp_path / "empty")])
