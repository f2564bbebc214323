"""Annotations in COCO's JSON."""

import json
import math
from pathlib import Path

import numpy as np

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, Problem, SourceObject, four_numbers, gather_rows,
                                int_size, turning_margins)


def read_coco(path: Path) -> tuple[list[Annotation], list[Problem]]:
    """Return the annotations of a COCO JSON file, and its problems.

    Boxes are [x, y, width, height] from 0; crowds become difficult; ids may be numbers or text.
    Raises UserError for another file.
    """
    entries, names, rows = _load(path)
    objects, problems = {key: [] for key in entries}, []
    for number, row in enumerate(rows, start=1):
        try:
            name, members = names[str(row["category_id"])], objects[str(row["image_id"])]
            is_crowd = int(row.get("iscrowd") or 0) == 1
            area = math.nan if row.get("area") is None else float(row["area"])
            box = _box(row)
        except (KeyError, TypeError, ValueError, AttributeError):
            problems.append(Problem("bad object", f"{shorten(path)}, annotation {number}",
                                    f"not an object of an image and a category: {row!s:.120}"))
            continue
        members.append(SourceObject(name, box, is_crowd, f"annotation {number}", area))
    table = [(str(entry.get("file_name", "")), int_size(entry.get("width"), entry.get("height")),
              objects[key]) for key, entry in entries.items()]
    return gather_rows(table, path.name), problems


def _box(row):
    """Return x, y, width, height of a bbox, turned by CVAT's rotation, or of the polygons."""
    polygons = row.get("segmentation")
    if isinstance(polygons, list) and polygons and not any(row.get("bbox") or ()):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
        return (*points.min(0).tolist(), *np.ptp(points, axis=0).tolist())
    x, y, width, height = four_numbers(row.get("bbox"))
    rotation = float((row.get("attributes") or {}).get("rotation") or 0)
    dx, dy = turning_margins(width, height, rotation)
    return x - dx, y - dy, width + 2 * dx, height + 2 * dy


def _load(path):
    """Return ({id: image}, {id: class name}, annotations) of a COCO file; ids are text."""
    try:
        values = json.loads(read_text(path, remedy="annotation_path must name a COCO JSON file."))
        entries = {str(entry["id"]): entry for entry in values["images"]}
        names = {str(entry["id"]): plain_name(str(entry["name"])) for entry in values["categories"]}
        rows = list(values["annotations"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{shorten(path)}: not COCO annotations ({error!r:.100}).") from None
    if len(entries) < len(values["images"]) or len(names) < len(values["categories"]):
        raise UserError(f"{shorten(path)}: an id is duplicated in images or categories.")
    return entries, names, rows
