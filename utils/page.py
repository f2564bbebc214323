"""Reports as one HTML page, and the figures on it."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jinja2 import Environment
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from PIL import Image

from utils.cli import writing
from utils.draw import FONT, find_font

TEMPLATE = """<!DOCTYPE html>
<html lang="en"><head><meta charset=utf-8><title>{{ title }}</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"><style>
body{font:15px/1.5 sans-serif;max-width:1140px;margin:1.5em auto;padding:0 1em}
p{white-space:pre-wrap;overflow-wrap:anywhere} summary{cursor:pointer}
table{border-collapse:collapse;display:block;overflow-x:auto} tr:first-child{font-weight:bold}
td{border:1px solid #ccc;padding:2px;text-align:right} td:first-child,details td{text-align:left}
.images{display:flex;flex-wrap:wrap;gap:1em} figure{margin:0;max-width:100%} img{max-width:100%}
figcaption{font-size:13px;width:0;min-width:100%;overflow-wrap:anywhere}</style></head><body>
{% macro content(section) %}
{% if section.text %}<p>{{ section.text }}</p>{% endif %}
<table>{% for row in section.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
<div class="images">{% for caption, uri in section.images %}
<figure><img src="{{ uri }}" alt="{{ caption }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}</div>
{% for part in section.details %}<details{{ " open" if part.images or part.rows | length < 12 }}>
<summary>{{ part.heading }}</summary>{{ content(part) }}</details>{% endfor %}
{% endmacro %}<h1>{{ title }}</h1>
{% for section in sections %}<h2>{{ section.heading }}</h2>{{ content(section) }}{% endfor %}
</body></html>
"""


class Section(NamedTuple):
    """A heading of a page and what is under it; each part may be empty."""

    heading: str
    rows: Sequence[Sequence[str]] = ()  # a table, its header first
    text: str = ""
    images: Sequence[tuple[str, str]] = ()  # (caption, data URI)
    details: Sequence["Section"] = ()  # parts that a click opens and closes


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write sections as one HTML file that needs no other file, no network and no script."""
    template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    with writing(path) as part:
        part.write_text(template.render(title=title, sections=sections), encoding="utf-8")


def image_uri(image: Image.Image | Figure) -> str:
    """Return a PIL image (as JPEG) or a matplotlib figure (as PNG) as a data URI."""
    buffer, kind = io.BytesIO(), "png" if isinstance(image, Figure) else "jpeg"
    if isinstance(image, Figure):
        save_figure(image, buffer)
    else:
        image.save(buffer, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def new_figure(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Return (figure, axes) that need no display."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def save_figure(figure: Figure, target: Path | BinaryIO) -> None:
    """Write a figure as PNG; text that matplotlib's font lacks gets a font that has it."""
    for text in figure.findobj(Text):
        font = find_font(text.get_text())
        if font != FONT:
            text.set_fontproperties(FontProperties(fname=font, size=text.get_fontsize()))
    figure.savefig(target, dpi=100, format="png")
