"""The page of a measurement: its figures, its images, and what a browser makes of it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from test_errors import IMAGES, as_found, as_objects, random_set

from utils.data.annotations import Record
from utils.evaluation import gallery
from utils.evaluation.errors import KINDS
from utils.evaluation.gallery import FOUND, TRUTH, Example, Group, draw_example, draw_groups
from utils.evaluation.map_page import as_values, at_confidence, measure, write_report

NAMES = ["<b>&amp;</b>", "ö & 车", "a \"quoted\" 'name'"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)


class Reader(HTMLParser):
    """Collects what a browser would show and fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids, self.texts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "action")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.texts.append(data)


def as_records(folder, objects, images=IMAGES):
    """Write an image for each number; return their records."""
    records = []
    for k in range(images):
        path = folder / f"{k} <i>&.jpg"
        Image.new("RGB", (420, 400), (40, 90, 10 * k)).save(path)
        mine = objects.image == k
        records.append(Record(path, objects.boxes[mine].astype(np.float32), objects.labels[mine],
                              objects.difficult[mine]))
    return records


def write(folder, found, objects, names, images=IMAGES):
    """Return (Measurement, text of its page)."""
    it = measure(found, objects, names, range(images))
    write_report(folder / "report.html", "mAP on <list>", it, as_values(it, 0.5),
                 records=as_records(folder, objects, images), origin="Above 0.01.")
    return it, (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    found, objects = random_set(0)
    return folder / "report.html", *write(folder, found, objects, NAMES)


def test_the_page_needs_no_other_file_and_no_script(page):
    _, _, text = page
    reader = Reader(text)
    images = [link for link in reader.links if not link.startswith("#")]
    assert images and all(link.startswith("data:image/jpeg;base64,") for link in images)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)
    assert not {"script", "link", "iframe", "object", "b", "i"} & set(reader.tags)
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text
    assert not re.search(r"@import|url\(|https?:", text)
    shown = "".join(reader.texts)
    assert all(name in shown for name in NAMES) and "0 <i>&.jpg" in shown


def test_the_page_and_the_json_say_the_same(page):
    _, it, text = page
    values = json.loads(json.dumps(as_values(it, 0.5)))
    shown = " ".join("".join(Reader(text).texts).split())
    for value in (values["map_area"], values["map_11_point"], values["coco"]["AP50:95"],
                  values["best_f1"]["f1"], values["errors"]["ap50"],
                  *(values["classes"][name]["ap_area"] for name in NAMES),
                  *(values["classes"][name]["at_confidence"]["f1"] for name in NAMES)):
        assert f"{value:.4f}" in shown
    for kind in KINDS:
        row = values["errors"][kind.name.lower()]
        assert (f"{kind.name.capitalize()}: {row['count']}, costing {row['cost']:.4f}") in shown
    assert f"above a confidence of {values['confusion']['confidence']:g} (the best F1)" in shown
    matrix = np.array(values["confusion"]["matrix"])
    for true, claimed in np.argwhere(matrix).tolist():
        names = [*NAMES, "background"]
        assert (f"True {names[true]}, found {names[claimed]}: {matrix[true, claimed]}") in shown


def test_recall_and_precision_at_a_confidence_are_counts(page):
    _, it, _ = page
    found, matched = it.assignment.found, it.assignment.matched[0]
    for label, result in enumerate(it.results):
        seen = (found.labels == label) & (found.scores > 0.5)
        hits, total = (seen & (matched >= 0)).sum(), (it.assignment.objects.labels == label).sum()
        _, f1, precision, recall = at_confidence(result, 0.5)
        assert (recall, precision) == (hits / total, hits / seen.sum())
        assert f1 == pytest.approx(2 * hits / (total + seen.sum()))


@pytest.mark.parametrize("found, objects, classes", [
    ([], [], 1), ([], [(0, 0, False, (9, 9, 90, 90))], 1), ([(0, 0, 0.5, (9, 9, 90, 90))], [], 3),
    ([(0, 79, 0.5, (9, 9, 90, 90))] * 2, [(0, 79, False, (9, 9, 90, 90))], 80),
    ([(0, 0, 0.5, (-50, 9, 900, 90))], [(1, 0, True, (9, 9, 90, 90))], 1)])
def test_little_to_show(tmp_path, found, objects, classes):
    names = [f"c{k}" for k in range(classes)]
    it, text = write(tmp_path, as_found(found), as_objects(objects), names, images=2)
    json.dumps(as_values(it, 0.5), allow_nan=False)
    shown = "".join(Reader(text).texts)
    assert "Confusion matrix" in shown and all(name in shown for name in names)
    assert ("No object was found" in shown) == (classes < 80)


def box_at(scale):
    return np.array([[100, 80, 180, 160], [110, 90, 200, 180]], np.float64) * scale


def test_boxes_are_drawn_after_shrinking():
    """12 megapixels look like a tenth of a megapixel, lines and letters included."""
    thumbnails = [draw_example(np.full((300 * scale, 400 * scale, 3), 90, np.uint8),
                               Example(None, box_at(scale), [TRUTH, FOUND], ["true a", "found b"]))
                  for scale in (1, 10)]
    assert thumbnails[0].size == thumbnails[1].size and max(thumbnails[0].size) == gallery.SIDE
    assert thumbnails[0].tobytes() == thumbnails[1].tobytes()
    assert len(thumbnails[0].getcolors()) > 10  # letters


@pytest.mark.parametrize("boxes", [[[-5, -5, 3, 3]], [[0, 0, 640, 480]], [[630, 470, 700, 500]],
                                   [[100, 100, 101, 101]], [[900, 900, 950, 950]]])
def test_windows_lie_in_the_image_around_the_boxes(boxes):
    boxes = np.array(boxes, np.float64)
    x1, y1, x2, y2 = gallery.choose_window(boxes, 640, 480)
    assert 0 <= x1 < x2 <= 640 and 0 <= y1 < y2 <= 480
    inside = boxes.clip(0, (640, 480, 640, 480))[0]
    assert x1 <= inside[0] <= inside[2] <= x2 + 1 and y1 <= inside[1] <= inside[3] <= y2 + 1
    assert gallery.choose_window(boxes, 3, 1) == (0, 0, 3, 1)


def test_what_cannot_be_shown_is_counted(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    examples = [Example(tmp_path / name, box_at(1)[:1], [FOUND], ["x"])
                for name in ("a.png", "gone.png", "a.png", "a.png")]
    ((id_, summary, items),) = draw_groups([Group("g", "G", examples)])
    assert (id_, summary, len(items)) == (
        "g", "G; 1 left out (unreadable, or too large a page)", 3)
    monkeypatch.setattr(gallery, "LARGEST", int(2.5 * len(items[0][1])))
    ((_, summary, items),) = draw_groups([Group("g", "G", examples)])
    assert summary.startswith("G; 2 left out") and len(items) == 2


def browse(tmp_path, url, *flags):
    """Return (standard output, console messages, requests of the page) of a headless browser."""
    log = tmp_path / "net.json"
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", *flags, url],
        capture_output=True, text=True, timeout=120, check=True)
    events = log.read_text(encoding="utf-8")
    # Chromium has errands of its own; those of a page name it as the site.
    requests = [url for url in re.findall(r'"site_for_cookies":"SiteForCookies: \{site=file:[^}]*\}'
                                          r'","url":"([^"]*)"', events)
                if not url.startswith(("file:", "data:"))]
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr), requests


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@needs_chromium
def test_a_browser_says_nothing_and_asks_for_nothing(page, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<img src=http://example.org/x.png><script>console.error('oops')</script>")
    _, said, requests = browse(tmp_path, bad.as_uri(), "--dump-dom")
    assert any("oops" in line for line in said) and "http://example.org/x.png" in requests
    _, said, requests = browse(tmp_path, page[0].as_uri(), "--window-size=1200,2000",
                               f"--screenshot={tmp_path / 'shot.png'}")
    assert not said and not requests
    low, high = Image.open(tmp_path / "shot.png").convert("L").getextrema()
    assert low < 60 and high == 255


@needs_chromium
def test_the_page_fits_its_window(page, tmp_path):
    """At 400 and 1200 pixels only tables scroll, in boxes of their own, and all images are seen."""
    script = ("<script>onload=()=>{const root=document.documentElement;parent.postMessage(["
              "innerWidth, innerWidth-root.clientWidth+root.scrollWidth, [...document.images]"
              ".filter(i=>i.width&&i.naturalWidth).length],'*')}"
              "</script></body>")
    text = re.sub(r"<meta http-equiv.*?>", "", page[2].replace("</body>", script), flags=re.DOTALL)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    (tmp_path / "both.html").write_text(
        "<script>onmessage=e=>document.body.append('|'+e.data+'|')</script><body>"
        "<iframe src=page.html width=400 height=900></iframe>"
        "<iframe src=page.html width=1200 height=900></iframe>")
    dom, *_ = browse(tmp_path, (tmp_path / "both.html").as_uri(), "--dump-dom",
                     "--virtual-time-budget=5000")
    found = {int(width): (int(scroll), int(images))
             for width, scroll, images in re.findall(r"\|(\d+),(\d+),(\d+)\|", dom)}
    assert found == {width: (width, page[2].count("<img ")) for width in (400, 1200)}


@needs_chromium
def test_the_page_can_be_printed(page, tmp_path):
    browse(tmp_path, page[0].as_uri(), f"--print-to-pdf={tmp_path / 'page.pdf'}")
    data = (tmp_path / "page.pdf").read_bytes()
    different = set(re.findall(r'<img src="([^"]*)', page[2]))
    assert data.startswith(b"%PDF") and data.count(b"/Subtype /Image") >= len(different) > 50
