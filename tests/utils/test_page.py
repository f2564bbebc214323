"""A page as a browser shows it: Chromium, where it is installed."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from utils.page import Card, Section, image_uri, write_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
HOSTILE = "</title><script>alert(1)</script> & 'a' \"b\" " + "long_name" * 20
CURVES = [f"class {k}" for k in range(40)]
CLICKS = """
    const page = document.querySelector("iframe").contentDocument;
    const shown = () => [...page.querySelectorAll("svg")].map(svg => [
        ...svg.querySelectorAll("polyline")].flatMap((line, k) => line.checkVisibility() ? k : []));
    const seen = {curves: [shown()], dialog: [page.querySelector("dialog").open]};
    const click = selector => page.querySelectorAll(selector).forEach(part => part.click());
    for (const button of ["[data-curve=curve7], [data-curve=curve0]", "[data-curves]"]) {
        click(button);
        seen.curves.push(shown());
    }
    page.querySelectorAll("figure button")[2].click();
    seen.dialog.push(page.querySelector("dialog").open);
    seen.caption = page.querySelector("dialog").textContent.trim();
    click("dialog");
    seen.dialog.push(page.querySelector("dialog").open);
    page.querySelectorAll("details").forEach(part => part.open = true);
    seen.width = page.documentElement.scrollWidth;
    document.querySelector("pre").textContent = JSON.stringify(seen);
"""


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_a_page_of_wide_parts_fits_a_telephone_and_its_buttons_work(tmp_path):
    images = [(f"{k} {HOSTILE}", image_uri(Image.new("RGB", (480, 300 + k), (90, 9, 9))))
              for k in range(3)]
    line = [(x, x * x) for x in np.linspace(0, 1, 9)]
    table = [["name", *CURVES], *([name, *range(40)] for name in CURVES)]
    rows = [["where", "what"], [f"/a{'/folder' * 30}/a.jpg", HOSTILE]]
    write_page(tmp_path / "page.html", HOSTILE, HOSTILE, [
        Card(HOSTILE, HOSTILE, HOSTILE, "warn")] * 5, [
        Section("table", table, HOSTILE, groups=[("", 1), ("numbers", 40)], shaded=True),
        Section("curves", panels=[("a", "x", "y", 0.3), ("b", "x", "y", None)],
                curves=[(name, k < 2, [line, line[::-1]]) for k, name in enumerate(CURVES)]),
        Section(HOSTILE, code="x = 1\n" * 3 + "y" * 300, images=images,
                details=[Section("part", rows, images=images, folded=True)])])
    text = html.escape((tmp_path / "page.html").read_text("utf-8"))
    (tmp_path / "around.html").write_text(
        f'<meta charset="utf-8"><iframe width="320" height="900" srcdoc="{text}"></iframe><pre>'
        f'</pre><script>addEventListener("load", () => {{{CLICKS}}})</script>', encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (tmp_path / "around.html").as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    seen = json.loads(html.unescape(re.search("<pre>(.*?)</pre>", done.stdout)[1]))
    # Of both panels: two at first, then the buttons of two, then that of all.
    assert seen["curves"] == [[[0, 1]] * 2, [[1, 7]] * 2, [[*range(40)]] * 2]
    assert seen["dialog"] == [False, True, False]
    assert seen["caption"].startswith("2 </title>") and seen["width"] <= 320
