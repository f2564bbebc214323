"""Annotations in CSV tables."""

import csv
import io
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, Problem, SourceObject, four_numbers, gather_rows,
                                int_size)

EDGES = ("xmin", "ymin", "xmax", "ymax")
NEEDED = ("filename", "class", *EDGES)
# Our name of a column, then those of other tools; the first that is there counts.
COLUMNS = {"filename": ("file", "file_name", "image", "image_path", "image_id", "path", "img"),
           "class": ("label", "name", "class_name", "category"),
           "xmin": ("x1", "left"), "ymin": ("y1", "top"), "xmax": ("x2", "right"),
           "ymax": ("y2", "bottom"), "width": ("image_width",), "height": ("image_height",),
           "difficult": ()}


def read_csv(path: Path) -> tuple[list[Annotation], list[Problem]]:
    """Return the annotations of a CSV file with one object per row, and the problems.

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
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise UserError(f"{shorten(path)}: the first row lacks the columns {', '.join(missing)}; "
                        f"write names of columns above the data, such as {','.join(NEEDED)}.")
    table, problems = [], []
    for number, row in enumerate(rows[1:], start=2):
        if any(row) and len(row) == len(header):
            cells = {name: row[k].strip() for name, k in columns.items()}
            size = int_size(cells.get("width"), cells.get("height"))
            name, edges = plain_name(cells["class"]), [cells[edge] for edge in EDGES]
            difficult = cells.get("difficult", "").lower() in ("1", "true")
            thing = SourceObject(name, four_numbers(edges), difficult, f"line {number}")
            table.append((cells["filename"], size, [thing] if name or any(edges) else []))
        elif any(row):
            problems.append(Problem("bad object", f"{shorten(path)}, line {number}",
                                    f"{len(row)} cells, the first row has {len(header)}"))
    return gather_rows(table, path.name), problems
