"""Reports as one HTML page, and the figures on it."""

import base64
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from PIL import Image

from utils.cli import writing
from utils.draw import FONT, find_font

TEMPLATE = Path(__file__).with_name("page.html.jinja")


class Card(NamedTuple):
    """A question that a reader has, and its answer."""

    question: str
    answer: str  # a number or a few words
    sentence: str
    tone: str = ""  # "good", "warn" or "bad", shown as a colour


class Section(NamedTuple):
    """A heading of a page and what is under it; each part may be empty."""

    heading: str
    rows: Sequence[Sequence[str | int]] = ()  # a table, its header first
    text: str = ""
    code: str = ""  # lines to copy
    images: Sequence[tuple[str, str]] = ()  # (caption, data URI)
    details: Sequence["Section"] = ()
    groups: Sequence[tuple[str, int]] = ()  # headings above the header, and columns under each
    shaded: bool = False  # numbers are shaded by their shares of a row
    # Diagrams of axes from 0 to 1: title, labels of x and y, x of a vertical line; and curves that
    # a reader switches in all of them at once: name, whether shown at first, points in each panel.
    panels: Sequence[tuple[str, str, str, float | None]] = ()
    curves: Sequence[tuple[str, bool, Sequence[Sequence[tuple[float, float]]]]] = ()
    folded: bool = False


def write_page(path: Path, title: str, about: str, cards: Sequence[Card],
               sections: Sequence[Section]) -> None:
    """Write one HTML file that needs no other file and runs the script of the template alone."""
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters["sha256"] = lambda text: base64.b64encode(
        hashlib.sha256(text.encode()).digest()).decode()
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    with writing(path) as part:
        part.write_text(template.render(title=title, about=about, cards=cards, sections=sections),
                        encoding="utf-8")


def image_uri(image: Image.Image) -> str:
    """Return an image as the data URI of a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def new_figure(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Return (figure, axes) that need no display."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def save_figure(figure: Figure, target: Path) -> None:
    """Write a figure as PNG; text that matplotlib's font lacks gets a font that has it."""
    for text in figure.findobj(Text):
        font = find_font(text.get_text())
        if font != FONT:
            text.set_fontproperties(FontProperties(fname=font, size=text.get_fontsize()))
    figure.savefig(target, dpi=100, format="png")
