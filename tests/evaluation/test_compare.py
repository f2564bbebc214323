"""Two measurements compared: against images copied one by one, and cases worked by hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_errors import CLASSES, IMAGES, A, B, as_detections, as_objects, random_set

from utils.cli import UserError
from utils.data.annotations import Record
from utils.detections import Detections
from utils.evaluation.assignment import assign_voc, flatten_records
from utils.evaluation.compare import compare, compare_folders, format_differences, resampled_ap
from utils.evaluation.detection_files import write_detections
from utils.evaluation.voc_ap import evaluate_voc

NAMES = ["cat", "dog", "ö & 车"]


def by_image(detections, objects, folder=Path()):
    """Return (detections, records) image by image, as evaluate_voc takes them."""
    found = [Detections(*(values[detections.image == k] for values in (
        detections.boxes, detections.scores, detections.labels))) for k in range(IMAGES)]
    return found, [Record(folder / f"{k}.jpg", *(values[objects.image == k] for values in (
        objects.boxes.astype(np.float32), objects.labels, objects.difficult)))
        for k in range(IMAGES)]


def test_weighted_images_are_copied_images():
    detections, objects = random_set(3, crowds=True)
    found, records = by_image(detections, objects)
    weights = np.random.default_rng(0).multinomial(IMAGES, [1 / IMAGES] * IMAGES, 6)
    assignment = assign_voc(detections, objects)
    ours = [resampled_ap(assignment, label, weights) for label in range(CLASSES)]
    for k, row in enumerate(weights):
        copied = evaluate_voc([found[i] for i in range(IMAGES) for _ in range(row[i])],
                              [records[i] for i in range(IMAGES) for _ in range(row[i])], CLASSES)
        np.testing.assert_allclose([ours[label][k] for label in range(CLASSES)],
                                   [result.ap_area for result in copied], atol=1e-12)


def test_a_class_that_is_better_beyond_chance():
    """Of 40 images class 0 is found in 10 and in 30; class 1 alike; class 2 is not there."""
    objects = as_objects([(k, label, False, (A, B)[label]) for k in range(40)
                          for label in range(2)])
    sets = [as_detections([(k, 0, 0.9, A) for k in range(number)]
                          + [(k, 1, 0.8, B) for k in range(20)]) for number in (10, 30)]
    differences = compare(*sets, objects, NAMES, 40)
    better, same, (_, first, second, *interval) = differences
    assert better[1:3] == (0.25, 0.75)
    # 20 of 40 images differ: a binomial share of 0.5 with a standard deviation of 0.079.
    assert better[3:] == pytest.approx((0.5 - 1.96 * 0.079, 0.5 + 1.96 * 0.079), abs=0.03)
    assert same[3:] == (0, 0)
    assert second - first == 0.25 and 0 < interval[0] < 0.25 < interval[1]
    lines = format_differences(differences).splitlines()
    assert lines[1].endswith("better") and lines[2].endswith("+0.0000 .. +0.0000")


@pytest.fixture
def folders(tmp_path):
    """Two folders as get_map.py leaves them, and the differences of their detections."""
    first, objects = random_set(0, crowds=True)
    second = first._replace(labels=np.where(first.image % 3, first.labels, 0))
    _, records = by_image(first, objects, tmp_path)
    for name, detections in (("a", first), ("b", second)):
        (tmp_path / name).mkdir()
        write_detections(tmp_path / name, detections, records, NAMES)
    return SimpleNamespace(
        a=str(tmp_path / "a"), b=str(tmp_path / "b"), truth=tmp_path / "b" / "ground_truth.json",
        differences=compare(first, second, flatten_records(records), NAMES, IMAGES))


def test_folders_give_what_their_detections_give(folders):
    title, table = compare_folders([folders.a, folders.b]).split("\n", 1)
    assert table == format_differences(folders.differences)


@pytest.mark.parametrize("old, new", [("3.jpg", "33.jpg"), ("dog", "cow"),
                                      ('"iscrowd": 1', '"iscrowd": 0')])
def test_folders_of_different_lists_cannot_be_compared(folders, old, new):
    text = folders.truth.read_text(encoding="utf-8")
    folders.truth.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match="different test lists"):
        compare_folders([folders.a, folders.b])
