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
                                int_size, is_true, walk_files)

# Elements that hold boxes in the XML of other tools.
SHAPES = {"object", "bndbox", "xmin", "box", "bbox", "polygon", "polyline", "points", "shape",
          "track", "rect", "rectangle", "region", "ellipse", "mask"}


def read_voc(root: Path, progress: Callable[[Iterable], Iterable] = iter
             ) -> tuple[list[Annotation], list[Problem]]:
    """Read a VOC folder: Annotations/**/*.xml and JPEGImages/**.

    `progress`, such as tqdm, is wrapped around the files. Returns one Annotation per XML file,
    sorted, and the problems. Raises UserError for a missing folder and where there is no XML file.
    """
    for name in ("Annotations", "JPEGImages"):
        if not (root / name).is_dir():
            raise UserError(f"{root / name}: no such folder; put the files there, or set "
                            "VOCdevkit_path.")
    files = walk_files(root / "Annotations", (".xml",))
    if not files:
        raise UserError(f"{shorten(root)}/Annotations: no XML files; put the annotations there, "
                        "and the images into JPEGImages, or set VOCdevkit_path.")
    index = ImageIndex(root / "JPEGImages")
    items, names, problems = [], [], []
    gc.disable()  # the collector would walk again and again through all that was read so far
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
    problems += [Problem(ProblemKind.NO_ANNOTATION, shorten(path), "no XML file for this image")
                 for path in index.paths.values() if path not in used]
    return [item._replace(image=image) for item, image in zip(items, images)], problems


def _read_file(relative, path):
    """Return (Annotation without its image, file name or "", problems) of an XML file."""
    key = relative[:-len(".xml")]
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        root, fault = None, f"not a readable XML file ({error}); repair or remove it"
    else:
        objects, problems = voc_objects(root, relative)
        fault = "" if objects or problems else _fault_of_background(root)
    if fault:
        problem = Problem(ProblemKind.UNREADABLE_ANNOTATION, shorten(path), fault)
        return Annotation(key, relative, None, None, None), "", [problem]
    size = int_size(root.findtext("size/width"), root.findtext("size/height"))
    return (Annotation(key, relative, None, objects, size), root.findtext("filename") or "",
            problems)


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


def _fault_of_background(root):
    """Return why XML without <object> is not the annotation of an empty image, "" if it is."""
    shapes = {node.tag.rpartition("}")[2].lower() for node in root.iter()} & SHAPES
    if root.tag == "annotation" and not shapes:
        return ""
    held = "".join(f", it has <{shape}>" for shape in sorted(shapes)[:1])
    return f"<{root.tag[:60]}> is not a VOC annotation{held}; export it as Pascal VOC"
