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
<html lang="en"><head><meta charset=utf-8>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body{font:15px/1.5 sans-serif;max-width:1140px;margin:1.5em auto;padding:0 1em;color:#222}
body{overflow-wrap:anywhere} p{white-space:pre-wrap} summary{cursor:pointer;margin:.4em 0}
.table{overflow-x:auto} table{border-collapse:collapse;overflow-wrap:normal}
td,th{border:1px solid #ccc;padding:2px 8px;text-align:right;vertical-align:top}
td:first-child,th:first-child,details td,details th{text-align:left}
.images{display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start}
figure{margin:0;max-width:100%} img{max-width:100%;height:auto;display:block}
figcaption{font-size:13px;color:#555;width:0;min-width:100%}
@media print{.table{overflow:visible} figure,tr{break-inside:avoid}}
</style></head><body>
{% macro content(section) %}
{% if section.text %}<p>{{ section.text }}</p>{% endif %}
{% if section.rows %}<div class="table"><table>
{% for row in section.rows %}{% set tag = "th" if loop.first else "td" %}
<tr>{% for cell in row %}<{{ tag }}>{{ cell }}</{{ tag }}>{% endfor %}</tr>
{% endfor %}</table></div>{% endif %}
{% if section.images %}<div class="images">{% for caption, uri in section.images %}
<figure><img src="{{ uri }}" alt="{{ caption }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}</div>{% endif %}
{% for part in section.details %}
<details{{ " open" if part.images }}><summary>{{ part.heading }}</summary>{{ content(part) }}
</details>{% endfor %}
{% endmacro %}
<h1>{{ title }}</h1>
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
    """Write sections as one HTML file that needs no other file, no network and no script.

    Raises UserError where the file cannot be written.
    """
    template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    text = template.render(title=title, sections=sections)
    with writing(path) as part:
        part.write_text(text, encoding="utf-8", errors="replace")


def image_uri(image: Image.Image | Figure) -> str:
    """Return a PIL image (as JPEG) or a matplotlib figure (as PNG) as a data URI."""
    buffer, kind = io.BytesIO(), "jpeg"
    if isinstance(image, Figure):
        kind = "png"
        save_figure(image, buffer, dpi=90)
    else:
        image.save(buffer, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def new_figure(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Return (figure, axes) that need no display."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def save_figure(figure: Figure, target: Path | BinaryIO, *, dpi: int = 100) -> None:
    """Write a figure as PNG; text that matplotlib's font lacks gets a font that has it."""
    for text in figure.findobj(Text):
        font = find_font(text.get_text())
        if font != FONT:
            text.set_fontproperties(FontProperties(fname=font, size=text.get_fontsize()))
    figure.savefig(target, dpi=dpi, format="png")
