"""Annotations as labelling tools write them, and VOC's XML; others are in other_sources.py.

Every reader gives a list of Annotation, one a picture, with boxes as edges in pixels. This is the
only place that knows VOC's pixels: its boxes count pixels from 1 and include the last one;
everywhere else a box is its edges, counted from 0.
"""

import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from utils.cli import UserError, shorten
from utils.image import IMAGE_SUFFIXES

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
    place: str  # "object 3", "line 7": where it stands in the file


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
            self.by_name.setdefault(path.name.lower(), []).append(path)
            self.bare.setdefault(path.stem, []).append(path)

    def find(self, stem, filename=None):
        """Return the picture of an annotation, or None.

        By the same path without ending (the file name that the annotation holds decides where
        endings differ), then by that file name, then by the bare name; a name that several
        pictures share finds none.
        """
        name = (filename or "").replace("\\", "/")
        if name in self.by_path and os.path.splitext(name)[0] == stem:
            return self.by_path[name]
        if stem in self.by_stem:
            return self.by_stem[stem]
        if name in self.by_path:
            return self.by_path[name]
        for same in (self.by_name.get(name.rpartition("/")[2].lower(), []),
                     self.bare.get(stem.rpartition("/")[2], [])):
            if len(same) == 1:
                return same[0]
        return None


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
    index, annotations, problems, used = PictureIndex(root / "JPEGImages"), [], [], set()
    for relative, path in progress(files.items()):
        key = relative[:-4]
        try:
            tree = parse_xml(path)
            if tree.tag != "annotation" and tree.find(".//object") is None:
                raise UserError(f"{shorten(path)}: <{tree.tag[:60]}> is no VOC annotation; "
                                "repair or remove it.")
        except UserError as error:
            problems.append(unreadable(error))
            used.add(index.find(key))
            continue
        objects, faults = voc_objects(tree, relative)
        problems += faults
        picture = index.find(key, tree.findtext("filename"))
        size = whole_size(tree.findtext("size/width"), tree.findtext("size/height"))
        annotations.append(Annotation(key, relative, picture, objects, size))
    used |= {annotation.picture for annotation in annotations}
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
        if b"xmlns" not in data.replace(b"\0", b""):  # UTF-16 has a zero behind each letter
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
        # The 1 belongs to the lower corner, whichever of the two that is.
        (left, right), (top, bottom) = _edges(x1, x2), _edges(y1, y2)
        objects.append(SourceObject(name, (left, top, right, bottom), difficult,
                                    f"object {number}"))
    return objects, problems


def _edges(low, high):
    """Return the edges around VOC's pixels low..high; swapped ones stay swapped."""
    return (low, high - 1) if low > high else (low - 1, high)


def whole_size(width, height):
    """Return (width, height) as whole numbers where both make sense, else None."""
    try:
        width, height = int(float(width)), int(float(height))
    except (TypeError, ValueError, OverflowError):
        return None
    return (width, height) if min(width, height) > 0 else None
