"""The images behind a number: parts of images with ground truth and detections drawn on."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.cli import UserError, printable
from utils.data.annotations import Record
from utils.draw import draw_boxes
from utils.evaluation.assignment import Found, Objects
from utils.evaluation.errors import Confusion, ErrorKind, Errors, cost_of_each
from utils.image import load_image
from utils.page import image_uri

SIDE = 256  # pixels of the longer side of a thumbnail
LEAST_WINDOW = 64  # pixels of an image that are shown at least
AROUND = 2.2  # times the boxes' longer side is what a thumbnail shows
LARGEST = 7_500_000  # bytes of all thumbnails of a page
PER_KIND = 8  # examples of a kind of error
CELLS = 150  # of the confusion matrix that have examples
OF_CELLS = 200  # examples of all cells together, at most PER_KIND of one
LONGEST = 24  # letters of a class name on a thumbnail
FOUND, TRUTH = range(2)  # of two colours: red and cyan, which nearly all eyes tell apart


class Example(NamedTuple):
    """What one thumbnail shows."""

    path: Path
    boxes_px: np.ndarray  # (N, 4) xyxy
    kinds: Sequence[int]  # N of FOUND, TRUTH
    texts: Sequence[str]  # N; boxes with a text, one at least, are in view

    @property
    def caption(self) -> str:
        return printable(f"{self.path.name}: {', '.join(filter(None, self.texts))}")


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
                items.append((example.caption, uri))
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
    named = np.array([bool(text) for text in example.texts])
    x1, y1, x2, y2 = choose_window(example.boxes_px[named], width, height)
    part = Image.fromarray(image[y1:y2, x1:x2])
    scale = SIDE / max(part.size)
    filter_ = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    part = part.resize([max(1, round(side * scale)) for side in part.size], filter_)
    # What else is in view may end outside of it.
    beyond = np.where(named, 0, SIDE)[:, None]
    boxes = ((example.boxes_px - (x1, y1, x1, y1)) * scale).clip(
        -beyond, np.array(part.size * 2) + beyond)
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


class Scene(NamedTuple):
    """What examples are taken from."""

    records: Sequence[Record]
    class_names: Sequence[str]
    objects: Objects
    confusion: Confusion

    def example(self, found: Found, row: int, target: int) -> Example:
        """Return the Example of a row of `found` and one of the objects, either maybe -1.

        Without a text, what else is true there, or found where an object was lost.
        """
        image = found.image[row] if row >= 0 else self.objects.image[target]
        others, kind = (self.objects, TRUTH) if row >= 0 else (self.confusion.found, FOUND)
        boxes = [*others.boxes[others.image == image]]
        kinds, texts = [kind] * len(boxes), [""] * len(boxes)
        if target >= 0:
            boxes.append(self.objects.boxes[target])
            kinds.append(TRUTH)
            texts.append(f"true {_short(self.class_names[self.objects.labels[target]])}")
        if row >= 0:
            boxes.append(found.boxes[row])
            kinds.append(FOUND)
            name = _short(self.class_names[found.labels[row]])
            texts.append(f"found {name} {found.scores[row]:.2f}")
        return Example(self.records[image].path, np.array(boxes, np.float64), kinds, texts)


def _short(name):
    """Return a class name, cut off where letters would become too small for the thumbnail."""
    return name if len(name) <= LONGEST else f"{name[:LONGEST - 1]}…"


def group_errors(scene: Scene, errors: Errors, costs: dict[ErrorKind, float]) -> list[Group]:
    """Return the costliest examples of each kind of error.

    False positives by what each costs the AP of its class (`cost_of_each`). Objects missed: those
    of rare classes cost most; of these the largest, which should have been found.
    """
    found, objects, each = errors.assignment.found, scene.objects, cost_of_each(errors)
    counts = np.bincount(objects.labels, minlength=len(scene.class_names))
    groups = []
    for kind in ErrorKind:
        rows = errors.chosen(kind)
        if kind is ErrorKind.MISSED:
            rows = rows[np.lexsort((-objects.box_area[rows], counts[objects.labels[rows]]))]
            pairs = [(-1, row) for row in rows[:PER_KIND]]
        else:
            rows = rows[np.argsort(-each[rows], kind="stable")]
            pairs = [(row, errors.target[row]) for row in rows[:PER_KIND]]
        summary = (f"{kind.name.capitalize()}: {len(rows)}, costing {costs[kind]:.4f}; "
                   f"{kind.value}")
        groups.append(Group(kind.name.lower(), summary,
                            [scene.example(found, *pair) for pair in pairs]))
    return groups


def group_cells(scene: Scene) -> list[Group]:
    """Return examples of the cells of a confusion matrix, the fullest first, right ones last.

    Of false positives the highest scores, of right ones the lowest, which are nearest to being
    lost, of objects missed the largest.
    """
    objects, confusion, names = scene.objects, scene.confusion, [*scene.class_names, "background"]
    found, cells, groups = confusion.found, fullest_cells(confusion.matrix), []
    for true, claimed in cells:
        if claimed == len(scene.class_names):
            rows = np.flatnonzero(confusion.lost & (objects.labels == true))
            rows = rows[np.argsort(-objects.box_area[rows], kind="stable")]
            pairs = [(-1, row) for row in rows]
        else:
            rows = np.flatnonzero((confusion.truth == true) & (found.labels == claimed))
            sign = 1 if true == claimed else -1
            rows = rows[np.argsort(sign * found.scores[rows], kind="stable")]
            pairs = [(row, confusion.matched[row]) for row in rows]
        shown = min(PER_KIND, max(1, OF_CELLS // len(cells)))
        groups.append(Group(cell_id(true, claimed),
                            f"True {names[true]}, found {names[claimed]}: {len(rows)}",
                            [scene.example(found, *pair) for pair in pairs[:shown]]))
    return groups


def fullest_cells(matrix: np.ndarray) -> list[list[int]]:
    """Return (true, found) of up to CELLS cells of a confusion matrix, those of errors first."""
    cells = np.argwhere(matrix).tolist()
    return sorted(cells, key=lambda cell: (cell[0] == cell[1], -matrix[tuple(cell)]))[:CELLS]


def cell_id(true: int, claimed: int) -> str:
    """Return what a page calls the examples of a cell of the confusion matrix."""
    return f"cell-{true}-{claimed}"
