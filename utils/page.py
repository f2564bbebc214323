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
body{font:15px/1.5 sans-serif;max-width:1080px;margin:1.5em auto;padding:0 1em;color:#222}
.wide{overflow-x:auto} table{border-collapse:collapse} pre{white-space:pre-wrap}
td,th{border:1px solid #ccc;padding:2px 8px;text-align:right}
td:first-child,th:first-child,details td,details th{text-align:left}
details td{overflow-wrap:anywhere;min-width:6em}
summary{cursor:pointer} .images{display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start}
figure{margin:0;max-width:100%} img{max-width:100%;height:auto;display:block}
figcaption{font-size:13px;color:#555;overflow-wrap:anywhere;width:0;min-width:100%}
@media print{body{max-width:none;font-size:11px} figure,tr{break-inside:avoid}
h2{break-after:avoid} details::details-content{content-visibility:visible;height:auto}}
</style></head><body>
{% macro table(rows) %}<div class="wide"><table>
{% for row in rows %}{% set tag = "th" if loop.first else "td" %}
<tr>{% for cell in row %}<{{ tag }}>{{ cell }}</{{ tag }}>{% endfor %}</tr>
{% endfor %}</table></div>{% endmacro %}
<h1>{{ title }}</h1>
{% for section in sections %}
<h2>{{ section.heading }}</h2>
{% if section.rows %}{{ table(section.rows) }}{% endif %}
{% if section.text %}<pre>{{ section.text }}</pre>{% endif %}
{% for summary, rows in section.lists %}
<details><summary>{{ summary }}</summary>{{ table(rows) }}</details>
{% endfor %}
{% if section.images %}<div class="images">
{% for caption, source in section.images %}
<figure><img src="{{ source }}" alt="{{ caption }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}</div>{% endif %}
{% endfor %}
</body></html>
"""


class Section(NamedTuple):
    """What stands under a heading of a page, each part if there is any."""

    heading: str
    rows: list[list[str]] = []  # of a table, its header first
    text: str = ""
    lists: list[tuple[str, list[list[str]]]] = []  # (summary, rows) of tables that open on a click
    images: list[tuple[str, str]] = []  # (caption, data URI)


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
