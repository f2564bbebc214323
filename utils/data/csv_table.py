"""Annotations in CSV tables."""

import csv
import io
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, ImageIndex, Problem, SourceObject, gather_rows,
                                int_size)

EDGES = ("xmin", "ymin", "xmax", "ymax")
# Our name of a column, then those of other tools; the first that is there counts.
COLUMNS = {"filename": ("file", "image", "image_path", "path", "img"),
           "class": ("label", "name", "class_name", "category"),
           "xmin": ("x1", "left"), "ymin": ("y1", "top"), "xmax": ("x2", "right"),
           "ymax": ("y2", "bottom"), "width": ("image_width",), "height": ("image_height",),
           "difficult": ()}


def read_csv(path: Path, images: Path) -> tuple[list[Annotation], list[Problem]]:
    """Read a CSV file with one object per row; its images lie under the folder `images`.

    The first row names the columns, see COLUMNS; coordinates are edges from 0. A row without class
    and coordinates is an image without objects. Raises UserError for another table.
    """
    text = read_text(path, remedy="annotation_path must name a CSV file.")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as error:  # such as a quote that is not closed
        raise UserError(f"{shorten(path)}: not a readable CSV file ({error}).") from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = {name: header.index(word) for name, others in COLUMNS.items()
               for word in (*others[::-1], name) if word in header}
    missing = [name for name in ("filename", "class", *EDGES) if name not in columns]
    if missing:
        raise UserError(f"{shorten(path)}: the first row lacks the columns {', '.join(missing)}.")
    table, problems = [], []
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        try:
            if len(row) != len(header):
                raise ValueError(f"{len(row)} cells, the first row has {len(header)}")
            cells = {name: row[k].strip() for name, k in columns.items()}
            size = int_size(cells.get("width"), cells.get("height"))
            table.append((cells["filename"], size, _read_objects(cells, f"line {number}")))
        except ValueError as error:
            problems.append(Problem("bad object", f"{shorten(path)}, line {number}", str(error)))
    return gather_rows(table, ImageIndex(images), path.name), problems


def _read_objects(cells, position):
    """Return [object] of a row, [] for an image without; ValueError says what is wrong."""
    name, edges = plain_name(cells["class"]), [cells[edge] for edge in EDGES]
    if not name and not any(edges):
        return []
    difficult = cells.get("difficult", "").lower() in ("1", "true")
    return [SourceObject(name, tuple(map(float, edges)), difficult, position)]
