"""Annotations in COCO's JSON."""

import json
import os

from utils.cli import UserError, read_text, shorten
from utils.data.sources import Annotation, ImageIndex, Problem, ProblemKind, SourceObject, whole_size


def read_coco(path, images):
    """Read a COCO JSON file; its images lie under the folder `images`.

    Boxes are [x, y, width, height] from 0; crowds become difficult.

    Returns and raises as read_voc.
    """
    try:
        values = json.loads(read_text(path, remedy="annotation_path must name a COCO JSON file."))
        entries = {item["id"]: item for item in values["images"]}
        names = {item["id"]: _plain(item["name"]).strip() for item in values["categories"]}
        rows = list(values["annotations"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{shorten(path)}: not COCO annotations ({error!r:.200}); it needs images, "
                        "categories and annotations.") from None
    for part, found in (("images", entries), ("categories", names)):
        if len(found) != len(values[part]):
            raise UserError(f"{shorten(path)}: an id stands twice in {part!r}; give each its own.")
    objects, problems = {key: [] for key in entries}, []
    for number, row in enumerate(rows, start=1):
        try:
            x, y, width, height = (float(value) for value in row["bbox"])
            item = SourceObject(names[row["category_id"]], (x, y, x + width, y + height),
                                bool(row.get("iscrowd", 0)), f"annotation {number}")
            objects[row["image_id"]].append(item)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problems.append(Problem(ProblemKind.BAD_OBJECT, f"{shorten(path)}, annotation {number}",
                                    f"missing or wrong: {_plain(repr(error))[:200]}"))
    index, annotations = ImageIndex(images), {}
    for key, item in entries.items():
        name = _plain(item.get("file_name", ""))
        if name in annotations:  # two ids, one image
            annotations[name].objects.extend(objects[key])
            continue
        size = whole_size(item.get("width"), item.get("height"))
        image = index.find(os.path.splitext(name)[0], name)
        annotations[name] = Annotation(name, f"{path.name}, {name}", image, objects[key], size)
    return list(annotations.values()), problems


def _plain(value):
    """Return a JSON value as text that can be printed: JSON may hold halves of characters."""
    return str(value).encode("utf-8", "replace").decode()
