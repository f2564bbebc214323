"""The images behind a number: parts of images with ground truth and detections drawn on."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.cli import UserError, printable
from utils.draw import draw_boxes
from utils.image import load_image
from utils.page import image_uri

SIDE = 300  # pixels of the longer side of a thumbnail
LEAST_WINDOW = 64  # pixels of an image that are shown at least
AROUND = 2.2  # times the boxes' longer side is what a thumbnail shows
LARGEST = 7_500_000  # bytes of all thumbnails of a page
FOUND, TRUTH = range(2)  # of two colours: red and cyan, which nearly all eyes tell apart


class Example(NamedTuple):
    """What one thumbnail shows."""

    path: Path
    boxes_px: np.ndarray  # (N, 4) xyxy, N >= 1; all of them are in view
    kinds: Sequence[int]  # N of FOUND, TRUTH
    texts: Sequence[str]  # N, one at each box
    caption: str


class Group(NamedTuple):
    """Examples that stand under one summary of a page."""

    id: str
    summary: str
    examples: list[Example]


def draw_groups(groups: Sequence[Group]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return groups as a page's galleries (id, summary, [(caption, data URI)]).

    Each image file is read once. What cannot be read, or no longer fits into LARGEST, is left out
    and its number said in the summary.
    """
    wanted = {}
    for group in groups:
        for example in group.examples:
            wanted.setdefault(example.path, []).append(example)
    with ThreadPoolExecutor(2) as pool:
        drawn = {id(example): uri for uris in pool.map(_draw_all, wanted.values())
                 for example, uri in uris}
    galleries, room = [], LARGEST
    for group in groups:
        items = []
        for example in group.examples:
            uri = drawn.get(id(example), "")
            if uri and len(uri) <= room:
                room -= len(uri)
                items.append((printable(example.caption), uri))
        lacking = len(group.examples) - len(items)
        note = f"; {lacking} left out (unreadable, or too large a page)" if lacking else ""
        galleries.append((group.id, group.summary + note, items))
    return galleries


def _draw_all(examples):
    """Return [(example, data URI)] of the examples of one image."""
    try:
        image = load_image(examples[0].path)
    except UserError:
        return []
    return [(example, image_uri(draw_example(image, example))) for example in examples]


def draw_example(image: np.ndarray, example: Example) -> Image.Image:
    """Return the part of an (H, W, 3) RGB image around an example's boxes, shrunk, then drawn on.

    Lines and letters are as large on a thumbnail of 12 megapixels as on one of a small image.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = choose_window(example.boxes_px, width, height)
    part = Image.fromarray(image[y1:y2, x1:x2])
    scale = SIDE / max(part.size)
    filter_ = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    part = part.resize([max(1, round(side * scale)) for side in part.size], filter_)
    boxes = ((example.boxes_px - (x1, y1, x1, y1)) * scale).clip(0, (*part.size, *part.size))
    return draw_boxes(np.asarray(part), boxes, example.kinds, example.texts, 2)


def choose_window(boxes_px: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the part of an image that shows (N, 4) xyxy boxes with what is around them.

    xyxy in whole pixels, a square but where the image ends.
    """
    boxes_px = boxes_px.clip(0, (width, height, width, height))
    low, high = boxes_px[:, :2].min(0), boxes_px[:, 2:].max(0)
    side = max(LEAST_WINDOW, AROUND * (high - low).max())
    sides = np.minimum(side, (width, height)).astype(int)
    corner = np.clip((low + high - sides) / 2, 0, (width, height) - sides).astype(int)
    return *corner.tolist(), *(corner + sides).tolist()
