"""Annotations in CSV tables."""

import csv
import io
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, ImageIndex, Problem, ProblemKind, SourceObject,
                                gather_rows, is_true, whole_size)

# What other tools call the columns.
CSV_COLUMNS = {"file": ("filename", "file", "image", "image_path", "path", "img"),
               "name": ("class", "label", "name", "class_name", "category"),
               "x1": ("xmin", "x1", "left"), "y1": ("ymin", "y1", "top"),
               "x2": ("xmax", "x2", "right"), "y2": ("ymax", "y2", "bottom"),
               "width": ("width", "image_width"), "height": ("height", "image_height"),
               "difficult": ("difficult",)}
EDGES = ("x1", "y1", "x2", "y2")
CSV_NEEDED = ("file", "name", *EDGES)


def read_csv(path: Path, images: Path) -> tuple[list[Annotation], list[Problem]]:
    """Read a CSV file with an object a row; its images lie under the folder `images`.

    The first row names the columns (filename, class, xmin, ymin, xmax, ymax; width, height and
    difficult where there are some); coordinates are edges from 0. A row with an empty class is a
    image without objects.

    Returns and raises as read_voc.
    """
    header, rows = _read_table(path)
    places = {field: next((header.index(name) for name in names if name in header), None)
              for field, names in CSV_COLUMNS.items()}
    missing = [CSV_COLUMNS[field][0] for field in CSV_NEEDED if places[field] is None]
    if missing:
        raise UserError(f"{shorten(path)}: the first row lacks the columns {', '.join(missing)}; "
                        "commas, semicolons or tabs may divide them.")
    index, found, problems = ImageIndex(images), [], []
    for number, row in enumerate(rows, start=2):
        if not any(row):
            continue
        cells = {field: row[place] if place is not None and place < len(row) else ""
                 for field, place in places.items()}
        file = cells["file"] if cells["file"] in index.by_path else cells["file"].strip()
        objects = []
        try:
            # As where a file was cut or lines were joined.
            if len(row) <= max(places[field] for field in CSV_NEEDED) or any(row[len(header):]):
                raise ValueError(f"{len(row)} cells, the first row has {len(header)}")
            objects = _read_objects(cells, f"line {number}")
            if not file:
                raise ValueError("no file name")
        except ValueError as error:
            problems.append(Problem(ProblemKind.BAD_OBJECT, f"{shorten(path)}, line {number}",
                                    str(error)))
        if file:
            size = whole_size(cells["width"], cells["height"])
            found.append((file, size, objects, f"line {number}"))
    annotations, faults = gather_rows(found, index, path.name)
    return annotations, problems + faults


def _read_table(path):
    """Return (column names in small letters, rows) of a table with commas, semicolons or tabs."""
    text = read_text(path, remedy="annotation_path must name a CSV file.")
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{shorten(path)}: not a readable CSV file ({error}); look for a quote "
                        "that is not closed.") from None
    return ([cell.strip().lower() for cell in rows[0]] if rows else []), rows[1:]


def _read_objects(cells, place):
    """Return [object] of a row, [] for an image without; ValueError says what is wrong."""
    name, edges = plain_name(cells["name"]), [cells[edge].strip() for edge in EDGES]
    if not name and not any(edges):
        return []
    try:
        box = tuple(map(float, edges))
    except ValueError:
        raise ValueError("a coordinate is no number") from None
    if not name:
        raise ValueError("no class name")
    return [SourceObject(name, box, is_true(cells["difficult"]), place)]
