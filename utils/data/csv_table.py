"""Annotations in CSV tables."""

import csv
import io
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, ImageIndex, Problem, ProblemKind, SourceObject,
                                gather_rows, int_size, is_true)

# What the columns are called, by this project first and by other tools.
COLUMNS = {"file": ("filename", "file", "image", "image_path", "path", "img"),
           "name": ("class", "label", "name", "class_name", "category"),
           "x1": ("xmin", "x1", "left"), "y1": ("ymin", "y1", "top"),
           "x2": ("xmax", "x2", "right"), "y2": ("ymax", "y2", "bottom"),
           "width": ("width", "image_width"), "height": ("height", "image_height"),
           "difficult": ("difficult",)}
EDGES = ("x1", "y1", "x2", "y2")
NEEDED = ("file", "name", *EDGES)


def read_csv(path: Path, images: Path) -> tuple[list[Annotation], list[Problem]]:
    """Read a CSV file with one object per row; its images lie under the folder `images`.

    The first row names the columns (filename, class, xmin, ymin, xmax, ymax; width, height and
    difficult if there are any); coordinates are edges from 0. A row without class and coordinates
    is an image without objects. Returns one Annotation per image and the problems. Raises UserError
    for another table.
    """
    header, rows = _read_table(path)
    columns = {field: next((header.index(name) for name in names if name in header), None)
               for field, names in COLUMNS.items()}
    missing = [COLUMNS[field][0] for field in NEEDED if columns[field] is None]
    if missing:
        raise UserError(f"{shorten(path)}: the first row lacks the columns {', '.join(missing)}; "
                        "commas, semicolons or tabs may divide them.")
    table, problems = [], []
    for number, row in enumerate(rows, start=2):
        if not any(row):
            continue
        cells = {field: row[column].strip() if column is not None and column < len(row) else ""
                 for field, column in columns.items()}
        objects = []
        try:
            if len(row) < len(header) or any(row[len(header):]):
                raise ValueError(f"{len(row)} cells, the first row has {len(header)}")
            if not cells["file"]:
                raise ValueError("no file name")
            objects = _read_objects(cells, f"line {number}")
        except ValueError as error:
            problems.append(Problem(ProblemKind.BAD_OBJECT, f"{shorten(path)}, line {number}",
                                    str(error)))
        if cells["file"]:
            table.append((cells["file"], int_size(cells["width"], cells["height"]), objects))
    index = ImageIndex(images)
    return gather_rows(table, index, path.name), problems + index.problems


def _read_table(path):
    """Return (column names in lower case, rows) of a table with commas, semicolons or tabs."""
    text = read_text(path, remedy="annotation_path must name a CSV file.")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        header, *rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:  # ValueError: an empty file has no header
        raise UserError(f"{shorten(path)}: not a readable CSV file ({error}); look for a quote "
                        "that is not closed.") from None
    return [cell.strip().lower() for cell in header], rows


def _read_objects(cells, position):
    """Return [object] of a row, [] for an image without; ValueError says what is wrong."""
    name, edges = plain_name(cells["name"]), [cells[edge] for edge in EDGES]
    if not name and not any(edges):
        return []
    if not name:
        raise ValueError("no class name")
    try:
        box = tuple(map(float, edges))
    except ValueError:
        raise ValueError("a coordinate is not a number") from None
    return [SourceObject(name, box, is_true(cells["difficult"]), position)]
