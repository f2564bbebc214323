"""Tiled inference: windows of `spec.tile` pixels of large images, and how their boxes merge."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch

from utils.detections import Detections
from utils.image import prepare, resize_to_input
from utils.multibox.boxes import pairwise_iou
from utils.multibox.nms import nms
from utils.multibox.postprocess import Thresholds
from utils.multibox.spec import SSDSpec

WINDOWS_PER_PASS = 16  # through the network; bounds the memory, however large the image
MAX_MERGED = 2000  # boxes of a class; time grows with their square
RANDOM_SHARE = 0.25  # of training windows that lie anywhere, the rest around objects
# In parts of a window's side. An object of up to OVERLAP lies whole in one window at least.
OVERLAP = 1 / 4
SLACK = 1 / 32  # how far beyond the core of a window the centre of a box may lie
EDGE = 1 / 20  # a box this near a border between windows counts as cut by it
SAME_IOU = 0.5  # of two boxes of one object, within what two windows have in common


def window_grid(width: int, height: int, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows of an image in detection, (N, 4) int xyxy, and their (N, 4) cores.

    Windows reach over the right and lower edge of a smaller image. Cores meet in the middles of
    overlaps; the outer ones end nowhere.
    """
    (left, columns), (top, rows) = _along(width, tile), _along(height, tile)
    x, y = (grid.ravel() for grid in np.meshgrid(range(len(left)), range(len(top))))
    corners = np.stack([left[x], top[y]], 1)
    cores = np.stack([columns[x], rows[y], columns[x + 1], rows[y + 1]], 1)
    return np.concatenate([corners, corners + tile], 1), cores


def _along(side, tile):
    """Return, along an axis, the N starts of the windows and the N + 1 edges of their cores."""
    step = tile - int(tile * OVERLAP)
    count = 1 + max(0, -(-(side - tile) // step))
    starts = np.rint(np.linspace(0, max(side - tile, 0), count)).astype(int)
    middles = (starts[1:] + starts[:-1] + tile) / 2
    return starts, np.array([-np.inf, *middles, np.inf])


def boxes_in_windows(boxes_px: np.ndarray, size: Sequence[int], tile: int) -> np.ndarray:
    """Return (G, 4) boxes of a (width, height) image as fractions of the window of their core."""
    windows, cores = window_grid(*size, tile)
    centres = (boxes_px[:, None, :2] + boxes_px[:, None, 2:]) / 2
    inside = ((centres > cores[:, :2]) & (centres <= cores[:, 2:])).all(2)  # (G, windows)
    return (boxes_px - windows[inside.argmax(1)][:, [0, 1, 0, 1]]) / tile


def draw_window(boxes_px: np.ndarray, size: Sequence[int], tile: int,
                rng: np.random.Generator) -> np.ndarray:
    """Draw a training window, (4,) int xyxy: mostly around one of (G, 4) boxes, else anywhere."""
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
    below, beside = bottom - top - part.shape[0], right - left - part.shape[1]
    return cv2.copyMakeBorder(part, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=spec.mean)


def sample_inputs(images: Iterable[tuple], spec: SSDSpec) -> Iterator[np.ndarray]:
    """Yield the network input, or that of a window, of each (path, (G, 4) boxes in pixels)."""
    for number, (path, boxes_px) in enumerate(images):
        image, size = prepare(path, spec)
        if spec.tile:
            window = draw_window(boxes_px, size, spec.tile, np.random.default_rng(number))
            image = resize_to_input(cut_window(image, window, spec), spec)
        yield image


def detect_windows(image: np.ndarray, spec: SSDSpec, detect: Callable,
                   thresholds: Thresholds) -> Detections:
    """Return the Detections of an (H, W, 3) image; `detect` takes (inputs, sizes, Thresholds)."""
    size = image.shape[1::-1]
    windows, parts = window_grid(*size, spec.tile)[0], []
    for start in range(0, len(windows), WINDOWS_PER_PASS):
        group = windows[start:start + WINDOWS_PER_PASS]
        inputs = [resize_to_input(cut_window(image, window, spec), spec) for window in group]
        results = detect(inputs, [(spec.tile, spec.tile)] * len(group),
                         replace(thresholds, max_per_image=0))
        parts += [replace(part, boxes=np.float32(part.boxes + window[[0, 1, 0, 1]]))
                  for window, part in zip(group, results)]
    return merge_windows(parts, size, spec, thresholds)


def merge_windows(parts: Sequence[Detections], size: tuple[int, int], spec: SSDSpec,
                  thresholds: Thresholds) -> Detections:
    """Merge the Detections of all windows, in pixels of their image of (width, height) `size`.

    A box counts in the window whose core has its centre; boxes that a border cuts are joined.
    """
    counts = [len(part) for part in parts]
    windows, cores = (np.repeat(grid, counts, 0) for grid in window_grid(*size, spec.tile))
    boxes, scores, labels = (np.concatenate(arrays) for arrays in zip(*parts))
    if spec.box_clip != "none":  # an image may end within its window
        boxes = boxes.clip(0, np.array([*size, *size], np.float32))
    centres, slack = (boxes[:, :2] + boxes[:, 2:]) / 2, spec.tile * SLACK
    inside = ((centres >= cores[:, :2] - slack) & (centres <= cores[:, 2:] + slack)
              & (boxes[:, 2:] > boxes[:, :2])).all(1)
    is_border = np.concatenate([windows[:, :2] > 0, windows[:, 2:] < size], 1)
    cut = is_border & ((boxes - windows) * (1, 1, -1, -1) <= spec.tile * EDGE)
    order = np.argsort(-scores, kind="stable")
    order = order[inside[order]]
    groups = [order[labels[order] == k][:MAX_MERGED] for k in np.unique(labels[order])]
    if groups and thresholds.nms == "agnostic":
        groups = [order[np.isin(order, np.concatenate(groups))]]
    kept = np.zeros(len(scores), bool)
    for group in groups:
        boxes[group], is_best = _join(boxes[group], cut[group], windows[group].astype(np.float32))
        group = group[is_best]
        kept[group[nms(torch.from_numpy(boxes[group]), torch.from_numpy(scores[group]),
                       thresholds.nms_iou).numpy()]] = True
    kept = order[kept[order]][:thresholds.max_per_image * len(parts) or None]
    return Detections(boxes[kept], scores[kept], labels[kept], parts[0].class_names)


def _join(boxes, cut, windows):
    """Return (N, 4) boxes, best first, and the mask of the best one of each object.

    A box is compared with one of another window as far as both are seen: beyond an edge that a
    border cuts lies what the other window shows. The cut edges of the best box move to there.
    """
    boxes, is_best = boxes.copy(), np.ones(len(boxes), bool)
    seen = np.where(cut, windows, (-np.inf, -np.inf, np.inf, np.inf))
    for k in range(len(boxes)):
        others = is_best & is_best[k] & (np.arange(len(boxes)) > k)
        others &= (windows != windows[k]).any(1) & (cut.any(1) | cut[k].any())
        beside = (windows == windows[k]).any(1)  # not across a corner, where large boxes look alike
        while others.any():
            here = boxes.clip(seen[k, [0, 1, 0, 1]], seen[k, [2, 3, 2, 3]])
            there = boxes[k].clip(seen[:, [0, 1, 0, 1]], seen[:, [2, 3, 2, 3]])
            iou = others * beside * pairwise_iou(here[:, None], there[:, None])[:, 0, 0]
            best = iou.argmax()
            if iou[best] < SAME_IOU:
                break
            is_best[best] = False
            others &= (windows != windows[best]).any(1)
            beside |= (windows == windows[best]).any(1)
            farther = np.isfinite(seen[k]) & ((boxes[best] - boxes[k]) * (-1, -1, 1, 1) > 0)
            boxes[k], seen[k] = np.where(farther, (boxes[best], seen[best]), (boxes[k], seen[k]))
    return boxes, is_best
