"""The dataset report: tables against naive counts, and its sections."""

import re
from pathlib import Path

import numpy as np
import pytest
from naive import naive_iou
from PIL import Image

from nets.ssd import build_spec
from utils.data.annotations import Record
from utils.data.dataset_report import (SIZE_GROUPS, Choice, choice_section, count_table,
                                       coverage_table, examine, find_choices, find_faults,
                                       find_rare_classes, find_slips)
from utils.data.doctor import Doctor, inspect_image
from utils.data.prior_fit import boxes_at_input
from utils.data.sources import DECISIONS, Problem
from utils.multibox.boxes import to_xyxy
from utils.multibox.priors import make_priors
from utils.multibox.spec import SSDSpec
from utils.tiling import window_grid

SMALL = SSDSpec(input_shape=(128, 128), grids=(8, 4, 3, 2, 1, 1), steps=None,
                anchors_size=(20, 30, 44, 60, 76, 92, 108))
CLASSES = ("cat", "dog", "ö & 车")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return ({split: records}, facts) of random boxes on images of several sizes."""
    folder, rng, lists = tmp_path_factory.mktemp("images"), np.random.default_rng(0), {}
    for split, number in (("train", 8), ("val", 3), ("test", 0)):
        lists[split] = []
        for k in range(number):
            size, path = rng.integers(60, 200, 2), folder / f"{split}{k}.png"
            Image.new("RGB", size.tolist()).save(path)
            sides = rng.uniform(0.02, 0.9, (k % 4, 2))
            low = rng.uniform(0, 1, sides.shape) * (1 - sides)
            boxes = np.concatenate([low * size, (low + sides) * size], 1).astype(np.float32)
            labels = rng.integers(0, 2, k % 4)
            lists[split].append(Record(path, boxes, labels, labels > 0, None, tuple(size.tolist())))
    return lists, {path: inspect_image(path) for path in folder.iterdir()}


def test_counts_equal_naive_ones(data):
    lists, _ = data
    header, *rows = count_table(lists, CLASSES)
    assert header == ["class", "train images", "train objects", "val images", "val objects",
                      "test images", "test objects"]
    assert [row[0] for row in rows] == [*CLASSES, "all", "difficult", "without objects"]
    for column, split in enumerate(("train", "val", "test")):
        labels = [record.labels.tolist() for record in lists[split]]
        expected = [(sum(label in members for members in labels),
                     sum(members.count(label) for members in labels)) for label in range(3)]
        flags = [record.difficult.tolist() for record in lists[split]]
        expected += [(len(labels), sum(map(len, labels))),
                     ("-", sum(map(sum, flags))), (labels.count([]), "-")]
        assert [(row[1 + 2 * column], row[2 + 2 * column]) for row in rows] == [
            (str(images), str(objects)) for images, objects in expected]


def test_coverage_equals_a_naive_count(data):
    lists, _ = data
    records = [record for records in lists.values() for record in records]
    labels = np.concatenate([record.labels for record in records])
    boxes = boxes_at_input([(item.boxes_px, item.size) for item in records], SMALL)
    naive = [np.array(box) / (*record.size, *record.size)
             for record in records for box in record.boxes_px.tolist()]
    np.testing.assert_allclose(boxes, naive, atol=1e-6)
    priors, groups = to_xyxy(make_priors(SMALL)).tolist(), {}
    for box, label in zip(naive, labels.tolist()):
        is_covered = max(naive_iou(box, prior) for prior in priors) >= 0.5
        side = 128 * ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5
        size = next(name for name, low, high in SIZE_GROUPS if low <= side < high)
        for group in (CLASSES[label], size, "all"):
            groups.setdefault(group, []).append(is_covered)
    _, *rows = coverage_table(boxes, labels, CLASSES, SMALL)
    assert [row[0] for row in rows] == [*CLASSES, *(name for name, *_ in SIZE_GROUPS), "all"]
    for name, count, share in rows:
        hits = groups.get(name, [])
        assert count == str(len(hits))
        assert share == (f"{100 * sum(hits) / len(hits):.1f}%" if hits else "-")
    assert 0 < sum(groups["all"]) < len(groups["all"]), "the test data should be covered in part"


def test_choices_for_small_objects_in_large_images(monkeypatch):
    """Objects of 40 pixels in 4000x3000 are too small as a whole, and not in tiles."""
    monkeypatch.setattr("utils.data.dataset_report.fit_priors", lambda boxes, spec, *_, **__: spec)
    low = np.random.default_rng(0).uniform(0, 1, (300, 2)) * (3960, 2960)
    boxes, spec = np.concatenate([low, low + 40], 1), SSDSpec()
    specs = spec, spec, build_spec("vgg", 512)
    present, fitted, large, tiles = find_choices([(boxes, (4000, 3000))], specs, "none", 0)
    assert (present.covered, present.passes, fitted.passes) == (fitted.covered, 1, 1)
    assert large.passes == pytest.approx((512 / 300)**2)
    assert tiles.spec.tile in (300, 450) and tiles.covered > 0.95 > present.covered + 0.5
    assert tiles.passes == len(window_grid(4000, 3000, tiles.spec.tile)[0])
    tiled = boxes_at_input([(boxes, (4000, 3000))], tiles.spec)
    np.testing.assert_allclose(tiled[:, 2:] - tiled[:, :2], 40 / tiles.spec.tile, rtol=1e-3)
    assert f"tile = {tiles.spec.tile}" == choice_section([present, tiles], "none")[1].code
    # The priors of a detector to begin from stay.
    alone = find_choices([(boxes, (4000, 3000))], (spec, None, None), "none", 0)
    assert [choice.name for choice in alone] == ["as set", f"tiles of {alone[1].spec.tile}"]
    assert "anchors_size" not in choice_section(alone, "none")[1].code
    # No tile where images are no larger.
    assert len(find_choices([(boxes % 260, (300, 300))], specs, "paper", 0)) == 3


@pytest.mark.parametrize("shares, advised", [
    ((0.61, 0.77, 0.92, 0.94), "large"), ((0.61, 0.77, 0.85, 0.94), "tiles"),
    ((0.61, 0.92, 0.94, 0.94), "fitted"), ((0.90, 0.915, 0.919, 0.919), None),
    ((0.92, 0.93, 0.94, 0.99), "tiles"), ((0.97, 0.995, 0.99, 0.99), "fitted")])
def test_the_cheapest_of_the_good_choices_is_advised(shares, advised):
    names = ("as set", "fitted", "large", "tiles")
    choices = [Choice(name, SMALL, share, passes)
               for name, share, passes in zip(names, shares, (1, 1, 2.9, 12))]
    card, section = choice_section(choices, "light")
    assert card.answer == (advised or "leave them")
    assert (f"Take {advised}, in train.py" if advised else "Leave the settings") in section.text


@pytest.mark.parametrize("faults, unknown, words", [
    ([], {}, []),
    (["unknown class"] * 3, {"Dgo": 2, "xylo": 1}, [
        "3 of 18 objects are lost: fix the class list", "'Dgo', 2 objects left out",
        "'xylo', 1 objects left out$"]),
    (["image missing", "image truncated", "no area"], {}, [
        "images left out: 2, see", "objects left out: 1, see"]),
    (["look-alikes in two splits"] * 4, {}, ["images in two splits: 4"])])
def test_the_verdict_names_what_needs_a_hand(data, faults, unknown, words):
    doctor = Doctor(CLASSES, {}, SMALL)
    doctor.problems += [Problem(kind, "a.xml", "why") for kind in faults]
    doctor.unknown.update(unknown)
    lines = find_faults(data[0], doctor)
    assert len(lines) == len(words) and all(map(re.search, words, lines))


def test_classes_with_few_objects_or_none_are_named(tmp_path):
    def record(*labels, difficult=False):
        labels = np.array(labels, int)
        return Record(tmp_path, np.zeros((len(labels), 4)), labels, np.full(len(labels), difficult))

    lists = {"train": [record(0, 0, 1)], "val": [record(*[0] * 20, 1)],
             "test": [record(0), record(1, difficult=True)], "empty": []}
    lacking, few = find_rare_classes(lists, CLASSES)
    assert len(lacking) == 2 and "no object in test that" in lacking[0] and ": dog;" in lacking[0]
    assert "no object in train, val, test" in lacking[1] and f": {CLASSES[2]};" in lacking[1]
    assert ": dog 1;" in few[0] and "--val_share 0.2" in few[0]


@pytest.mark.parametrize("names, counts, slips", [
    (("seven", "sevn"), (50, 5), 1), (("seven", "sevn"), (50, 6), 0), (("cat", "car"), (50, 5), 0)])
def test_a_rare_class_that_may_be_a_slip(names, counts, slips):
    labels = np.repeat((0, 1), counts)
    record = Record(Path("a.jpg"), np.zeros((len(labels), 4)), labels, labels > 2)
    lines = find_slips([record], names)
    assert len(lines) == slips and all("'sevn' (5 objects)" in line for line in lines)


def test_the_report_has_all_sections(data):
    lists, facts = data
    doctor = Doctor(CLASSES, facts, SMALL)
    doctor.problems += [Problem(kind, "a.xml", "why") for kind in DECISIONS] * 15
    more = {"augmentation": "light", "about": ["data: here"], "seed": 0}
    cards, sections = examine(lists, doctor, [SMALL] * 3, **more)
    assert [section.heading for section in sections] == [
        "images left out: 45, see Problems", "Problems", "Images and objects", "Settings", "Priors",
        "Samples"]
    _, number, rarest, problem, settings = cards
    assert number.answer == "11" and "8 in train, 3 in val, 0 in test" in number.sentence
    assert rarest.answer == CLASSES[2] and rarest.sentence.startswith("0 of ")
    assert problem.answer == f"15 x {next(iter(DECISIONS))}"
    assert f"Take {settings.answer}, in train.py" in sections[3].text
    assert len(sections[5].images) == sum(len(record.labels) > 0 for split in lists.values()
                                          for record in split)
    headings = [part.heading for part in sections[1].details if len(part.rows) == 16]
    assert sorted(headings) == sorted(f"15 x {kind} ({decision})"
                                      for kind, decision in DECISIONS.items())
    folded = [part.folded for part in sections[1].details]
    assert folded == sorted(folded), "what needs a hand comes first"
    cards, sections = examine({"train": []}, Doctor(CLASSES, {}, SMALL), [SMALL] * 3, **more)
    assert len(sections) == len(cards) == 4  # no priors
