"""Annotations in COCO's JSON."""

import json
import math
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, ImageIndex, Problem, SourceObject, gather_rows,
                                int_size)


def read_coco(path: Path, images: Path) -> tuple[list[Annotation], list[Problem]]:
    """Read a COCO JSON file; its images lie under the folder `images`.

    Boxes are [x, y, width, height] from 0; crowds become difficult; ids may be numbers or text.
    Raises UserError for another file.
    """
    entries, names, rows = _load(path)
    objects, problems = {key: [] for key in entries}, []
    for number, row in enumerate(rows, start=1):
        try:
            name, members = names[str(row["category_id"])], objects[str(row["image_id"])]
            x, y, width, height = map(float, row["bbox"])
            is_crowd = int(row.get("iscrowd") or 0) == 1
            area = math.nan if row.get("area") is None else float(row["area"])
        except (KeyError, TypeError, ValueError):
            problems.append(Problem(
                "bad object", f"{shorten(path)}, annotation {number}",
                f"no bbox of four numbers, or an id of no image or category: {row!s:.120}"))
            continue
        members.append(SourceObject(name, (x, y, x + width, y + height), is_crowd,
                                    f"annotation {number}", area))
    table = [(str(entry.get("file_name", "")), int_size(entry.get("width"), entry.get("height")),
              objects[key]) for key, entry in entries.items()]
    return gather_rows(table, ImageIndex(images), path.name), problems


def _load(path):
    """Return ({id: image}, {id: class name}, annotations) of a COCO file; ids are text."""
    try:
        values = json.loads(read_text(path, remedy="annotation_path must name a COCO JSON file."))
        entries = {str(entry["id"]): entry for entry in values["images"]}
        names = {str(entry["id"]): plain_name(str(entry["name"])) for entry in values["categories"]}
        rows = list(values["annotations"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{shorten(path)}: not COCO annotations ({type(error).__name__}: "
                        f"{error!s:.100}); it needs images, categories and annotations.") from None
    if len(entries) < len(values["images"]) or len(names) < len(values["categories"]):
        raise UserError(f"{shorten(path)}: an id is duplicated in images or categories.")
    return entries, names, rows
