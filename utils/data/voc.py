"""VOC's XML annotations.

Only this file knows VOC's pixels: its boxes count pixels from 1 and include the last one.
Everywhere else a box is its edges, counted from 0.
"""

import gc
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from pathlib import Path

from utils.cli import UserError, shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, ImageIndex, Problem, ProblemKind, SourceObject,
                                int_size, is_true, unreadable, walk_files)

# Elements that hold boxes in the XML of other tools.
SHAPES = {"object", "bndbox", "xmin", "box", "bbox", "polygon", "polyline", "points", "shape",
          "track", "rect", "rectangle", "region", "ellipse", "mask"}


def read_voc(root: Path, progress: Callable[[Iterable], Iterable] = iter
             ) -> tuple[list[Annotation], list[Problem]]:
    """Read a VOC folder: Annotations/**/*.xml and JPEGImages/**.

    `progress`, such as tqdm, is wrapped around the files. Returns one Annotation per XML file,
    sorted by key, and the problems. Raises UserError where a folder is missing or there is no XML
    file.
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
    items, names, problems = [], [], []
    gc.disable()  # else the collector walks again and again through all objects read so far
    try:
        for relative, path in progress(files.items()):
            item, name, faults = _read_file(relative, path)
            items.append(item)
            names.append(name)
            problems += faults
    finally:
        gc.enable()
    images = index.match([(item.key, name) for item, name in zip(items, names)])
    used = set(images)
    problems += index.problems
    problems += [Problem(ProblemKind.NO_ANNOTATION, shorten(path), "no XML file for this image")
                 for path in index.paths.values() if path not in used]
    return [item._replace(image=image) for item, image in zip(items, images)], problems


def _read_file(relative, path):
    """Return (Annotation without its image, file name or "", problems) of an XML file."""
    key = relative[:-len(".xml")]
    try:
        root = parse_xml(path)
        objects, problems = voc_objects(root, relative)
        if not objects and not problems:
            check_background(root, path)
    except UserError as error:
        return Annotation(key, relative, None, None, None), "", [unreadable(error)]
    size = int_size(root.findtext("size/width"), root.findtext("size/height"))
    name = root.findtext("filename") or ""
    return Annotation(key, relative, None, objects, size), name, problems


def parse_xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file; UserError names a file that cannot be read."""
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise UserError(f"{shorten(path)}: not a readable XML file ({error}); repair or remove it."
                        ) from None


def voc_objects(root: ElementTree.Element, origin: str
                ) -> tuple[list[SourceObject], list[Problem]]:
    """Return (objects, problems) of a VOC annotation; `origin` names it in messages.

    1 is taken off xmin and ymin only: the pixels xmin..xmax then lie between the edges xmin - 1
    and xmax, and overlap in edges is the devkit's overlap in pixels. Boxes of <part> are not
    objects.
    """
    objects, problems = [], []
    for number, node in enumerate(root.iter("object"), start=1):
        name = plain_name(node.findtext("name") or "")
        try:
            box, = node.findall("bndbox")
            x1, y1, x2, y2 = (float(box.findtext(edge))
                              for edge in ("xmin", "ymin", "xmax", "ymax"))
            if not name:
                raise ValueError
        except (TypeError, ValueError):
            problems.append(Problem(
                ProblemKind.BAD_OBJECT, f"{origin}, object {number} ({name or '?'})",
                "not one bndbox of four numbers" if name else "no class name"))
            continue
        # The 1 belongs to the lower corner; swapped corners stay swapped, for the doctor.
        left, right = (x1, x2 - 1) if x1 > x2 else (x1 - 1, x2)
        top, bottom = (y1, y2 - 1) if y1 > y2 else (y1 - 1, y2)
        objects.append(SourceObject(name, (left, top, right, bottom),
                                    is_true(node.findtext("difficult")), f"object {number}"))
    return objects, problems


def check_background(root: ElementTree.Element, path: Path) -> None:
    """Raise UserError for XML without <object> that is not the VOC annotation of a background."""
    tags = {node.tag.rpartition("}")[2].lower() for node in root.iter()}
    if root.tag != "annotation" or tags & SHAPES:
        held = "".join(f", it has <{tag}>" for tag in sorted(tags & SHAPES)[:1])
        raise UserError(f"{shorten(path)}: <{root.tag:.60}> is not a VOC annotation{held}; export "
                        "it as Pascal VOC, repair or remove it.")
