"""Pages as a browser shows them: Chromium, where it is installed."""

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from utils.page import Card, Section, image_uri, write_page

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
HOSTILE = "</title><script>alert(1)</script> & 'a' \"b\" " + "long_name" * 20
NAMES = [f"class {k}" for k in range(40)]


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page with all parts, each as wide as it may get."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    images = [(f"{k} {HOSTILE}", image_uri(Image.new("RGB", (480, 300 + k), (90, 9, 9))))
              for k in range(3)]
    line = [(x, x * x) for x in np.linspace(0, 1, 9)]
    table = [["name", *NAMES], *([name, *range(40)] for name in NAMES)]
    rows = [["where", "what"], [f"/a{'/folder' * 30}/a.jpg", HOSTILE]]
    write_page(path, HOSTILE, HOSTILE, [Card(HOSTILE, HOSTILE, HOSTILE, "warn")] * 5, [
        Section("table", table, HOSTILE, groups=[("", 1), ("numbers", 40)], shaded=True),
        Section("curves", panels=[("a", "x", "y", 0.3), ("b", "x", "y", None)],
                curves=[(name, k < 2, [line, line[::-1]]) for k, name in enumerate(NAMES)]),
        Section(HOSTILE, code="x = 1\n" * 3 + "y" * 300, images=images,
                details=[Section("part", rows, images=images, folded=True)]),
        Section("folded", text="hidden", folded=True)])
    return path


@pytest.fixture
def page(browser, path):
    """The browser with the page open; at the end nothing may have complained."""
    browser.open(path)
    yield browser
    assert browser.messages == []


@pytest.mark.parametrize("width", [320, 1200])
def test_nothing_is_wider_than_the_screen(page, path, width):
    page.open(path, width=width)
    page.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.run("document.documentElement.scrollWidth") <= width


def shown_curves(page):
    return page.run("[...document.querySelectorAll('svg')].map(svg => [...svg.querySelectorAll("
                    "'polyline')].flatMap((line, k) => line.checkVisibility() ? [k] : []))")


def test_curves_are_switched_in_all_panels_at_once(page):
    assert shown_curves(page) == [[0, 1]] * 2
    page.run("document.querySelector('[data-curve=curve7]').click()")
    page.run("document.querySelector('[data-curve=curve0]').click()")
    assert shown_curves(page) == [[1, 7]] * 2
    page.run("document.querySelector('[data-curves]').click()")
    assert shown_curves(page) == [list(range(40))] * 2
    page.run("document.querySelector('[data-curves]').click()")
    assert shown_curves(page) == [[]] * 2


def test_an_image_opens_large_and_closes_again(page):
    viewer = "document.querySelector('dialog')"
    assert not page.run(f"{viewer}.open")
    page.run("document.querySelectorAll('figure button')[2].click()")
    width, height = page.run(f"[{viewer}.querySelector('img').naturalHeight, innerWidth]")
    assert page.run(f"{viewer}.open") and width == 302
    assert page.run(f"{viewer}.querySelector('img').width") > 400
    assert page.run(f"{viewer}.textContent").strip().startswith("2 </title>")
    page.run(f"{viewer}.click()")
    assert not page.run(f"{viewer}.open")
