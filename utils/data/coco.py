"""Annotations in COCO's JSON."""

import json
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, ImageIndex, Problem, ProblemKind, SourceObject,
                                gather_rows, int_size, is_true)


def read_coco(path: Path, images: Path) -> tuple[list[Annotation], list[Problem]]:
    """Read a COCO JSON file; its images lie under the folder `images`.

    Boxes are [x, y, width, height] from 0; crowds become difficult; ids may be numbers or text.
    Returns one Annotation per image and the problems. Raises UserError for another file.
    """
    entries, names, rows = _load(path)
    objects, problems = {key: [] for key in entries}, []
    for number, row in enumerate(rows, start=1):
        try:
            item = _read_object(row, names, f"annotation {number}")
            if str(row.get("image_id")) not in objects:
                raise ValueError(f"image_id {row.get('image_id')!r:.60} is the id of no image")
            objects[str(row["image_id"])].append(item)
        except (ValueError, AttributeError) as error:
            problems.append(Problem(ProblemKind.BAD_OBJECT,
                                    f"{shorten(path)}, annotation {number}", str(error)))
    table = ((str(entry.get("file_name", "")), int_size(entry.get("width"), entry.get("height")),
              objects[key]) for key, entry in entries.items())
    index = ImageIndex(images)
    return gather_rows(table, index, path.name), problems + index.problems


def _load(path):
    """Return ({id: image}, {id: class name}, annotations) of a COCO file; ids are text."""
    try:
        values = json.loads(read_text(path, remedy="annotation_path must name a COCO JSON file."))
        entries = {str(entry["id"]): entry for entry in values["images"]}
        names = {str(entry["id"]): plain_name(str(entry["name"])) for entry in values["categories"]}
        rows = list(values["annotations"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{shorten(path)}: not COCO annotations ({type(error).__name__}: "
                        f"{error!s:.100}); it needs images, categories and annotations.") from None
    for part, by_id in (("images", entries), ("categories", names)):
        if len(by_id) != len(values[part]):
            raise UserError(f"{shorten(path)}: an id is duplicated in {part!r}; give each its own.")
    return entries, names, rows


def _read_object(row, names, position):
    """Return the SourceObject of an annotation; ValueError says what is wrong with it."""
    category = str(row.get("category_id"))
    if category not in names:
        raise ValueError(f"category_id {category!r:.60} is the id of no category")
    try:
        x, y, width, height = (float(value) for value in row.get("bbox"))
    except (TypeError, ValueError):
        raise ValueError("no bbox of four numbers") from None
    return SourceObject(names[category], (x, y, x + width, y + height),
                        is_true(row.get("iscrowd", 0)), position)
