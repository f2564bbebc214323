"""VOC's XML annotations.

Only this file knows VOC's pixels: its boxes count pixels from 1 and include the last one.
Everywhere else a box is its edges, counted from 0.
"""

import gc
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from utils.cli import UserError, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, ImageIndex, Problem, SourceObject, int_size,
                                walk_files)


def read_voc(root: Path) -> tuple[list[Annotation], list[Problem]]:
    """Read a VOC folder: Annotations/**/*.xml and JPEGImages/**.

    Returns one Annotation per XML file, sorted, and the problems. Raises UserError where there is
    no XML file, or no image of one.
    """
    files = walk_files(root / "Annotations", (".xml",))
    if not files:
        raise UserError(f"{shorten(root)}/Annotations: no XML files; put the annotations there, "
                        "and the images into JPEGImages, or set VOCdevkit_path.")
    index = ImageIndex(root / "JPEGImages")
    items, names, problems = [], [], []
    gc.disable()  # the collector would walk again and again through all that was read so far
    try:
        for relative, path in files.items():
            item, name, faults = _read_file(relative, path)
            items.append(item)
            names.append(name)
            problems += faults
    finally:
        gc.enable()
    images = index.match([(item.key, name) for item, name in zip(items, names)])
    used = set(images)
    problems += [Problem("no annotation", shorten(path), "no XML file for this image")
                 for path in index.paths.values() if path not in used]
    return [item._replace(image=image) for item, image in zip(items, images)], problems


def _read_file(relative, path):
    """Return (Annotation without its image, file name or "", problems) of an XML file."""
    key = relative[:-len(".xml")]
    try:
        root = ElementTree.parse(path).getroot()
        objects, problems = _read_objects(root, relative)
        if not objects and not problems:
            tags = {node.tag for node in root.iter()}
            if root.tag != "annotation" or tags & {"bndbox", "box", "polygon"}:
                raise ValueError("no VOC annotation; export it as Pascal VOC")
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        problem = Problem("unreadable annotation", shorten(path), str(error))
        return Annotation(key, relative, None, None, None), "", [problem]
    size = int_size(root.findtext("size/width"), root.findtext("size/height"))
    return (Annotation(key, relative, None, objects, size), root.findtext("filename") or "",
            problems)


def _read_objects(root, origin):
    """Return (objects, problems) of a VOC annotation; boxes of <part> are not objects.

    1 is taken off xmin and ymin only: the pixels xmin..xmax then lie between the edges xmin - 1
    and xmax, and overlap in edges is the devkit's overlap in pixels.
    """
    objects, problems = [], []
    for number, node in enumerate(root.iter("object"), start=1):
        name = plain_name(node.findtext("name") or "")
        try:
            box, = node.findall("bndbox")
            x1, y1, x2, y2 = (float(box.findtext(edge))
                              for edge in ("xmin", "ymin", "xmax", "ymax"))
        except (TypeError, ValueError):
            problems.append(Problem("bad object", f"{origin}, object {number} ({name or '?'})",
                                    "not one bndbox of four numbers"))
            continue
        # The 1 belongs to the lower corner; swapped corners stay swapped, for the doctor.
        left, right = (x1, x2 - 1) if x1 > x2 else (x1 - 1, x2)
        top, bottom = (y1, y2 - 1) if y1 > y2 else (y1 - 1, y2)
        difficult = (node.findtext("difficult") or "").strip() in ("1", "true")
        objects.append(SourceObject(name, (left, top, right, bottom), difficult,
                                    f"object {number}"))
    return objects, problems
