"""Pages that need no other file, and figures with any class name."""

import io

import numpy as np
from PIL import Image

from utils.page import Section, image_uri, new_figure, save_figure, write_page


def test_a_page_has_its_sections_and_no_script(tmp_path):
    rows = [["where", "what"], ["<script>alert(1)</script>", "a & b"]]
    write_page(tmp_path / "p.html", "<title>", [
        Section("Empty <one>"), Section("Table", rows), Section("Text", text="1 < 2\n  3"),
        Section("Details", details=[Section("2 <x>", rows)]),
        Section("Images", images=[('a "quoted" name', image_uri(Image.new("RGB", (4, 3))))])])
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<script" not in text and text.count("&lt;script&gt;") == 2
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    assert "<summary>2 &lt;x&gt;</summary>" in text and "1 &lt; 2\n  3" in text
    assert 'alt="a &#34;quoted&#34; name"' in text and text.count("<img ") == 1


def test_text_that_the_usual_font_lacks_gets_another(monkeypatch):
    """Here the same font under another name, so that the pixels are to be the same."""
    def pixels(font):
        monkeypatch.setattr("utils.page.find_font", lambda text: font)
        figure, _ = new_figure("Title", "x", "y")
        buffer = io.BytesIO()
        save_figure(figure, buffer)
        return np.asarray(Image.open(buffer).convert("L"))

    from utils.draw import FONT
    assert np.array_equal(pixels(FONT), pixels(str(FONT)))
    bold = FONT.with_name("DejaVuSans-Bold.ttf")
    assert not np.array_equal(pixels(FONT), pixels(bold))
