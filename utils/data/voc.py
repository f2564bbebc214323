"""VOC's XML annotations.

This is the only place that knows VOC's pixels: its boxes count pixels from 1 and include the last
one; everywhere else a box is its edges, counted from 0.
"""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from utils.cli import UserError, shorten
from utils.data.sources import (
    TRUE_WORDS,
    Annotation,
    ImageIndex,
    Problem,
    ProblemKind,
    SourceObject,
    unreadable,
    walk_files,
    whole_size,
)


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
                        "the images into JPEGImages, or set VOCdevkit_path.")
    index, annotations, problems, used = ImageIndex(root / "JPEGImages"), [], [], set()
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
        image = index.find(key, tree.findtext("filename"))
        size = whole_size(tree.findtext("size/width"), tree.findtext("size/height"))
        annotations.append(Annotation(key, relative, image, objects, size))
    used |= {annotation.image for annotation in annotations}
    problems += [Problem(ProblemKind.NO_ANNOTATION, shorten(path), "no XML file for this image")
                 for path in index.by_path.values() if path not in used]
    return annotations, problems


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
            problems.append(Problem(ProblemKind.BAD_OBJECT, f"{origin}, object {number} ({name or '?'})",
                                    "no bndbox of four numbers"))
            continue
        if not name:
            problems.append(Problem(ProblemKind.BAD_OBJECT, f"{origin}, object {number}", "no class name"))
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
