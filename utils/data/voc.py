"""VOC's XML annotations.

This is the only place that knows VOC's pixels: its boxes count pixels from 1 and include the last
one; everywhere else a box is its edges, counted from 0.
"""

import re
import xml.etree.ElementTree as ElementTree
from operator import attrgetter
from pathlib import Path

from utils.cli import UserError, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, ImageIndex, Problem, ProblemKind, SourceObject,
                                collector_paused, is_true, unreadable, walk_files, whole_size)

# What holds boxes in other tools' XML.
SHAPES = {"bndbox", "xmin", "box", "bbox", "polygon", "polyline", "points", "shape", "track",
          "rect", "rectangle", "region", "ellipse", "mask"}


def read_voc(root: Path, progress=iter) -> tuple[list[Annotation], list[Problem]]:
    """Read a VOC folder: Annotations/**/*.xml and JPEGImages/**.

    Annotations are sorted by key. `progress` is wrapped around the files, such as tqdm. Raises
    UserError where a folder is missing or there are no XML files.
    """
    for name in ("Annotations", "JPEGImages"):
        if not (root / name).is_dir():
            raise UserError(f"{root / name}: no such folder; put the files there, or set "
                            "VOCdevkit_path.")
    files = walk_files(root / "Annotations", (".xml",))
    if not files:
        raise UserError(f"{shorten(root)}/Annotations: no XML files. Put the annotations there and "
                        "the images into JPEGImages, or set VOCdevkit_path.")
    index, problems, wanted, items = ImageIndex(root / "JPEGImages"), [], [], []
    with collector_paused():
        for relative, path in progress(files.items()):
            name = None
            try:
                tree = parse_xml(path)
                name, size, objects, faults = read_tree(tree, relative, path)
                items.append(Annotation(relative[:-4], relative, None, objects, size))
                problems += faults
            except UserError as error:
                problems.append(unreadable(error))
                items.append(None)  # but it has its image
            wanted.append((relative[:-4], name))
    images = index.find_all(wanted)
    unused = {*index.by_path.values()}.difference(images)
    problems += index.unread()
    problems += [Problem(ProblemKind.NO_ANNOTATION, shorten(path), "no XML file for this image")
                 for path in index.by_path.values() if path in unused]
    return [item._replace(image=image) for item, image in zip(items, images) if item], problems


def parse_xml(path):
    """Return the root element of an XML file; tags are without namespaces, in small letters.

    Raises UserError naming the file for what is no XML, and for XML that defines entities: no
    annotation tool writes those.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        if b"<!ENTITY" in data or b"<\0!\0E\0N\0T" in data:
            raise UserError(f"{shorten(path)}: refused, the XML defines entities; remove them.")
        root = _parse_bytes(data)
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{shorten(path)}: not a readable XML file ({reason}); "
                        "repair or remove it.") from None
    tags = "".join(set(map(attrgetter("tag"), root.iter())))
    if "}" in tags or tags != tags.lower():
        for node in root.iter():
            node.tag = node.tag.rpartition("}")[2].lower()
    return root


def _parse_bytes(data):
    """Parse XML in any encoding that Python knows; the parser itself lacks the Asian ones."""
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        declared = re.match(rb"\s*<\?xml[^>]*encoding=[\"']([\w.-]+)[\"'][^>]*\?>", data[:200])
        # utf-7, unicode_escape and the like would let entities in, past the look at the bytes.
        if not declared or declared[1].lower().startswith((b"u", b"raw")):
            raise
        return ElementTree.fromstring(data[declared.end():].decode(declared[1].decode()))


def read_tree(root, origin, path):
    """Return (file name or None, size or None, objects, problems) of what parse_xml gives.

    Raises UserError for XML that is no VOC annotation of one image.
    """
    objects, problems = voc_objects(root, origin)
    if not objects and not problems:
        check_is_voc(root, path)
    strays = len(list(root.iter("bndbox"))) - len(objects)
    if strays:  # of parts, or of what is a problem already?
        strays += len(objects) - sum(len(node.findall("bndbox") + node.findall("part/bndbox"))
                                     for node in root.iter("object"))
    if strays > 0:
        problems.append(Problem(ProblemKind.BAD_OBJECT, origin,
                                f"{strays} x <bndbox> outside of <object> or deep inside of one"))
    if len(list(root.iter("filename"))) > 1 and len(root.findall(".//filename/..")) > 1:
        raise UserError(f"{shorten(path)}: it describes several images; write an XML file for "
                        "each.")
    size = root.find("size")
    if size is not None:
        size = whole_size(size.findtext("width"), size.findtext("height"))
    return root.findtext("filename"), size, objects, problems


def voc_objects(root, origin):
    """Return (objects, problems) of the root of a VOC annotation; `origin` names it in messages.

    1 is taken off xmin and ymin only: the pixels xmin..xmax then lie between the edges xmin - 1
    and xmax, and overlap in edges is the devkit's overlap in pixels. Boxes of <part> are not
    objects.
    """
    objects, problems = [], []
    for number, node in enumerate(root.iter("object"), start=1):
        try:
            (label,), (box,) = node.findall("name"), node.findall("bndbox")
            name = plain_name(label.text or "")
            x1, y1 = float(box.findtext("xmin")), float(box.findtext("ymin"))
            x2, y2 = float(box.findtext("xmax")), float(box.findtext("ymax"))
            if not name or len(box) != 4 and len(box) > len({edge.tag for edge in box}):
                raise ValueError
        except (TypeError, ValueError):
            name = plain_name(node.findtext("name") or "")
            fault = "no bndbox of four numbers, or a field twice" if name else "no class name"
            problems.append(Problem(ProblemKind.BAD_OBJECT,
                                    f"{origin}, object {number} ({name or '?'})", fault))
            continue
        # The 1 belongs to the lower corner, whichever of the two that is; swapped stay swapped.
        left, right = (x1, x2 - 1) if x1 > x2 else (x1 - 1, x2)
        top, bottom = (y1, y2 - 1) if y1 > y2 else (y1 - 1, y2)
        objects.append(SourceObject(name, (left, top, right, bottom),
                                    is_true(node.findtext("difficult")), f"object {number}"))
    return objects, problems


def check_is_voc(root, path):
    """Raise UserError for an annotation without <object> that holds objects of another form."""
    found = next((node for node in root.iter() if node.tag in SHAPES or "xtl" in node.attrib), None)
    if root.tag != "annotation" or found is not None:
        held = "" if found is None else f", it holds <{found.tag[:60]}> and no <object>"
        raise UserError(f"{shorten(path)}: <{root.tag[:60]}> is no VOC annotation{held}; export "
                        "it as Pascal VOC, repair or remove it.")
