"""Annotations in CSV tables."""

import csv
import io
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, ImageIndex, Problem, ProblemKind, SourceObject,
                                gather_rows, int_size, is_true)

# Our name of a column, then those of other tools.
COLUMNS = {"filename": ("file", "image", "image_path", "path", "img"),
           "class": ("label", "name", "class_name", "category"),
           "xmin": ("x1", "left"), "ymin": ("y1", "top"), "xmax": ("x2", "right"),
           "ymax": ("y2", "bottom"), "width": ("image_width",), "height": ("image_height",),
           "difficult": ()}
NEEDED = ("filename", "class", "xmin", "ymin", "xmax", "ymax")


def read_csv(path: Path, images: Path) -> tuple[list[Annotation], list[Problem]]:
    """Read a CSV file with one object per row; its images lie under the folder `images`.

    The first row names the columns, see COLUMNS; coordinates are edges from 0. A row without class
    and coordinates is an image without objects. Raises UserError for another table.
    """
    text = read_text(path, remedy="annotation_path must name a CSV file.")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{shorten(path)}: not a readable CSV file ({error}); look for a quote "
                        "that is not closed.") from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = {name: next((header.index(word) for word in (name, *others) if word in header), None)
               for name, others in COLUMNS.items()}
    missing = [name for name in NEEDED if columns[name] is None]
    if missing:
        raise UserError(f"{shorten(path)}: the first row lacks the columns {', '.join(missing)}; "
                        "commas, semicolons or tabs may divide them.")
    table, problems = [], []
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        cells = {name: row[k].strip() if k is not None and k < len(row) else ""
                 for name, k in columns.items()}
        try:
            if len(row) < len(header) or any(row[len(header):]) or not cells["filename"]:
                raise ValueError(f"{len(row)} cells, the first row has {len(header)}; or no file")
            table.append((cells["filename"], int_size(cells["width"], cells["height"]),
                          _read_objects(cells, f"line {number}")))
        except ValueError as error:
            problems.append(Problem(ProblemKind.BAD_OBJECT, f"{shorten(path)}, line {number}",
                                    str(error)))
    return gather_rows(table, ImageIndex(images), path.name), problems


def _read_objects(cells, position):
    """Return [object] of a row, [] for an image without; ValueError says what is wrong."""
    name, edges = plain_name(cells["class"]), [cells[edge] for edge in NEEDED[2:]]
    if not name and not any(edges):
        return []
    if not name:
        raise ValueError("no class name")
    return [SourceObject(name, tuple(map(float, edges)), is_true(cells["difficult"]), position)]
