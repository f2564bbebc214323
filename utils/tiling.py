"""Windows of a large image: where they lie, in training and in detection, and how boxes merge.

A window is `spec.tile` pixels of the original image on each side, so that an object has the same
size at the network's input wherever and in however large an image it lies.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from utils.multibox.boxes import pairwise_iou
from utils.cli import UserError
from utils.image import as_rgb_array, boxes_to_pixels, read_input, resize_to_input
from utils.multibox.nms import nms as nms_of
from utils.multibox.postprocess import Kept, NmsRule, Thresholds
from utils.multibox.spec import SSDSpec

MAX_PER_CLASS, MAX_PER_IMAGE = Thresholds.max_per_class, Thresholds.max_per_image
WINDOWS_A_PASS = 16  # through the network; bounds the memory, however large the image
MOST_A_CLASS = 2000  # boxes of a class that are merged: memory grows with their square
RANDOM_SHARE = 0.25  # of training windows that lie anywhere, the rest around objects
# Parts of a window's side. Neighbours have at least OVERLAP in common: an object up to that size
# lies whole in one of them.
OVERLAP = 1 / 4
SLACK = 1 / 32  # how far over the middle of an overlap a centre may lie for its box to count
EDGE = 1 / 50  # a box this near a border between windows is taken to be cut by it
ALIKE = 0.5  # IoU, in what two windows have in common, of boxes of one object


def window_grid(width: int, height: int, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows that detection looks at, row by row, and the part of each that is its own.

    (N, 4) int xyxy edges in pixels of the image, spread evenly, and reaching over its right and
    lower edge where it is smaller than a window; (N, 4) float edges up to the middles of the
    overlaps, without end at the image's edges.
    """
    (left, columns), (top, rows) = (_along(side, tile) for side in (width, height))
    across, down = (grid.ravel() for grid in np.meshgrid(range(len(left)), range(len(top))))
    corners = np.stack([left[across], top[down]], 1)
    own = np.stack([columns[across], rows[down], columns[across + 1], rows[down + 1]], 1)
    return np.concatenate([corners, corners + tile], 1), own


def _along(side, tile):
    """Return, along an axis, the N starts of the windows and the N + 1 edges of their own parts."""
    step = tile - int(tile * OVERLAP)
    count = 1 + max(0, -(-(side - tile) // step))
    starts = np.rint(np.linspace(0, max(side - tile, 0), count)).astype(int)
    middles = (starts[1:] + starts[:-1] + tile) / 2
    return starts, np.array([-np.inf, *middles, np.inf])


def draw_window(boxes_px: np.ndarray, size: Sequence[int], tile: int,
                rng: np.random.Generator) -> np.ndarray:
    """Draw a training window of an image of (width, height) `size` with (G, 4) boxes.

    Most lie around an object, which is whole where it fits; the rest anywhere, as in detection.
    Returns (4,) int xyxy edges in pixels.
    """
    room = np.maximum(np.array(size) - tile, 0)
    low, high = np.zeros(2), room
    if len(boxes_px) and rng.random() >= RANDOM_SHARE:
        box = boxes_px[rng.integers(len(boxes_px))].astype(float)
        centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).clip(None, tile) / 2
        low, high = (centre + half - tile).clip(0, room), (centre - half).clip(0, room)
    corner = np.rint(low + rng.random(2) * (high - low)).astype(int)
    return np.concatenate([corner, corner + tile])


def cut_window(image: np.ndarray, window: Sequence[int], spec: SSDSpec) -> np.ndarray:
    """Return a window of an (H, W, 3) image; the mean colour fills what lies beyond the image."""
    left, top, right, bottom = window
    part = image[top:bottom, left:right]
    missing = bottom - top - part.shape[0], right - left - part.shape[1]
    if any(missing):
        part = cv2.copyMakeBorder(part, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT,
                                  value=spec.mean)
    return part


def inputs_to_learn(images: Iterable[tuple[str | Path, np.ndarray]], spec: SSDSpec
                    ) -> Iterator[np.ndarray]:
    """Yield the network input of each (path, (G, 4) boxes in pixels), without augmentation.

    Of an image that is looked at in windows it is one window, drawn as in training; by its place
    alone, so that it is the same again. Raises UserError for an image that cannot be read.
    """
    for number, (path, boxes_px) in enumerate(images):
        if not spec.tile:
            yield read_input(path, spec)[0]
            continue
        image = as_rgb_array(path)
        window = draw_window(boxes_px, image.shape[1::-1], spec.tile,
                             np.random.default_rng(number))
        yield resize_to_input(cut_window(image, window, spec), spec)


def in_own_windows(boxes_px: np.ndarray, size: Sequence[int], tile: int) -> np.ndarray:
    """Return (G, 4) boxes as fractions of the windows that their centres are the own part of."""
    boxes, corners = np.asarray(boxes_px, float).reshape(-1, 4), []
    for axis in (0, 1):
        starts, edges = _along(size[axis], tile)
        corners.append(starts[np.searchsorted(edges[1:-1], boxes[:, axis::2].mean(1))])
    return (boxes - np.stack(corners * 2, 1)) / tile


def read_to_detect(image, spec: SSDSpec) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the network input of `read_input`, or the whole image where windows are looked at.

    With it comes the image's (width, height).
    """
    if not spec.tile:
        return read_input(image, spec)
    array = as_rgb_array(image)
    return array, array.shape[1::-1]


def check_rule(nms: NmsRule | None, spec: SSDSpec) -> None:
    """Raise UserError for a rule of suppression that windows cannot be merged by."""
    if spec.tile and nms == "soft":
        raise UserError('nms = "soft" is not there for weights that look at windows (tile = '
                        f'{spec.tile}); take "class".')


def detect_windows(images: Sequence[np.ndarray], spec: SSDSpec,
                   look: Callable[[list[np.ndarray], dict], list[Kept]],
                   limits: dict[str, float]) -> list[Kept]:
    """Detect in whole images, window by window, at most WINDOWS_A_PASS at a time.

    `look` takes network inputs and limits, those of `select`, and returns Kept, as NumPy
    arrays in fractions of the input. Returns those of each image in pixels, best first. Where no
    max_per_class and max_per_image are given, they are those of `select` for each window, of a
    class MOST_A_CLASS at most.
    """
    check_rule(limits.get("nms"), spec)
    windows = [(k, window) for k, image in enumerate(images)
               for window in window_grid(*image.shape[1::-1], spec.tile)[0]]
    found = [[] for _ in images]
    for start in range(0, len(windows), WINDOWS_A_PASS):
        group = windows[start:start + WINDOWS_A_PASS]
        inputs = [resize_to_input(cut_window(images[k], window, spec), spec)
                  for k, window in group]
        seen = look(inputs, limits | {"max_per_image": 0})
        for (k, window), (boxes, scores, labels) in zip(group, seen):
            boxes_px = boxes_to_pixels(boxes, spec.tile, spec.tile, spec) + np.tile(window[:2], 2)
            found[k].append(Kept(boxes_px.astype(np.float32), scores, labels))
    rules = {name: value for name, value in limits.items() if name not in ("confidence", "classes")}
    return [merge_windows(parts, image.shape[1::-1], spec, **{
                "max_per_class": min(MAX_PER_CLASS * len(parts), MOST_A_CLASS),
                "max_per_image": MAX_PER_IMAGE * len(parts)} | rules)
            for parts, image in zip(found, images)]


def merge_windows(found: Sequence[Kept], size: tuple[int, int], spec: SSDSpec, *,
                  nms_iou: float, max_per_class: int = MAX_PER_CLASS,
                  max_per_image: int = MAX_PER_IMAGE, nms: NmsRule = "class") -> Kept:
    """Merge what is kept of all windows of an image of (width, height) `size`.

    A box counts in the window whose own part has its centre: no neighbour sees more of it. So an
    object up to the overlap's size counts once, and whole. Boxes of larger ones that a border cut
    are joined to what other windows show of them. Then NMS is over all windows.

    Args:
        found: one for each of `window_grid`, as NumPy arrays with boxes in pixels of the image.
        nms_iou, max_per_class, max_per_image: as in `select`, of the image as a whole.
        nms: "class", or "agnostic"; `detect_windows` refuses "soft".
    """
    windows, own = window_grid(*size, spec.tile)
    numbers = np.repeat(np.arange(len(found)), [len(part.scores) for part in found])
    boxes, scores, labels = (np.concatenate(parts) for parts in zip(*found))
    if spec.box_clip != "none":  # an image may end within its window
        boxes = boxes.clip(0, np.array(size * 2, np.float32))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = own[numbers, :2] - spec.tile * SLACK, own[numbers, 2:] + spec.tile * SLACK
    mine = ((centres >= low) & (centres <= high) & (boxes[:, 2:] > boxes[:, :2])).all(1)
    inner = np.concatenate([windows[:, :2] > 0, windows[:, 2:] < size], 1)
    inside = (boxes - windows[numbers]) * (1, 1, -1, -1)  # pixels from the borders
    cut = inner[numbers] & (inside <= spec.tile * EDGE)
    order, kept = np.argsort(-scores, kind="stable"), []
    groups = np.zeros_like(labels) if nms == "agnostic" else labels
    for label in np.unique(groups):
        group = order[(mine & (groups == label))[order]][:max_per_class or None]
        boxes[group], best = _join(boxes[group], cut[group], numbers[group], windows)
        group = group[best]
        kept.append(group[nms_of(*map(torch.from_numpy, (boxes[group], scores[group])),
                                 nms_iou).numpy()])
    kept = np.concatenate([np.zeros(0, int), *kept])
    best = kept[np.argsort(-scores[kept], kind="stable")][:max_per_image or None]
    return Kept(boxes[best], scores[best], labels[best])


def _join(boxes, cut, numbers, windows):
    """Join boxes of one class, best first, that agree on what the windows of both of them show.

    Returns the (N, 4) boxes, and which are the best of their object: each has those of its edges
    that were cut, by (N, 4) `cut`, where the others of its object reach farthest.
    """
    view = windows[numbers].astype(np.float32)
    low, high = view[:, [0, 1, 0, 1]], view[:, [2, 3, 2, 3]]
    part = cut.any(1).nonzero()[0]  # one of two that are joined is cut
    ours = boxes[part, None].clip(low, high)  # each part in all windows
    theirs = boxes.clip(low[part, None], high[part, None])  # all boxes in each part's window
    alike = np.zeros((len(boxes), len(boxes)), bool)
    alike[part] = pairwise_iou(ours[:, :, None], theirs[:, :, None])[..., 0, 0] >= ALIKE
    alike = (alike | alike.T) & (numbers[:, None] != numbers)
    joined, best = boxes.copy(), np.ones(len(boxes), bool)
    for k in alike.any(1).nonzero()[0]:
        if best[k]:
            group = np.arange(len(boxes)) == k
            while (alike[group].any(0) & ~group).any():
                group |= alike[group].any(0)
            farthest = np.append(boxes[group, :2].min(0), boxes[group, 2:].max(0))
            joined[k] = np.where(cut[k], farthest, boxes[k])
            best[group] = np.arange(len(boxes))[group] == k
    return joined, best
