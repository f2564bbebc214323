"""The dataset report: tables against naive counts, and its sections."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from utils.data.annotations import Record
from utils.data.dataset_report import (SIZE_GROUPS, boxes_at_input, count_table,
                                       coverage_table, examine, format_section,
                                       problem_section, suggest_tile)
from utils.data.doctor import Doctor, inspect_image
from utils.data.sources import DECISIONS, Problem
from utils.multibox.boxes import to_xyxy
from utils.multibox.priors import make_priors
from utils.multibox.spec import SSDSpec
from utils.page import Section

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
            lists[split].append(Record(path, boxes, labels, labels < 0))
    return lists, {path: inspect_image(path) for path in folder.iterdir()}


def test_counts_equal_naive_ones(data):
    lists, _ = data
    header, *rows = count_table(lists, CLASSES)
    assert header == ["class", "train images", "train objects", "val images", "val objects",
                      "test images", "test objects"]
    assert [row[0] for row in rows] == [*CLASSES, "all", "without objects"]
    for column, split in enumerate(("train", "val", "test")):
        labels = [record.labels.tolist() for record in lists[split]]
        expected = [(sum(label in members for members in labels),
                     sum(members.count(label) for members in labels)) for label in range(3)]
        expected += [(len(labels), sum(map(len, labels))), (labels.count([]), "-")]
        assert [(row[1 + 2 * column], row[2 + 2 * column]) for row in rows] == [
            (str(images), str(objects)) for images, objects in expected]


def overlap(a, b):
    common = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return common / (sum(areas) - common)


def test_coverage_equals_a_naive_count(data):
    lists, facts = data
    records = [record for records in lists.values() for record in records]
    labels = np.concatenate([record.labels for record in records])
    boxes = boxes_at_input([(item.boxes_px, facts[item.path].size) for item in records], SMALL)
    naive = [np.array(box) / (*facts[record.path].size, *facts[record.path].size)
             for record in records for box in record.boxes_px.tolist()]
    np.testing.assert_allclose(boxes, naive, atol=1e-6)
    priors, groups = to_xyxy(make_priors(SMALL)).tolist(), {}
    for box, label in zip(naive, labels.tolist()):
        is_covered = max(overlap(box, prior) for prior in priors) >= 0.5
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


def test_the_tile_for_small_objects_in_large_images():
    """Objects of 40 pixels in 4000x3000 are too small as a whole, and not in tiles."""
    low = np.random.default_rng(0).uniform(0, 1, (300, 2)) * (3960, 2960)
    boxes, spec = np.concatenate([low, low + 40], 1), SSDSpec()
    tile, share = suggest_tile([(boxes, (4000, 3000))], spec)
    assert tile in (300, 450) and share > 0.95
    tiled = boxes_at_input([(boxes, (4000, 3000))], replace(spec, tile=tile))
    np.testing.assert_allclose(tiled[:, 2:] - tiled[:, :2], 40 / tile, rtol=1e-3)
    assert suggest_tile([(boxes, (300, 300))], spec)[0] == 0  # no larger than a tile


def test_sections_as_text():
    table = Section("Objects", [["class", "n"], ["a", "10"], ["long name", "7"]], "all")
    assert format_section(table) == (
        "\nObjects\nclass       n\na          10\nlong name   7\nall")
    problems = [Problem("no area", f"{k}.xml", "(1, 1, 1, 1)") for k in range(12)]
    problems.insert(3, Problem("bad object", "x.xml", "no name"))
    lines = format_section(problem_section(problems)).splitlines()
    assert lines[2:5] == ["1 x bad object (left out)", "    x.xml: no name",
                          "12 x no area (object left out)"]
    assert len(lines) == 15 and "no problems found" in format_section(problem_section([]))


def test_the_report_has_all_sections(data):
    lists, facts = data
    doctor = Doctor(CLASSES, facts)
    doctor.problems += [Problem(kind, "a.xml", "why") for kind in DECISIONS] * 15
    sections = examine(lists, doctor, SMALL, SMALL, seed=0)
    assert [section.heading for section in sections] == [
        "Images and objects", "Priors", "Samples", "Problems"]
    assert "these priors cover" in sections[1].text or "anchors_size = (" in sections[1].text
    assert len(sections[2].images) == sum(len(record.labels) > 0 for split in lists.values()
                                          for record in split)
    for (kind, decision), details in zip(DECISIONS.items(), sections[3].details):
        assert details.heading == f"15 x {kind} ({decision})" and len(details.rows) == 16
    assert len(examine({"train": []}, Doctor(CLASSES, {}), SMALL, SMALL, seed=0)) == 3  # no priors
