"""Annotations in COCO's JSON."""

import json
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, ImageIndex, Problem, ProblemKind, SourceObject,
                                gather_rows, is_true, whole_size)

PARTS = ("images", "categories", "annotations")


def read_coco(path: Path, images: Path) -> tuple[list[Annotation], list[Problem]]:
    """Read a COCO JSON file; its images lie under the folder `images`.

    Boxes are [x, y, width, height] from 0; crowds become difficult; ids may be numbers or text.

    Returns and raises as read_voc.
    """
    values, entries, names = _load(path)
    objects, problems = {key: [] for key in entries}, []
    for number, row in enumerate(values["annotations"], start=1):
        try:
            item = _read_object(row, names, objects, number)
            objects[_id(row["image_id"])].append(item)
        except ValueError as error:
            problems.append(Problem(ProblemKind.BAD_OBJECT,
                                    f"{shorten(path)}, annotation {number}", str(error)))
    files = {key: _plain(item.get("file_name", "")) for key, item in entries.items()}
    rows = ((files[key], whole_size(item.get("width"), item.get("height")), objects[key],
             files[key]) for key, item in entries.items())
    annotations, faults = gather_rows(rows, ImageIndex(images), path.name)
    return annotations, problems + faults


def _load(path):
    """Return (all values, {id: image}, {id: class name}) of a COCO file."""
    try:
        values = json.loads(read_text(path, remedy="annotation_path must name a COCO JSON file."))
        missing = [part for part in PARTS if not isinstance(values, dict)
                   or not isinstance(values.get(part), list)]
        if missing:
            raise ValueError(f"no list of {', '.join(missing)}")
        entries = {_id(item["id"]): item for item in values["images"]}
        names = {_id(item["id"]): plain_name(_plain(item["name"])) for item in values["categories"]}
    except (KeyError, TypeError, AttributeError):
        error = "an image without id, or a category without id and name"
    except (ValueError, RecursionError) as caught:
        error = f"{caught!s:.100}"
    else:
        for part, found in (("images", entries), ("categories", names)):
            if len(found) != len(values[part]):
                raise UserError(f"{shorten(path)}: an id stands twice in {part!r}; give each its "
                                "own.")
        return values, entries, names
    raise UserError(f"{shorten(path)}: not COCO annotations ({error}); it needs images, "
                    "categories and annotations.") from None


def _read_object(row, names, images, number):
    """Return the SourceObject of an annotation; ValueError says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError(f"{_plain(row)[:60]!r} is no annotation")
    for field, known, what in (("category_id", names, "category"), ("image_id", images, "image")):
        if field not in row:
            raise ValueError(f"no {field}")
        if _id(row[field]) not in known:
            raise ValueError(f"{field} {_plain(row[field])[:60]!r} is the id of no {what}")
    try:
        x, y, width, height = (float(value) for value in row["bbox"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("no bbox of four numbers") from None
    return SourceObject(names[_id(row["category_id"])], (x, y, x + width, y + height),
                        is_true(row.get("iscrowd", 0)), f"annotation {number}")


def _id(value):
    """Return an id as text, so that 7, 7.0 and "7" are one."""
    if isinstance(value, (dict, list)) or value is None:
        raise ValueError(f"{_plain(value)[:60]!r} is no id")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else _plain(value)


def _plain(value):
    """Return a JSON value as text that can be printed: JSON may hold halves of characters."""
    return str(value).encode("utf-8", "replace").decode()
