"""Pages and figures for reports."""

import base64
import io
import warnings
from typing import NamedTuple

from utils.cli import UserError, shorten
from utils.draw import FONT, find_font

TEMPLATE = """<!DOCTYPE html>
<html lang="en"><head><meta charset=utf-8>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body{font:15px/1.5 sans-serif;max-width:1140px;margin:1.5em auto;padding:0 1em;color:#222}
h1,h2,h3{overflow-wrap:anywhere} .wide{overflow-x:auto} table{border-collapse:collapse}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit}
td,th{border:1px solid #ccc;padding:2px 8px;text-align:right;vertical-align:top}
td:first-child,th:first-child,details td,details th{text-align:left}
.wide td:first-child{position:sticky;left:0;background:#fff;min-width:6em;overflow-wrap:anywhere}
details td{overflow-wrap:anywhere;min-width:6em} a{color:inherit}
summary{cursor:pointer;margin:.4em 0;overflow-wrap:anywhere}
.images{display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start}
figure{margin:0;max-width:100%} img,svg{max-width:100%;height:auto;display:block}
figcaption{font-size:13px;color:#555;overflow-wrap:anywhere;width:0;min-width:100%}
svg{font:10px sans-serif;fill:#555} .grid{stroke:#ddd}
polyline{fill:none;stroke:#1f77b4;stroke-width:1.5}
.mark{stroke:#222;stroke-dasharray:3 3}
@media print{body{max-width:none;font-size:11px} td,th{padding:1px 4px}
.wide{overflow:visible} td:first-child{position:static} figure,tr{break-inside:avoid}
h2,h3,summary{break-after:avoid} details .images img{max-width:228px}
details::details-content{content-visibility:visible;height:auto}}
</style></head><body>
{% macro table(rows) %}<div class="wide"><table>
{% for row in rows %}{% set tag = "th" if loop.first else "td" %}
<tr>{% for cell in row %}
<{{ tag }}{% if cell.shade %} style="background:rgba(31,119,180,{{ cell.shade }})"{% endif %}>
{%- if cell.link %}<a href="#{{ cell.link }}">{{ cell }}</a>{% else %}{{ cell }}{% endif -%}
</{{ tag }}>
{%- endfor %}</tr>
{% endfor %}</table></div>{% endmacro %}
{% macro chart(it) %}<figure><svg width="250" height="170" viewBox="0 0 250 170" role="img"
 aria-label="{{ it.ylabel }} over {{ it.xlabel }}: {{ it.caption }}">
{% for k in range(5) %}<path class="grid" d="M40 {{ 10 + 30 * k }}h200M{{ 40 + 50 * k }} 10v120"/>
<text x="36" y="{{ 133 - 30 * k }}" text-anchor="end">{{ k / 4 if k % 2 == 0 }}</text>
<text x="{{ 40 + 50 * k }}" y="143" text-anchor="middle">{{ k / 4 if k % 2 == 0 }}</text>
{% endfor %}
<polyline points="
{%- for x, y in it.line %}{{ "%.0f,%.1f " % (40 + 200 * x, 130 - 120 * y) }}{% endfor %}"/>
{% if it.mark is not none %}<path class="mark" d="M{{ "%.1f" % (40 + 200 * it.mark) }} 10v120"/>
{% endif %}<text x="140" y="160" text-anchor="middle">{{ it.xlabel }}</text>
<text transform="translate(10 70)rotate(-90)" text-anchor="middle">{{ it.ylabel }}</text>
</svg><figcaption>{{ it.caption }}</figcaption></figure>{% endmacro %}
{% macro images(items, id="") %}<div class="images"{% if id %} id="{{ id }}"{% endif %}>
{% for caption, source in items %}
<figure><img src="{{ source }}" alt="{{ caption }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}</div>{% endmacro %}
<h1>{{ title }}</h1>
{% for section in sections %}
<h2>{{ section.heading }}</h2>
{% if section.text %}<pre>{{ section.text }}</pre>{% endif %}
{% if section.rows %}{{ table(section.rows) }}{% endif %}
{% for summary, rows in section.lists %}
<details><summary>{{ summary }}</summary>{{ table(rows) }}</details>
{% endfor %}
{% if section.charts %}<div class="images">
{% for item in section.charts %}{{ chart(item) }}{% endfor %}</div>{% endif %}
{% if section.images %}{{ images(section.images) }}{% endif %}
{% for id, summary, items in section.galleries %}
<details open><summary>{{ summary }}</summary>{{ images(items, id) }}</details>
{% endfor %}
{% endfor %}
</body></html>
"""


class Cell(str):
    """A cell of a table that is shaded, 0 to 1, or leads to the gallery of an id."""

    def __new__(cls, text: object, *, shade: float = 0, link: str = "") -> "Cell":
        cell = super().__new__(cls, text)
        cell.shade, cell.link = round(shade, 3), link
        return cell


class Chart(NamedTuple):
    """A line in a square from 0 to 1, drawn as inline SVG."""

    caption: str
    xlabel: str
    ylabel: str
    line: list[tuple[float, float]]  # points (x, y)
    mark: float | None = None  # x of a dashed line


class Section(NamedTuple):
    """What stands under a heading of a page, each part if there is any."""

    heading: str
    rows: list[list[str]] = []  # of a table, its header first
    text: str = ""
    lists: list[tuple[str, list[list[str]]]] = []  # (summary, rows) of tables that open on a click
    images: list[tuple[str, str]] = []  # (caption, data URI)
    charts: list[Chart] = []
    galleries: list[tuple[str, str, list[tuple[str, str]]]] = []  # (id, summary, images)


def write_page(path, title, sections):
    """Write Sections as one HTML file that needs no other and runs no script.

    Raises UserError where the file cannot be written.
    """
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    text = template.render(title=title, sections=sections)
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"{shorten(path)}: the report cannot be written "
                        f"({error.strerror}).") from None


def image_uri(image):
    """Return a PIL image (as JPEG) or a matplotlib figure (as PNG) as a data URI."""
    buffer, kind = io.BytesIO(), "png" if hasattr(image, "savefig") else "jpeg"
    if kind == "png":
        save_figure(image, buffer, dpi=90)
    else:
        image.save(buffer, kind, quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def new_figure(title, xlabel, ylabel):
    """Return (figure, axes) that need no display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def plain_text(name):
    """Return a class name so that matplotlib shows every letter of it.

    A $ would begin a formula, and the legend leaves out what begins with an underscore.
    """
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def save_figure(figure, target, *, dpi):
    """Write a figure as PNG; scripts that its font lacks come from a font that has them."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        font = find_font(text.get_text())
        if font != FONT:
            properties = text.get_fontproperties().copy()
            properties.set_file(font)
            text.set_fontproperties(properties)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # find_font said it
        figure.savefig(target, dpi=dpi, format="png")
