"""Pages that need no other file, and figures with any class name."""

import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from utils import draw
from utils.cli import UserError
from utils.draw import FONT, find_font
from utils.evaluation import map_report
from utils.evaluation.map_report import plot_precision_recall
from utils.page import Section, image_uri, new_figure, plain_text, save_figure, write_page

NAMES = ["$a$", "price in $", "_hidden", "a_b", r"\alpha $x^2$", "$$", "^_{}", "plain"]


def test_a_page_has_its_sections_and_no_script(tmp_path):
    rows = [["where", "what"], ["<script>alert(1)</script>", "a & b"]]
    write_page(tmp_path / "p.html", "<title>", [
        Section("Empty <one>"), Section("Table", rows), Section("Text", text="1 < 2\n  3"),
        Section("Lists", lists=[("2 <x>", rows)]),
        Section("Images", images=[('a "quoted" name', image_uri(Image.new("RGB", (4, 3))))])])
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<script" not in text and text.count("&lt;script&gt;") == 2
    assert ("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
            "img-src data:; style-src 'unsafe-inline'\">") in text
    assert "<summary>2 &lt;x&gt;</summary>" in text and "1 &lt; 2\n  3" in text
    assert 'alt="a &#34;quoted&#34; name"' in text and text.count("<img ") == 1


def test_half_a_letter_does_not_end_the_page(tmp_path):
    write_page(tmp_path / "p.html", "\ud800", [])
    assert r"\ud800" in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_is_a_users_matter(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_page(tmp_path, "t", [])


def pixels(figure, path):
    save_figure(figure, path, dpi=60)
    return np.asarray(Image.open(path).convert("L")).copy()


@pytest.mark.parametrize("name", NAMES)
def test_figures_show_names_letter_by_letter(tmp_path, name):
    """Against matplotlib with its own reading of formulas switched off."""
    ours, _ = new_figure("", "", "")
    ours.text(0.1, 0.5, plain_text(name))
    plain, _ = new_figure("", "", "")
    plain.text(0.1, 0.5, (" " if name.startswith("_") else "") + name, parse_math=False)
    assert np.array_equal(pixels(ours, tmp_path / "a.png"), pixels(plain, tmp_path / "b.png"))


def test_every_name_is_in_the_legend(tmp_path, monkeypatch):
    class Result:
        num_objects, ap_area = 1, 0.5
        recall, precision = np.array([0.0, 1.0]), np.array([1.0, 0.5])

    shown = []
    monkeypatch.setattr(map_report, "save_figure", lambda figure, *_, **__: shown.extend(
        text.get_text() for text in figure.axes[0].get_legend().get_texts()))
    plot_precision_recall([Result] * len(NAMES), NAMES, tmp_path / "pr.png")
    assert [text.replace(r"\$", "$").strip() for text in shown] == [
        f"{name} 0.500" for name in NAMES]


@pytest.fixture
def no_fonts(monkeypatch):
    """Leave the machine with FONT alone."""
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [])
    for cached in (draw._find_other_font, draw._system_fonts, draw._say_once):
        cached.cache_clear()
    yield
    for cached in (draw._find_other_font, draw._system_fonts, draw._say_once):
        cached.cache_clear()


def test_letters_that_no_font_has_are_said_once(no_fonts, tmp_path, capsys):
    figure, axes = new_figure("", "", "")
    for name in ("车辆", "行人", "plain"):
        axes.plot([0, 1], label=name)
    axes.legend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "a.png", dpi=50)
        draw.draw_boxes(np.zeros((99, 99, 3), np.uint8), [[1, 1, 50, 50]], [0], ["自行车"], 1)
    assert capsys.readouterr().out.count("no font on this machine") == 1


def test_a_font_of_the_machine_is_taken_for_letters_that_ours_lacks(no_fonts, monkeypatch):
    letters = draw._letters
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: ["latin", "chinese"])
    monkeypatch.setattr(draw, "_letters", lambda path: {
        "latin": set(map(ord, " a")), "chinese": set(map(ord, " a车"))}.get(path) or letters(path))
    assert find_font("a 车") == "chinese"
    assert find_font("traffic light 0.9") == find_font("Ампель") == FONT


def test_what_pillow_cannot_draw_is_told_from_what_it_can():
    """A letter without glyph looks like any other letter without one."""
    def drawn(letter):
        image = Image.new("L", (40, 40))
        ImageDraw.Draw(image).text((5, 5), letter, 255, ImageFont.truetype(str(FONT), 20))
        return image.tobytes()

    for letter in "aЖö车\u0e01":
        assert (ord(letter) in draw._letters(FONT)) == (drawn(letter) != drawn("\u0378"))
