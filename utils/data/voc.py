"""VOC's XML annotations.

This is the only place that knows VOC's pixels: its boxes count pixels from 1 and include the last
one; everywhere else a box is its edges, counted from 0.
"""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from utils.cli import UserError, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (
    Annotation,
    ImageIndex,
    Problem,
    ProblemKind,
    SourceObject,
    collector_paused,
    is_true,
    unreadable,
    walk_files,
    whole_size,
)

# What holds boxes in other tools' XML, in small letters.
SHAPES = {"bndbox", "xmin", "box", "bbox", "polygon", "polyline", "points", "shape", "track",
          "rect", "rectangle", "region", "ellipse", "mask"}


def read_voc(root: Path, progress=iter) -> tuple[list[Annotation], list[Problem]]:
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
            raise UserError(f"{root / name}: no such folder; put the files there, or set "
                            "VOCdevkit_path.")
    files = walk_files(root / "Annotations", (".xml",))
    if not files:
        raise UserError(f"{shorten(root)}/Annotations: no XML files. Put the annotations there and "
                        "the images into JPEGImages, or set VOCdevkit_path.")
    index = ImageIndex(root / "JPEGImages")
    with collector_paused():
        rows, broken, problems = _read_files(progress(files.items()))
        images = index.find_all([*(row[:2] for row in rows), *broken])
        annotations = [Annotation(key, origin, image, objects, size)
                       for (key, _, origin, objects, size), image in zip(rows, images)]
    used = set(images)
    problems += index.unread()
    problems += [Problem(ProblemKind.NO_ANNOTATION, shorten(path), "no XML file for this image")
                 for path in index.by_path.values() if path not in used]
    return annotations, problems


def _read_files(files):
    """Return (rows of key, file name, origin, objects and size; the same of unreadable files, key
    and None; problems)."""
    rows, broken, problems = [], [], []
    for relative, path in files:
        try:
            tree, data = parse_xml(path)
            objects, faults = voc_objects(tree, relative, data)
            if not objects and not faults:
                check_is_voc(tree, path)
            if data.count(b"<filename>") > 1 and len(tree.findall(".//filename/..")) > 1:
                raise UserError(f"{shorten(path)}: it describes several images; write an XML file "
                                "for each.")
        except UserError as error:
            problems.append(unreadable(error))
            broken.append((relative[:-4], None))
            continue
        problems += faults
        size = tree.find("size")
        if size is not None:
            size = whole_size(size.findtext("width"), size.findtext("height"))
        rows.append((relative[:-4], tree.findtext("filename"), relative, objects, size))
    return rows, broken, problems


def parse_xml(path):
    """Return (root element, bytes) of an XML file, with namespaces taken off its tags.

    Raises UserError naming the file for what is no XML, and for XML that defines entities: no
    annotation tool writes those.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        if b"<!ENTITY" in data or b"<\0!\0E\0N\0T" in data:
            raise UserError(f"{shorten(path)}: refused, the XML defines entities; remove them.")
        root = _parse_bytes(data)
        # UTF-16 has a zero behind each letter.
        if b"xmlns" in data or b"\0" in data:
            for node in root.iter():
                node.tag = node.tag.rpartition("}")[2]
        return root, data
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


def voc_objects(root, origin, data=b""):
    """Return (objects, problems) of a VOC annotation.

    1 is taken off xmin and ymin only: the pixels xmin..xmax then lie between the edges xmin - 1
    and xmax, and overlap in edges is the devkit's overlap in pixels. Boxes of <part> are not
    objects.

    Args:
        root: of parse_xml.
        origin: names the file in messages.
        data: the file, to tell whether tags are in another letter case, which is allowed.
    """
    small = data.lower()
    count = small.count(b"<object")
    # Only a file with more of these than objects, or none in plain bytes, can have one twice.
    several = not count or max(small.count(b"<bndbox"), small.count(b"<name")) > count
    objects, problems = _objects_in(root, origin, several)
    if problems or count > len(objects):
        for node in root.iter():
            node.tag = node.tag.lower()
        return _objects_in(root, origin, True)
    return objects, problems


def _objects_in(root, origin, several):
    objects, problems = [], []
    for number, node in enumerate(root.iter("object"), start=1):
        name, box = plain_name(node.findtext("name") or ""), node.find("bndbox")
        try:
            x1, y1 = float(box.findtext("xmin")), float(box.findtext("ymin"))
            x2, y2 = float(box.findtext("xmax")), float(box.findtext("ymax"))
            if not name or several and _twice(node) \
                    or len(box) != 4 and len(box) > len({edge.tag for edge in box}):
                raise ValueError
        except (AttributeError, TypeError, ValueError):
            problems.append(Problem(ProblemKind.BAD_OBJECT,
                                    f"{origin}, object {number} ({name or '?'})",
                                    _fault_of(node, name)))
            continue
        # The 1 belongs to the lower corner, whichever of the two that is; swapped stay swapped.
        left, right = (x1, x2 - 1) if x1 > x2 else (x1 - 1, x2)
        top, bottom = (y1, y2 - 1) if y1 > y2 else (y1 - 1, y2)
        objects.append(SourceObject(name, (left, top, right, bottom),
                                    is_true(node.findtext("difficult")), f"object {number}"))
    return objects, problems


def _twice(node):
    """Return which of its fields an <object> has several times, or None."""
    return next((tag for tag in ("name", "bndbox") if len(node.findall(tag)) > 1), None)


def _fault_of(node, name):
    """Return what is wrong with an <object>."""
    if tag := _twice(node):
        return f"{len(node.findall(tag))} x <{tag}> in one object; make it one object each"
    if name:
        return "no bndbox of four numbers, each once"
    return "no class name"


def check_is_voc(root, path):
    """Raise UserError for an annotation without <object> that holds objects of another form."""
    found = next((node for node in root.iter()
                  if node.tag.lower() in SHAPES or "xtl" in node.attrib), None)
    if root.tag.lower() != "annotation" or found is not None:
        held = "" if found is None else f", it holds <{found.tag[:60]}> and no <object>"
        raise UserError(f"{shorten(path)}: <{root.tag[:60]}> is no VOC annotation{held}; export "
                        "it as Pascal VOC, repair or remove it.")
