"""The dataset report: tables against naive counts, and a HTML file that needs no other."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from utils.multibox.boxes import to_xyxy
from utils.data.annotations import Record
from utils.data.dataset_report import (contact_sheet, count_table, coverage_table, format_problems,
                                       format_table, objects_at_input, plot_boxes, suggest_tile, write_html)
from utils.data.image_check import inspect_images
from utils.data.sources import Problem, ProblemKind
from utils.multibox.priors import make_priors
from utils.multibox.spec import SSDSpec
from utils.tiling import window_grid

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
            width, height = (int(side) for side in rng.integers(60, 200, 2))
            path = folder / f"{split}{k} <i>.png"
            Image.new("RGB", (width, height)).save(path)
            sides = rng.uniform(0.02, 0.9, (k % 4, 2))
            low = rng.uniform(0, 1, sides.shape) * (1 - sides)
            boxes = np.concatenate([low, low + sides], 1) * (width, height, width, height)
            lists[split].append(Record(path, boxes.astype(np.float32),
                                       rng.integers(0, 2, k % 4), rng.random(k % 4) < 0.3))
    paths = [record.path for records in lists.values() for record in records]
    return lists, inspect_images(paths, num_threads=1)


def test_counts_equal_naive_ones(data):
    lists, _ = data
    header, *rows = count_table(lists, CLASSES)
    assert header == ["class", "train images", "train objects", "val images", "val objects",
                      "test images", "test objects"]
    assert [row[0] for row in rows] == [*CLASSES, "all", "without objects"]
    for column, split in enumerate(("train", "val", "test")):
        images, objects = [0] * 3, [0] * 3
        empty = total = 0
        for record in lists[split]:
            seen = record.labels.tolist()
            empty += not seen
            total += len(seen)
            for label in seen:
                objects[label] += 1
            for label in set(seen):
                images[label] += 1
        found = [(row[1 + 2 * column], row[2 + 2 * column]) for row in rows]
        expected = [(str(a), str(b)) for a, b in zip(images, objects)]
        assert found == [*expected, (str(len(lists[split])), str(total)), (str(empty), "-")]


def naive_objects(lists, size):
    """Return (xyxy in pixels of a squashed square input, label) of every object."""
    for records in lists.values():
        for record in records:
            with Image.open(record.path) as image:
                width, height = image.size
            for box, label in zip(record.boxes_px.tolist(), record.labels.tolist()):
                yield [box[0] * size / width, box[1] * size / height,
                       box[2] * size / width, box[3] * size / height], label


def overlap(a, b):
    common = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return common / (sum(areas) - common)


def test_objects_at_input_are_squashed(data):
    boxes, labels = objects_at_input(*data, SMALL)
    expected = list(naive_objects(data[0], 1))
    np.testing.assert_allclose(boxes, [box for box, _ in expected], atol=1e-6)
    assert labels.tolist() == [label for _, label in expected]


def test_coverage_equals_a_naive_count(data):
    header, *rows = coverage_table(*objects_at_input(*data, SMALL), CLASSES, SMALL, 0.5)
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
    expected = [(str(len(hits)), f"{100 * sum(hits) / len(hits):.1f}%" if hits else "-")
                for hits in groups]
    assert [tuple(row[1:]) for row in rows] == expected
    assert [row[0] for row in rows[:3]] == list(CLASSES) and rows[-1][0] == "all"
    assert 0 < sum(groups[-1]) < len(groups[-1]), "the test data should be covered in part"


def test_objects_at_windows_and_the_tile_to_take():
    """Objects of 40 pixels in 4000x3000: hopeless as a whole, and windows bring them to 20 to 40."""
    rng, path = np.random.default_rng(0), Path("drone.jpg")
    low = rng.uniform(0, 1, (300, 2)) * (3960, 2960)
    record = Record(path, np.concatenate([low, low + 40], 1), np.zeros(300, int), np.zeros(300, bool))
    spec, facts = SSDSpec(), {path: SimpleNamespace(size=(4000, 3000))}
    whole, _ = objects_at_input({"train": [record]}, facts, spec)
    np.testing.assert_allclose(whole, record.boxes_px / (4000, 3000, 4000, 3000))
    tile, share, windows = suggest_tile({"train": [record], "val": []}, facts, spec, 0.5)
    assert tile in (300, 450) and share > 0.95 and windows == len(window_grid(4000, 3000, tile)[0])
    boxes, labels = objects_at_input({"train": [record]}, facts, replace(spec, tile=tile))
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], 40 / tile)
    assert boxes.min() >= 0 and boxes.max() <= 1, "each is whole in its own window"
    rows = coverage_table(boxes, labels, CLASSES, replace(spec, tile=tile), 0.5)
    assert rows[-1][2] == f"{share:.1%}"


def test_no_tile_for_large_objects_and_small_images():
    path = Path("a.jpg")
    for size, side in (((4000, 3000), 1500), ((320, 240), 10)):
        record = Record(path, np.array([[0, 0, side, side]]), np.zeros(1, int), np.zeros(1, bool))
        tile, _, windows = suggest_tile({"train": [record]}, {path: SimpleNamespace(size=size)},
                                        SSDSpec(), 0.5)
        assert (tile, windows) == (0, 1)


def test_no_objects_give_an_empty_table():
    boxes, labels = objects_at_input({"train": []}, {}, SMALL)
    assert boxes.shape == (0, 4) and labels.shape == (0,)
    assert {tuple(row[1:]) for row in coverage_table(boxes, labels, CLASSES, SMALL, 0.5)[1:]} == {
        ("0", "-")}


def test_tables_are_aligned():
    assert format_table([["a", "number"], ["long name", "7"]]) == (
        "a          number\nlong name       7")


def test_problems_are_cut_short_on_the_screen_only():
    problems = [Problem(ProblemKind.TINY, f"a{k}.xml", "small") for k in range(25)]
    problems.append(Problem(ProblemKind.BAD_OBJECT, "b.xml, object 3", "why"))
    lines = format_problems(problems).splitlines()
    assert lines[0].startswith("1 x bad object") and lines[1] == "    b.xml, object 3: why"
    assert lines[2].startswith("25 x tiny") and lines[3] == "    a0.xml: small"
    shown = len([line for line in lines if ": small" in line])
    assert lines[-1].split()[:3] == ["and", str(25 - shown), "more,"]
    assert format_problems([]) == "no problems found"


class Reader(HTMLParser):
    """Collects what a browser would show and fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.cells, self.texts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "action")]
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        self.texts.append(data)
        if self.cells:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def page(data, tmp_path_factory):
    """Write a report of everything; return (text, Reader, tables)."""
    lists, facts = data
    boxes, labels = objects_at_input(lists, facts, SMALL)
    tables = {"Images": count_table(lists, CLASSES),
              "Priors <of> all": coverage_table(boxes, labels, CLASSES, SMALL, 0.5)}
    problems = [Problem(kind, f"<script>{kind}</script> & \"{k}\"", "<img src=http://x>")
                for k, kind in enumerate(ProblemKind)] * 15
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_html(path, tables=tables, problems=problems,
               suggestion="a < b\n  c", figures=plot_boxes(boxes, SMALL),
               images=contact_sheet(lists, CLASSES, 0))
    text = path.read_text(encoding="utf-8")
    return text, Reader(text), tables


def test_the_page_needs_no_other_file(page):
    text, reader, _ = page
    assert reader.links and all(link.startswith("data:image/") for link in reader.links)
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert not re.search(r"@import|url\(", text)
    assert "charset=utf-8" in text.lower()[:100]


def test_names_are_escaped(page):
    _, reader, _ = page
    assert not {"b", "i"} & set(reader.tags)
    shown = "".join(reader.texts)
    for text in ("<b>dog</b>", "ö & 车", "a < b\n  c", "Priors <of> all",
                 "<img src=http://x>"):
        assert text in shown
    assert all(f'<script>{kind}</script> & "{k}"' in shown for k, kind in enumerate(ProblemKind))


def test_the_page_has_all_numbers_and_problems(page):
    text, reader, tables = page
    cells = [cell.split("\n")[0] for cell in reader.cells]
    for rows in tables.values():
        flat = [cell for row in rows for cell in row]
        assert any(cells[k:k + len(flat) - 1] == flat[:-1] for k in range(len(cells)))
    assert sum(cell == "<img src=http://x>" for cell in cells) >= 14 * len(ProblemKind)
    assert all(f"15 x {kind} ({kind.decision})" in text for kind in ProblemKind)


def test_an_empty_report_is_written(tmp_path):
    write_html(tmp_path / "r.html", tables={}, problems=[], suggestion="", figures=[],
               images=[])
    assert "none" in "".join(Reader((tmp_path / "r.html").read_text()).texts)


def test_the_sheet_shows_every_class_and_fits(data):
    lists, _ = data
    sheet = contact_sheet(lists, CLASSES, 0)
    with_objects = sum(len(record.labels) > 0 for records in lists.values() for record in records)
    assert len(sheet) == min(12, with_objects)
    assert all(max(image.size) <= 480 for _, image in sheet)
    again = contact_sheet(lists, CLASSES, 0)
    assert all(a.tobytes() == b.tobytes() for (_, a), (_, b) in zip(sheet, again))
    assert contact_sheet({"train": []}, CLASSES, 0) == []


def test_a_rare_class_is_on_the_sheet(tmp_path):
    box = np.array([[10, 10, 50, 50]], dtype=np.float32)
    records = []
    for k in range(40):
        path = Path(tmp_path, f"{k}.png")
        Image.new("RGB", (60, 60)).save(path)
        records.append(Record(path, box, np.array([int(k == 33)]), np.array([False])))
    sheet = contact_sheet({"train": records}, CLASSES, 0)
    assert "train: 33.png" in [caption for caption, _ in sheet]


@pytest.mark.parametrize("jitter", [0, 1e-7])
def test_objects_of_one_size_are_plotted(jitter):
    """Points that a tool turned into boxes: all sides equal, or but for rounding."""
    low = np.random.default_rng(0).uniform(0, 0.8, (7, 2))
    sides = np.full((7, 2), 0.1) + np.linspace(0, jitter, 7)[:, None]
    boxes = np.concatenate([low, low + sides], 1).astype(np.float32)
    for (_, figure) in plot_boxes(boxes, SMALL):
        assert sum(bar.get_height() for bar in figure.axes[0].patches) == 7
