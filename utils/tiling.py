"""Tiled inference: the windows of a large image, in training and detection, and how boxes merge.

A window is `spec.tile` pixels of the original image on each side, so that an object has the same
size at the network's input wherever and in however large an image it lies.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from utils.cli import UserError
from utils.detections import Detections
from utils.image import prepare, resize_to_input
from utils.multibox.boxes import pairwise_iou
from utils.multibox.nms import nms
from utils.multibox.postprocess import Thresholds
from utils.multibox.spec import SSDSpec

WINDOWS_PER_PASS = 16  # through the network; bounds the memory, however large the image
MAX_MERGED_PER_CLASS = 2000  # boxes; time grows with their square
RANDOM_SHARE = 0.25  # of training windows that lie anywhere, the rest around objects
# In parts of a window's side. An object of up to OVERLAP lies whole in one window at least.
OVERLAP = 1 / 4
SLACK = 1 / 32  # how far beyond the core of a window the centre of a box may lie
EDGE = 1 / 50  # a box this near a border between windows counts as cut by it
SAME_IOU = 0.5  # of two boxes of one object, within what two windows have in common

# (network inputs, (width, height) of what each shows, Thresholds) -> Detections in those pixels
DetectPass = Callable[[list[np.ndarray], list[tuple[int, int]], Thresholds], list[Detections]]


def window_grid(width: int, height: int, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows of an image in detection, row by row, and the core of each.

    Windows, (N, 4) int xyxy in pixels, are spread evenly, and reach over the right and lower edge
    of a smaller image. Cores, (N, 4) float, meet in the middles of overlaps; the outer ones end
    nowhere.
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
    corners = np.asarray(boxes_px, float).reshape(-1, 2, 2)
    origins = np.empty((len(corners), 2))
    for axis in (0, 1):
        starts, edges = _along(size[axis], tile)
        origins[:, axis] = starts[np.searchsorted(edges[1:-1], corners[..., axis].mean(1))]
    return ((corners - origins[:, None]) / tile).reshape(-1, 4)


def draw_window(boxes_px: np.ndarray, size: Sequence[int], tile: int,
                rng: np.random.Generator) -> np.ndarray:
    """Draw a training window, (4,) int xyxy, of a (width, height) image with (G, 4) boxes.

    Most lie around an object, which is whole where it fits; the rest anywhere, as in detection.
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
    below, beside = bottom - top - part.shape[0], right - left - part.shape[1]
    if below or beside:
        part = cv2.copyMakeBorder(part, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=spec.mean)
    return part


def sample_inputs(images: Iterable[tuple[str | Path, np.ndarray]], spec: SSDSpec
                  ) -> Iterator[np.ndarray]:
    """Yield the network input of each (path, (G, 4) boxes in pixels), without augmentation.

    With a tile it is one window, drawn as in training and the same in every run. Raises UserError
    for an image that cannot be read.
    """
    for number, (path, boxes_px) in enumerate(images):
        image, size = prepare(path, spec)
        if spec.tile:
            window = draw_window(boxes_px, size, spec.tile, np.random.default_rng(number))
            image = resize_to_input(cut_window(image, window, spec), spec)
        yield image


def check_rule(rule: str, spec: SSDSpec) -> None:
    """Raise UserError for a rule of suppression that windows cannot be merged by."""
    if spec.tile and rule == "soft":
        raise UserError('nms = "soft" does not work with tiled inference (the weights have tile = '
                        f'{spec.tile}); take "class".')


def detect_windows(images: Sequence[np.ndarray], spec: SSDSpec, detect: DetectPass,
                   thresholds: Thresholds) -> list[Detections]:
    """Detect in whole (H, W, 3) images, window by window; return their Detections in pixels.

    `max_per_class` and `max_per_image` are meant for one window: an image keeps up to
    `max_per_image` times its windows.
    """
    check_rule(thresholds.nms, spec)
    windows = [(k, window) for k, image in enumerate(images)
               for window in window_grid(image.shape[1], image.shape[0], spec.tile)[0]]
    parts = [[] for _ in images]
    for start in range(0, len(windows), WINDOWS_PER_PASS):
        group = windows[start:start + WINDOWS_PER_PASS]
        inputs = [resize_to_input(cut_window(images[k], window, spec), spec)
                  for k, window in group]
        sizes = [(spec.tile, spec.tile) for _ in group]
        results = detect(inputs, sizes, replace(thresholds, max_per_image=0))
        for (k, (x, y, _, _)), result in zip(group, results):
            boxes = (result.boxes + np.array([x, y, x, y])).astype(np.float32)
            parts[k].append(replace(result, boxes=boxes))
    return [merge_windows(parts[k], image.shape[1::-1], spec, thresholds)
            for k, image in enumerate(images)]


def merge_windows(parts: Sequence[Detections], size: tuple[int, int], spec: SSDSpec,
                  thresholds: Thresholds) -> Detections:
    """Merge the Detections of all windows, in pixels of their image of (width, height) `size`.

    A box counts in the window whose core has its centre: no neighbour sees more of it. So an object
    up to the overlap's size counts once, and whole. Boxes of larger objects that a border cuts are
    joined to those of other windows. Then NMS is over all windows.
    """
    windows, cores = window_grid(*size, spec.tile)
    numbers = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    boxes, scores, labels = (np.concatenate(arrays) for arrays in zip(*parts))
    if spec.box_clip != "none":  # an image may end within its window
        boxes = boxes.clip(0, np.array([*size, *size], np.float32))
    windows, cores = windows[numbers], cores[numbers]  # of each box
    centres, slack = (boxes[:, :2] + boxes[:, 2:]) / 2, spec.tile * SLACK
    counts = ((centres >= cores[:, :2] - slack) & (centres <= cores[:, 2:] + slack)
              & (boxes[:, 2:] > boxes[:, :2])).all(1)
    is_border = np.concatenate([windows[:, :2] > 0, windows[:, 2:] < size], 1)
    distances = (boxes - windows) * (1, 1, -1, -1)  # from the window's edges, inwards
    cut = is_border & (distances <= spec.tile * EDGE)
    order = np.argsort(-scores, kind="stable")
    order = order[counts[order]]
    groups = [order[labels[order] == label][:MAX_MERGED_PER_CLASS] for label in np.unique(labels)]
    if groups and thresholds.nms == "agnostic":
        groups = [order[np.isin(order, np.concatenate(groups))]]
    kept = [order[:0]]
    for group in groups:
        boxes[group], is_best = _join(boxes[group], cut[group], windows[group].astype(np.float32))
        group = group[is_best]
        kept.append(group[nms(torch.from_numpy(boxes[group]), torch.from_numpy(scores[group]),
                              thresholds.nms_iou).numpy()])
    kept = np.concatenate(kept)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    kept = kept[:thresholds.max_per_image * len(parts) or None]
    return Detections(boxes[kept], scores[kept], labels[kept], parts[0].class_names)


def _join(boxes, cut, windows):
    """Join (N, 4) boxes, best first, that show one object in different windows.

    Returns the boxes and the mask of those that are the best of their object. Of these the edges
    that were cut, by (N, 4) `cut`, move to where the object's other boxes reach.
    """
    joined, is_best = boxes.copy(), np.ones(len(boxes), bool)
    for k in range(len(boxes)):
        group = [k] if is_best[k] else []
        for member in group:  # which grows meanwhile
            same = _same_object(member, boxes, cut.any(1), windows) & is_best
            same[group] = False
            group += same.nonzero()[0].tolist()
        if len(group) > 1:
            farthest = np.append(boxes[group, :2].min(0), boxes[group, 2:].max(0))
            joined[k] = np.where(cut[k], farthest, boxes[k])
            is_best[group[1:]] = False
    return joined, is_best


def _same_object(k, boxes, is_cut, windows):
    """Return the (N,) mask of boxes that agree with box k on what both of their windows show."""
    low, high = windows[:, [0, 1, 0, 1]], windows[:, [2, 3, 2, 3]]
    here, there = boxes.clip(low[k], high[k]), boxes[k].clip(low, high)
    iou = pairwise_iou(here[:, None], there[:, None])[:, 0, 0]
    return (iou >= SAME_IOU) & (is_cut | is_cut[k]) & (windows != windows[k]).any(1)
