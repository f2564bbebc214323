"""VOC's XML annotations.

Only this file knows VOC's pixels: its boxes count pixels from 1 and include the last one.
Everywhere else a box is its edges, counted from 0.
"""

import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from utils.cli import shorten
from utils.data.annotations import plain_name
from utils.data.sources import (Annotation, Problem, SourceObject, four_numbers, int_size,
                                turning_margins)

EDGES = ("xmin", "ymin", "xmax", "ymax")


def edges_to_pixels(edges: np.ndarray) -> np.ndarray:
    """Return the numbers xmin, ymin, xmax, ymax that VOC files have for (N, 4) edges."""
    first, second = edges[:, :2], edges[:, 2:]
    is_swapped = first > second
    return np.concatenate([first + ~is_swapped, second + is_swapped], axis=1)


def read_voc(path: Path, relative: str) -> tuple[list[Annotation], list[Problem]]:
    """Return the annotation of an XML file, and a problem where it cannot be read."""
    key = relative[:-len(".xml")]
    try:
        root = ElementTree.parse(path).getroot()
        objects = [_read_object(node, number) for number, node in enumerate(root.iter("object"), 1)]
        if root.tag != "annotation" or not objects and root.find("box") is not None:
            raise ValueError(f"<{root.tag}> is no annotation of Pascal VOC; export it as that")
        if "predicted" in root.attrib and not is_of_person(path):
            raise ValueError("a prediction; save it in a labelling tool to use it")
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        problem = Problem("unreadable annotation", shorten(path), str(error))
        return [Annotation(key, relative, None, None, None)], [problem]
    size = root.find("size")  # a path, size/width, would take as long as an object
    size = size if size is None else int_size(size.findtext("width"), size.findtext("height"))
    return [Annotation(key, relative, None, objects, size, root.findtext("filename") or "")], []


def _read_object(node, number):
    """Return an object; boxes of its <part>s are none. CVAT keeps a rotation beside the box.

    1 is taken off the lower corner only: the pixels xmin..xmax then lie between the edges xmin - 1
    and xmax, and overlap in edges is the devkit's overlap in pixels. Swapped corners stay swapped.
    """
    box = node.find("bndbox")
    x1, y1, x2, y2 = four_numbers(None if box is None else map(box.findtext, EDGES))
    for attribute in node.iter("attribute"):
        if attribute.findtext("name") == "rotation":
            degrees = float(attribute.findtext("value") or 0)
            dx, dy = turning_margins(x2 - x1 + 1, y2 - y1 + 1, degrees)
            x1, y1, x2, y2 = x1 - dx, y1 - dy, x2 + dx, y2 + dy
    x1, x2 = (x1, x2 - 1) if x1 > x2 else (x1 - 1, x2)
    y1, y2 = (y1, y2 - 1) if y1 > y2 else (y1 - 1, y2)
    difficult = (node.findtext("difficult") or "").strip() in ("1", "true")
    return SourceObject(plain_name(node.findtext("name") or ""), (x1, y1, x2, y2), difficult,
                        f"object {number}")


def voc_text(file_name: str, size: tuple[int, int], names: Sequence[str], boxes_px: np.ndarray,
             tags: Sequence[str], model: str = "") -> str:
    """Return the XML of an image of (width, height) pixels and its (G, 4) xyxy edges.

    Boxes are rounded to pixels of the image, one at least; `tags` are more elements of each object.
    Predictions name their `model`, and their first line shows whether a person changed the rest.
    """
    low = np.rint(boxes_px[:, :2]).clip(0, np.subtract(size, 1))
    high = np.rint(boxes_px[:, 2:]).clip(low + 1, size)
    pixels = edges_to_pixels(np.concatenate([low, high], axis=1)).astype(int).tolist()
    lines = [f"<filename>{escape(file_name)}</filename>",
             f"<source><database>{escape(model)}</database></source>",
             "<size><width>{}</width><height>{}</height><depth>3</depth></size>".format(*size)]
    for name, box, more in zip(names, pixels, tags):
        edges = "".join(f"<{edge}>{value}</{edge}>" for edge, value in zip(EDGES, box))
        lines.append(f"<object><name>{escape(name)}</name>{more}<bndbox>{edges}</bndbox></object>")
    rest = "\n".join([*lines, "</annotation>", ""])
    return _mark(rest) if model else f"<annotation>\n{rest}"


def is_of_person(path: Path) -> bool:
    """Return whether a file is there that a person made, or a prediction that one changed."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return text != "" and text != _mark(text.partition("\n")[2])


def _mark(rest):
    digest = hashlib.blake2b(rest.encode(), digest_size=8).hexdigest()
    return f'<annotation predicted="{digest}">\n{rest}'
