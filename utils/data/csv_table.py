"""Annotations in CSV tables."""

import csv
import io
import os

from utils.cli import UserError, read_text, shorten
from utils.data.sources import (
    TRUE_WORDS,
    Annotation,
    ImageIndex,
    Problem,
    ProblemKind,
    SourceObject,
    whole_size,
)

# What other tools call the columns.
CSV_COLUMNS = {"file": ("filename", "file", "image", "image_path", "path", "img"),
               "name": ("class", "label", "name", "class_name", "category"),
               "x1": ("xmin", "x1", "left"), "y1": ("ymin", "y1", "top"),
               "x2": ("xmax", "x2", "right"), "y2": ("ymax", "y2", "bottom"),
               "width": ("width", "image_width"), "height": ("height", "image_height"),
               "difficult": ("difficult",)}
CSV_NEEDED = ("file", "name", "x1", "y1", "x2", "y2")


def read_csv(path, images):
    """Read a CSV file with an object a row; its images lie under the folder `images`.

    The first row names the columns (filename, class, xmin, ymin, xmax, ymax; width, height and
    difficult where there are some); coordinates are edges from 0. A row with an empty class is a
    image without objects.

    Returns and raises as read_voc.
    """
    text = read_text(path, remedy="annotation_path must name a CSV file.")
    delimiter = ";" if ";" in text.split("\n")[0] else ","
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{shorten(path)}: not a readable CSV file ({error}); look for a quote "
                        "that is not closed.") from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    places = {field: next((header.index(name) for name in names if name in header), None)
              for field, names in CSV_COLUMNS.items()}
    missing = [CSV_COLUMNS[field][0] for field in CSV_NEEDED if places[field] is None]
    if missing:
        raise UserError(f"{shorten(path)}: the first row lacks the columns {', '.join(missing)}.")
    index, found, problems = ImageIndex(images), {}, []
    for number, row in enumerate(rows[1:], start=2):
        cells = {field: row[place].strip() if place is not None and place < len(row) else ""
                 for field, place in places.items()}
        file, edges = cells["file"], [cells[edge] for edge in ("x1", "y1", "x2", "y2")]
        if not file:
            if any(row):
                problems.append(Problem(ProblemKind.BAD_OBJECT, f"{shorten(path)}, line {number}",
                                        "no file name"))
            continue
        if file not in found:
            found[file] = Annotation(file, f"{path.name}, {file}",
                                     index.find(os.path.splitext(file)[0], file), [],
                                     whole_size(cells["width"], cells["height"]))
        if not cells["name"] and not any(edges):
            continue
        try:
            box = tuple(map(float, edges))
        except ValueError:
            problems.append(Problem(ProblemKind.BAD_OBJECT, f"{shorten(path)}, line {number}",
                                    "a coordinate is no number"))
            continue
        if not cells["name"]:
            problems.append(Problem(ProblemKind.BAD_OBJECT, f"{shorten(path)}, line {number}",
                                    "no class name"))
            continue
        found[file].objects.append(SourceObject(cells["name"], box,
                                                cells["difficult"].lower() in TRUE_WORDS,
                                                f"line {number}"))
    return list(found.values()), problems
