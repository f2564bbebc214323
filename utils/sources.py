"""Annotations as other tools write them: VOC XML, COCO JSON, YOLO text, CSV.

Every reader gives a list of Annotation, one a picture, with boxes as edges in pixels. This is the
only place that knows VOC's pixels: its boxes count pixels from 1 and include the last one;
everywhere else a box is its edges, counted from 0.
"""

import csv
import io
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from utils.cli import UserError, read_text, shorten
from utils.image import IMAGE_SUFFIXES, picture_size

TRUE_WORDS = ("1", "true", "yes", "y", "t")
# In a file name these would break the lines of lists and splits, or cannot be written as UTF-8.
UNLISTABLE = re.compile(r"[\n\v\f\r\x1c-\x1e\x85\u2028\u2029\ud800-\udfff]")


class Problem(NamedTuple):
    """One thing that is wrong with a data set."""

    kind: str  # of doctor.KINDS
    where: str  # file, and number of the object
    what: str


class SourceObject(NamedTuple):
    """An object as the source has it."""

    name: str
    box_px: tuple[float, float, float, float]  # xyxy edges counted from 0; may be NaN or outside
    difficult: bool


class Annotation(NamedTuple):
    """What a source says about one picture."""

    key: str  # names the picture in split files
    origin: str  # the file to look into, for messages
    picture: Path | None  # None: not found
    objects: list[SourceObject]
    size: tuple[int, int] | None  # (width, height) that the source gives, where it makes sense


def walk_files(folder, suffixes):
    """Return {path relative to folder, as text with slashes: absolute Path}, sorted.

    Linked folders are not entered, so that circles of links end; pipes and devices, which may
    never end, are passed over. Raises UserError for a name that no list can hold.
    """
    found = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in suffixes:
                path = Path(place, name)
                if UNLISTABLE.search(str(path)):
                    raise UserError(f"{str(path)!a}: a line break, or a letter that is not UTF-8, "
                                    "is in the name; rename it.")
                if path.exists() and not path.is_file():
                    continue
                found[path.relative_to(folder).as_posix()] = path
    return found


class PictureIndex:
    """Finds pictures by name under a folder, sub-folders included."""

    def __init__(self, folder):
        self.by_path = walk_files(folder, IMAGE_SUFFIXES)
        self.by_stem, self.by_name, self.bare = {}, {}, {}
        for relative, path in self.by_path.items():
            self.by_stem.setdefault(os.path.splitext(relative)[0], path)
            self.by_name.setdefault(path.name, path)
            self.bare.setdefault(path.stem, []).append(path)

    def find(self, stem, filename=None):
        """Return the picture of an annotation, or None.

        By the same path without ending, then by the file name that the annotation holds, then by
        the bare name where only one picture has it.
        """
        if stem in self.by_stem:
            return self.by_stem[stem]
        if filename:
            name = filename.replace("\\", "/")
            if name in self.by_path:
                return self.by_path[name]
            if name.rpartition("/")[2] in self.by_name:
                return self.by_name[name.rpartition("/")[2]]
        same = self.bare.get(stem.rpartition("/")[2], [])
        return same[0] if len(same) == 1 else None


def read_voc(root, progress=iter):
    """Read a VOC folder: Annotations/**/*.xml and JPEGImages/**.

    Args:
        root: Path of VOC2007 or the like.
        progress: wrapped around the files, such as tqdm.

    Returns:
        (list of Annotation sorted by key, list of Problem).

    Raises:
        UserError: a folder is missing or there are no XML files.
    """
    for name in ("Annotations", "JPEGImages"):
        if not (root / name).is_dir():
            raise UserError(f"{shorten(root / name)}: no such folder; put the files there, or set "
                            "VOCdevkit_path.")
    files = walk_files(root / "Annotations", (".xml",))
    if not files:
        raise UserError(f"{shorten(root)}/Annotations: no XML files. Put the annotations there and "
                        "the pictures into JPEGImages, or set VOCdevkit_path.")
    index, annotations, problems = PictureIndex(root / "JPEGImages"), [], []
    for relative, path in progress(files.items()):
        key = relative[:-4]
        try:
            tree = parse_xml(path)
            if tree.tag != "annotation" and tree.find(".//object") is None:
                raise UserError(f"{shorten(path)}: <{tree.tag[:60]}> is no VOC annotation; "
                                "repair or remove it.")
        except UserError as error:
            problems.append(unreadable(error))
            continue
        objects, faults = voc_objects(tree, relative)
        problems += faults
        picture = index.find(key, tree.findtext("filename"))
        annotations.append(Annotation(key, relative, picture, objects, voc_size(tree)))
    used = {annotation.picture for annotation in annotations}
    problems += [Problem("no annotation", shorten(path), "no XML file for this picture")
                 for path in index.by_path.values() if path not in used]
    return annotations, problems


def unreadable(error):
    """Return the Problem of an annotation file that cannot be read."""
    where, _, what = str(error).partition(": ")
    return Problem("unreadable annotation", where, what)


def parse_xml(path):
    """Return the root element of an XML file, with namespaces taken off its tags.

    Raises UserError naming the file for what is no XML, and for XML that defines entities: no
    annotation tool writes those.
    """
    try:
        data = Path(path).read_bytes()
        if b"<!ENTITY" in data or b"<\0!\0E\0N\0T" in data:
            raise UserError(f"{shorten(path)}: refused, the XML defines entities; remove them.")
        if b"xmlns" not in data:
            return _parse_bytes(data)
        root = _parse_bytes(data)
        for node in root.iter():
            node.tag = node.tag.rpartition("}")[2]
        return root
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{shorten(path)}: not a readable XML file ({reason}); "
                        "repair or remove it.") from None


def _parse_bytes(data):
    """Parse XML in any encoding that Python knows; the parser itself lacks the Asian ones."""
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        declared = re.match(rb"\s*<\?xml[^>]*encoding=[\"']([\w.-]+)[\"'][^>]*\?>", data[:200])
        if not declared or declared[1].lower().startswith((b"u", b"raw")):  # no escapes: see above
            raise
        return ElementTree.fromstring(data[declared.end():].decode(declared[1].decode()))


def voc_objects(root, origin):
    """Return (objects, problems) of a VOC annotation.

    1 is taken off xmin and ymin only: the pixels xmin..xmax then lie between the edges xmin - 1
    and xmax, and overlap in edges is the devkit's overlap in pixels. Boxes of <part> are not
    objects.
    """
    objects, problems = [], []
    for number, node in enumerate(root.iter("object"), start=1):
        name = (node.findtext("name") or "").strip()
        box = node.find("bndbox")
        try:
            x1, y1, x2, y2 = (float(box.findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax"))
        except (AttributeError, TypeError, ValueError):
            problems.append(Problem("bad object", f"{origin}, object {number} ({name or '?'})",
                                    "no bndbox of four numbers"))
            continue
        if not name:
            problems.append(Problem("bad object", f"{origin}, object {number}", "no class name"))
            continue
        difficult = (node.findtext("difficult") or "").strip().lower() in TRUE_WORDS
        objects.append(SourceObject(name, (x1 - 1, y1 - 1, x2, y2), difficult))
    return objects, problems


def voc_size(root):
    """Return (width, height) from <size>, None where it is missing, zero or no number."""
    try:
        width, height = (int(float(root.findtext(f"size/{tag}"))) for tag in ("width", "height"))
    except (TypeError, ValueError, OverflowError):
        return None
    return (width, height) if min(width, height) > 0 else None


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
                                bool(row.get("iscrowd", 0)))
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
        annotations[name] = Annotation(name, f"{path.name}, {name}", index.find(name, name),
                                       objects[key], _size(item.get("width"), item.get("height")))
    return list(annotations.values()), problems


def _plain(value):
    """Return a JSON value as text that can be printed: JSON may hold halves of characters."""
    return str(value).encode("utf-8", "replace").decode()


def read_yolo(folder):
    """Read YOLO text files: a line an object, `class cx cy width height` as fractions.

    Pictures lie anywhere under the folder; the text file has the picture's name and lies beside
    it, or in `labels` where the picture lies in `images`. Class names come from data.yaml,
    classes.txt or obj.names, in the folder or the one above.

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
        if file.is_file():
            try:
                objects, faults = _yolo_objects(file, picture, names)
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


def _yolo_objects(file, picture, names):
    width, height = picture_size(picture)
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
        objects.append(SourceObject(name, box, False))
    return objects, problems


def yolo_names(folder):
    """Return the class names of a YOLO folder in the order of their numbers.

    Raises UserError where no file has them.
    """
    for place in (folder, folder.parent):
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
    match = re.search(r"^names:[ \t]*(.*(?:\n[ \t]+.*|\n-.*|\n\])*)", text, re.MULTILINE)
    if not match:
        return []
    body = re.sub(r"(^|\s)#.*", "", match[1])
    if body.strip().startswith(("[", "{")):
        items = re.findall(r"'([^']*)'|\"([^\"]*)\"|([^,\[\]{}\n]+)", body)
        items = ["".join(item).strip() for item in items]
    else:
        items = [line.strip().lstrip("-").strip() for line in body.splitlines()]
    items = [re.sub(r"^\d+\s*:\s*", "", item).strip("'\" ") for item in items]
    return [item for item in items if item]


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
                                     _size(cells["width"], cells["height"]))
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
                                                cells["difficult"].lower() in TRUE_WORDS))
    return list(found.values()), problems


def _size(width, height):
    """Return (width, height) as whole numbers where both make sense, else None."""
    try:
        width, height = int(float(width)), int(float(height))
    except (TypeError, ValueError, OverflowError):
        return None
    return (width, height) if min(width, height) > 0 else None
