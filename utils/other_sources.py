"""Annotations in COCO's JSON, YOLO's text files, and CSV tables; see sources.py for VOC's."""

import csv
import io
import json
import os
import re

from utils.cli import UserError, read_text, shorten
from utils.image import IMAGE_SUFFIXES, picture_size
from utils.sources import (TRUE_WORDS, Annotation, PictureIndex, Problem, SourceObject, unreadable,
                           walk_files, whole_size)


def read_coco(path, images):
    """Read a COCO JSON file; its pictures lie under the folder `images`.

    Boxes are [x, y, width, height] from 0; crowds become difficult.

    Returns and raises as read_voc.
    """
    try:
        values = json.loads(read_text(path, remedy="annotation_path must name a COCO JSON file."))
        pictures = {item["id"]: item for item in values["images"]}
        names = {item["id"]: _plain(item["name"]).strip() for item in values["categories"]}
        rows = list(values["annotations"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{shorten(path)}: not COCO annotations ({error!r:.200}); it needs images, "
                        "categories and annotations.") from None
    for part, found in (("images", pictures), ("categories", names)):
        if len(found) != len(values[part]):
            raise UserError(f"{shorten(path)}: an id stands twice in {part!r}; give each its own.")
    objects, problems = {key: [] for key in pictures}, []
    for number, row in enumerate(rows, start=1):
        try:
            x, y, width, height = (float(value) for value in row["bbox"])
            item = SourceObject(names[row["category_id"]], (x, y, x + width, y + height),
                                bool(row.get("iscrowd", 0)), f"annotation {number}")
            objects[row["image_id"]].append(item)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problems.append(Problem("bad object", f"{shorten(path)}, annotation {number}",
                                    f"missing or wrong: {_plain(repr(error))[:200]}"))
    index, annotations = PictureIndex(images), {}
    for key, item in pictures.items():
        name = _plain(item.get("file_name", ""))
        if name in annotations:  # two ids, one picture
            annotations[name].objects.extend(objects[key])
            continue
        size = whole_size(item.get("width"), item.get("height"))
        picture = index.find(os.path.splitext(name)[0], name)
        annotations[name] = Annotation(name, f"{path.name}, {name}", picture, objects[key], size)
    return list(annotations.values()), problems


def _plain(value):
    """Return a JSON value as text that can be printed: JSON may hold halves of characters."""
    return str(value).encode("utf-8", "replace").decode()


def read_yolo(folder):
    """Read YOLO text files: a line an object, `class cx cy width height` as fractions.

    Pictures lie anywhere under the folder; the text file has the picture's name and lies beside
    it, or in `labels` where the picture lies in `images`. Class names come from data.yaml,
    classes.txt or obj.names, in the folder, its `labels`, or the one above.

    Returns and raises as read_voc.
    """
    names = yolo_names(folder)
    annotations, problems, used = [], [], set()
    for relative, picture in walk_files(folder, IMAGE_SUFFIXES).items():
        place = os.path.splitext(relative)[0] + ".txt"
        beside = folder / place
        labels = folder / re.sub(r"(^|/)images/", r"\1labels/", place)
        file = labels if labels.is_file() else beside
        objects = []
        used.add(file)
        try:
            size = picture_size(picture)
        except UserError:
            size = None  # the doctor will say so
        if size and file.is_file():
            try:
                objects, faults = _yolo_objects(file, size, names)
            except UserError as error:
                problems.append(unreadable(error))
                continue
            problems += faults
        annotations.append(Annotation(os.path.splitext(relative)[0], shorten(file), picture,
                                      objects, None))
    problems += [Problem("picture missing", shorten(file), "no picture for this file of labels")
                 for relative, file in walk_files(folder, (".txt",)).items()
                 if "labels/" in relative and file not in used and file.name != "classes.txt"]
    if not annotations:
        raise UserError(f"{shorten(folder)}: no pictures in it; annotation_path must name the "
                        "folder of images and labels.")
    return annotations, problems


def _yolo_objects(file, size, names):
    width, height = size
    objects, problems = [], []
    for number, line in enumerate(read_text(file, remedy="").splitlines(), start=1):
        if not line.split():
            continue
        try:
            # A sixth number is a confidence; more are a polygon or key points.
            label, cx, cy, w, h, *_ = (float(value) for value in line.split())
            if len(line.split()) > 6:
                raise ValueError
            if label < 0 or label != int(label):
                raise IndexError
            name = names[int(label)]
        except (ValueError, IndexError, OverflowError):
            problems.append(Problem("bad object", f"{shorten(file)}, line {number}",
                                    f"{line.strip()[:60]!r} is not a known class and four "
                                    "fractions"))
            continue
        box = ((cx - w / 2) * width, (cy - h / 2) * height,
               (cx + w / 2) * width, (cy + h / 2) * height)
        objects.append(SourceObject(name, box, False, f"line {number}"))
    return objects, problems


def yolo_names(folder):
    """Return the class names of a YOLO folder in the order of their numbers.

    Raises UserError where no file has them.
    """
    for place in (folder, folder / "labels", folder.parent):
        for name in ("classes.txt", "obj.names", "_darknet.labels"):
            if (place / name).is_file():
                lines = read_text(place / name, remedy="").splitlines()
                return [line.strip() for line in lines if line.strip()]
        for name in ("data.yaml", "data.yml"):
            if (place / name).is_file():
                names = _yaml_names(read_text(place / name, remedy=""))
                if names:
                    return names
    raise UserError(f"{shorten(folder)}: no class names; put a data.yaml or classes.txt there.")


def _yaml_names(text):
    """Return `names` of a data.yaml: an inline list, a block list, or a mapping from numbers."""
    lines = [re.sub(r"(^|\s)#.*", "", line).rstrip() for line in text.splitlines()]
    start = next((k for k, line in enumerate(lines) if line.startswith("names:")), None)
    if start is None:
        return []
    body = [lines[start].removeprefix("names:")]
    for line in lines[start + 1:]:
        if line and not line.startswith((" ", "\t", "-", "]", "}")):
            break
        body.append(line)
    inline = "\n".join(body).strip()
    if inline.startswith(("[", "{")):
        items = re.findall(r"(?:\d+\s*:\s*)?(?:'[^']*'|\"[^\"]*\")"
                           r"|[^,\[\]{}\s'\"][^,\[\]{}\n]*", inline)
    else:
        items = [line.strip().removeprefix("-") for line in body]
    items = [item.strip() for item in items if item.strip()]
    numbered = [re.fullmatch(r"(\d+)\s*:\s*(.*)", item) for item in items]
    if items and all(numbered):
        items = [match[2] for match in sorted(numbered, key=lambda match: int(match[1]))]
    return [item.strip("'\"") for item in items]


# What other tools call the columns.
CSV_COLUMNS = {"file": ("filename", "file", "image", "image_path", "path", "img"),
               "name": ("class", "label", "name", "class_name", "category"),
               "x1": ("xmin", "x1", "left"), "y1": ("ymin", "y1", "top"),
               "x2": ("xmax", "x2", "right"), "y2": ("ymax", "y2", "bottom"),
               "width": ("width", "image_width"), "height": ("height", "image_height"),
               "difficult": ("difficult",)}
CSV_NEEDED = ("file", "name", "x1", "y1", "x2", "y2")


def read_csv(path, images):
    """Read a CSV file with an object a row; its pictures lie under the folder `images`.

    The first row names the columns (filename, class, xmin, ymin, xmax, ymax; width, height and
    difficult where there are some); coordinates are edges from 0. A row with an empty class is a
    picture without objects.

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
    index, found, problems = PictureIndex(images), {}, []
    for number, row in enumerate(rows[1:], start=2):
        cells = {field: row[place].strip() if place is not None and place < len(row) else ""
                 for field, place in places.items()}
        file, edges = cells["file"], [cells[edge] for edge in ("x1", "y1", "x2", "y2")]
        if not file:
            if any(row):
                problems.append(Problem("bad object", f"{shorten(path)}, line {number}",
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
            problems.append(Problem("bad object", f"{shorten(path)}, line {number}",
                                    "a coordinate is no number"))
            continue
        if not cells["name"]:
            problems.append(Problem("bad object", f"{shorten(path)}, line {number}",
                                    "no class name"))
            continue
        found[file].objects.append(SourceObject(cells["name"], box,
                                                cells["difficult"].lower() in TRUE_WORDS,
                                                f"line {number}"))
    return list(found.values()), problems
