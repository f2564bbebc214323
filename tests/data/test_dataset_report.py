"""The dataset report: tables against naive counts, and an HTML file that needs no other."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from utils.data.annotations import Record
from utils.data.dataset_report import (boxes_at_input, count_table, coverage_table, examine,
                                       format_section, problem_section, suggest_tile)
from utils.data.doctor import Doctor, inspect_image
from utils.data.sources import DECISIONS, Problem
from utils.multibox.boxes import to_xyxy
from utils.multibox.priors import make_priors
from utils.multibox.spec import SSDSpec
from utils.page import Section, write_page

SMALL = SSDSpec(input_shape=(128, 128), grids=(8, 4, 3, 2, 1, 1), steps=None,
                anchors_size=(20, 30, 44, 60, 76, 92, 108))
CLASSES = ("cat", "<b>dog</b>", "ö & 车")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return ({split: records}, facts) of random boxes on images of several sizes."""
    folder, rng, lists = tmp_path_factory.mktemp("images"), np.random.default_rng(0), {}
    for split, number in (("train", 8), ("val", 3), ("test", 0)):
        lists[split] = []
        for k in range(number):
            size = rng.integers(60, 200, 2)
            path = folder / f"{split}{k} <i>.png"
            Image.new("RGB", size.tolist()).save(path)
            sides = rng.uniform(0.02, 0.9, (k % 4, 2))
            low = rng.uniform(0, 1, sides.shape) * (1 - sides)
            boxes = np.concatenate([low * size, (low + sides) * size], 1)
            lists[split].append(Record(path, boxes.astype(np.float32),
                                       rng.integers(0, 2, k % 4), rng.random(k % 4) < 0.3))
    paths = [record.path for records in lists.values() for record in records]
    return lists, {path: inspect_image(path) for path in paths}


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


def naive_objects(lists, size):
    """Return (xyxy in pixels of a squashed square input, label) of every object."""
    for record in [record for records in lists.values() for record in records]:
        with Image.open(record.path) as image:
            width, height = image.size
        for (x1, y1, x2, y2), label in zip(record.boxes_px.tolist(), record.labels.tolist()):
            yield [x1 * size / width, y1 * size / height, x2 * size / width,
                   y2 * size / height], label


def overlap(a, b):
    common = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return common / (sum(areas) - common)


def test_coverage_equals_a_naive_count(data):
    lists, facts = data
    records = [record for records in lists.values() for record in records]
    labels = np.concatenate([record.labels for record in records])
    boxes = boxes_at_input([(record.boxes_px, facts[record.path].size) for record in records], SMALL)
    np.testing.assert_allclose(boxes, [box for box, _ in naive_objects(data[0], 1)], atol=1e-6)
    _, *rows = coverage_table(boxes, labels, CLASSES, SMALL)
    priors = (to_xyxy(make_priors(SMALL)) * 128).tolist()
    objects = []
    for box, label in naive_objects(data[0], 128):
        best = max(overlap(box, prior) for prior in priors)
        side = ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5
        objects.append((label, side, best >= 0.5))
    groups = [[hit for label, _, hit in objects if label == k] for k in range(3)]
    for low, high in ((0, 8), (8, 32), (32, 96), (96, 1e9)):
        groups.append([hit for _, side, hit in objects if low <= side < high])
    groups.append([hit for *_, hit in objects])
    assert [tuple(row[1:]) for row in rows] == [
        (str(len(hits)), f"{100 * sum(hits) / len(hits):.1f}%" if hits else "-") for hits in groups]
    assert [row[0] for row in rows[:3]] == list(CLASSES) and rows[-1][0] == "all"
    assert 0 < sum(groups[-1]) < len(groups[-1]), "the test data should be covered in part"


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


class Reader(HTMLParser):
    """Collects tags, texts and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.links = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_data(self, data):
        self.text += data


def test_the_page_has_everything_and_needs_no_other_file(data, tmp_path):
    lists, facts = data
    doctor = Doctor(CLASSES, facts)
    doctor.problems += [Problem(kind, f"<script>{kind}</script> & '", "<img src=http://x>")
                        for kind in DECISIONS] * 15
    sections = examine(lists, doctor, SMALL, SMALL, seed=0)
    assert [section.heading for section in sections] == [
        "Images and objects", "Priors", "Samples", "Problems"]
    assert "these priors cover" in sections[1].text or "anchors_size = (" in sections[1].text
    assert len(sections[2].images) == sum(len(record.labels) > 0 for split in lists.values()
                                          for record in split)
    write_page(tmp_path / "report.html", "Dataset report", sections)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    reader = Reader(text)
    assert not {"script", "link", "iframe", "object", "b", "i"} & set(reader.tags)
    assert all(link.startswith("data:image/") for link in reader.links)
    assert not re.search(r"@import|url\(", text)
    for kind, decision in DECISIONS.items():
        assert f"15 x {kind} ({decision})" in text
        assert reader.text.count(f"<script>{kind}</script> & ") == 15
    for cell in [cell for section in sections for row in section.rows for cell in row]:
        assert cell in reader.text


def test_data_without_objects_has_a_report():
    sections = examine({"train": []}, Doctor(CLASSES, {}), SMALL, SMALL, seed=0)
    assert [section.heading for section in sections] == [
        "Images and objects", "Samples", "Problems"]
