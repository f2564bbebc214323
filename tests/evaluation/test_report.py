"""The page and the texts of a measurement: equal figures, and images behind the errors."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from test_errors import IMAGES, as_detections, as_objects, random_set

from utils.data.annotations import Record
from utils.evaluation.assignment import assign_voc
from utils.evaluation.errors import KINDS
from utils.evaluation.measurement import as_values, format_measurement, measure
from utils.evaluation.report import write_report

NAMES = ["<b>&amp;</b>", "ö & 车", "a \"quoted\" 'name'"]


class Reader(HTMLParser):
    """Collects what a browser would show and fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_data(self, data):
        self.texts.append(data)


def measure_images(folder, detections, objects, names, images=IMAGES, confidence=None):
    """Write an image for each number; return the Measurement of detections on them."""
    records = []
    for k in range(images):
        path = folder / f"{k} <i>&.jpg"
        Image.new("RGB", (420, 400), (40, 90, 10 * k)).save(path)
        rows = objects.image == k
        records.append(Record(path, objects.boxes[rows].astype(np.float32), objects.labels[rows],
                              objects.difficult[rows]))
    return measure(detections, records, names, confidence=confidence)


def page_of(folder, measurement):
    write_report(folder / "report.html", "mAP on <list>", measurement, as_values(measurement),
                 "Above 0.01.")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A Measurement and the text of its page."""
    folder = tmp_path_factory.mktemp("page")
    measurement = measure_images(folder, *random_set(0), NAMES, confidence=0.37)
    return measurement, page_of(folder, measurement)


def test_the_page_needs_no_other_file_and_runs_no_other_script(report):
    _, text = report
    reader = Reader(text)
    assert reader.links and all(link.startswith("data:image/jpeg;base64,")
                                for link in reader.links)
    assert not {"link", "iframe", "object", "b", "i"} & set(reader.tags)
    script, = re.findall("<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.search("default-src 'none'; img-src data:;\\s+style-src 'unsafe-inline'; "
                     f"script-src 'sha256-{re.escape(digest)}'\"", text)
    assert not re.search(r"@import|url\(|https?:| on\w+=", text)
    shown = "".join(reader.texts)
    assert all(name in shown for name in NAMES) and "0 <i>&.jpg" in shown


def test_the_page_and_the_json_have_the_same_figures(report):
    measurement, text = report
    values = as_values(measurement)
    shown = " ".join("".join(Reader(text).texts).split())
    for value in (values["map_area"], values["map_11_point"], *values["coco"].values()):
        assert ("-" if value is None else f"{value:.4f}") in shown
    for value in (*(values["classes"][name]["ap_area"] for name in NAMES),
                  *(values["classes"][name]["at_confidence"]["f1"] for name in NAMES)):
        assert ("-" if value is None else f"{value:.3f}") in shown
    working = measurement.working_errors
    for kind in KINDS:
        cost, number = values["errors"][kind]["cost"], len(working.rows_of(kind))
        assert f"{kind}, {cost:.3f} AP: {number} {KINDS[kind]}" in shown
    assert (working.assignment.detections.scores > 0.37).all()


def test_the_cards_answer_from_counts(report):
    """Figures of the cards, by counting again."""
    measurement, text = report
    values = as_values(measurement)
    shown = " ".join("".join(Reader(text).texts).split())
    assigned = assign_voc(*measurement.errors.assignment[:2])
    above = (assigned.detections.scores > measurement.confidence) & ~assigned.ignored
    found = (assigned.matched[above] >= 0).sum()
    assert f"mAP is {values['map_area']:.3f}" in shown
    assert (f"{found} of {assigned.counted.sum()} objects are found, and {above.sum() - found} of "
            f"{above.sum()} boxes are wrong") in shown
    aps = {name: row["ap_area"] for name, row in values["classes"].items() if row["objects"]}
    weakest = min(aps, key=aps.get)
    assert f"{weakest}: AP {aps[weakest]:.3f}" in shown
    kind = max(KINDS, key=lambda kind: values["errors"][kind]["cost"])
    assert f"{kind}: {values['errors'][kind]['cost']:.3f} AP" in shown


@pytest.mark.parametrize("detections, objects, classes", [
    ([], [], 1), ([], [(0, 0, False, (9, 9, 90, 90))], 1), ([(0, 0, 0.5, (9, 9, 90, 90))], [], 3),
    ([(0, 0, 0.5, (-50, 9, 900, 90))], [(1, 0, True, (9, 9, 90, 90))], 1)])
def test_small_sets(tmp_path, detections, objects, classes):
    names = [f"c{k}" for k in range(classes)]
    measurement = measure_images(tmp_path, as_detections(detections), as_objects(objects), names, 2)
    errors = json.loads(json.dumps(as_values(measurement), allow_nan=False))["errors"]
    if objects and not detections:
        assert (errors["ap50"], errors["missed"]) == (0, {"count": 1, "cost": 1})
    shown = "".join(Reader(page_of(tmp_path, measurement)).texts)
    assert "Confusion matrix" in shown and all(name in shown for name in names)
    assert all(name in format_measurement(measurement) for name in names)


def test_text_of_good_and_of_low_figures(tmp_path):
    box = (0, 0, 50, 50)
    objects = as_objects([(k, 0, False, box) for k in range(20)])
    good, bad = (format_measurement(measure_images(
        tmp_path, as_detections([(k, label, 0.5, box) for k in range(20)]), objects,
        ("cat", "dog"), 20)) for label in (0, 1))
    assert "confidence 0.499: F1 1.0000" in good and "objects, not in the mean: dog" in good
    assert "mAP is near 0" in bad and "mAP is near 0" not in good and "confidence" not in bad
