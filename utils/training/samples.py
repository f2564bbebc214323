"""The same few images time and again: ground truth beside what is found."""

from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from utils.multibox.boxes import pairwise_intersection
from utils.cli import UserError, printable
from utils.data.annotations import Record
from utils.draw import draw_boxes, write_line
from utils.image import load_image

SAMPLES = 8
BEST_FEW = 3  # are shown where nothing reaches the threshold, as early in training
MOST = 30  # detections of a tile; a network that learns badly finds far more
LOWEST_SCORE = 0.01
TILE = 440  # pixels of the longer side of an image
LEAST_SIDE = 20  # pixels: where the usual object would be smaller on its tile, a part is shown
NAMED = 8  # boxes of a tile that have a text: more would hide the image
GAP, LINE = 8, 22  # pixels between tiles, and of a line of text


def choose_samples(records: list[Record], count: int = SAMPLES) -> list[Record]:
    """Return a few records with objects, always the same, of as many classes as they can be."""
    left = [records[k] for k in np.random.default_rng(0).permutation(len(records))
            if len(records[k].labels)]
    shown, chosen = Counter(), []
    while left and len(chosen) < count:
        k = min(range(len(left)), key=lambda k: min(shown[int(n)] for n in left[k].labels))
        chosen.append(left.pop(k))
        shown.update(set(chosen[-1].labels.tolist()))
    return chosen


def draw_samples(records: list[Record], detector: Any, title: str) -> Image.Image | None:
    """Return a sheet of images, each beside itself: ground truth left, detections right.

    `detector` is an SSD; its own threshold counts. An image that cannot be read costs a line; None
    where none can.
    """
    pairs = []
    for record in records:
        try:
            pairs.append(_draw_pair(record, detector))
        except UserError as error:
            print(f"note: not among the samples: {error}")
    if not pairs:
        return None
    rows = [pairs[k:k + 2] for k in range(0, len(pairs), 2)]
    heights = [max(pair.height for pair in row) + GAP for row in rows]
    sheet = Image.new("RGB", (len(rows[0]) * (2 * TILE + 3 * GAP), 2 * LINE + GAP + sum(heights)),
                      "white")
    write_line(sheet, title, (GAP, GAP // 2), height=LINE, room=sheet.width - 2 * GAP)
    legend = (f"left: ground truth; right: found, score >= {detector.settings.confidence:g}, or "
              f"else the best {BEST_FEW}")
    write_line(sheet, legend, (GAP, LINE), height=LINE, room=sheet.width - 2 * GAP)
    for row, bottom, height in zip(rows, np.cumsum(heights).tolist(), heights):
        for k, pair in enumerate(row):
            sheet.paste(pair, (GAP + k * (2 * TILE + 3 * GAP), 2 * LINE + GAP + bottom - height))
    return sheet


def _draw_pair(record, detector):
    image, names = load_image(record.path), detector.class_names
    height, width = image.shape[:2]
    window = choose_window(record.boxes_px, width, height)
    found = detector.detect_batch([image], confidence=LOWEST_SCORE)[0]
    seen = pairwise_intersection(found.boxes, np.array([window]))[:, 0] > 0
    count = int((found.scores[seen] >= detector.settings.confidence).sum())
    boxes, scores, labels = (field[seen][:min(count, MOST) or BEST_FEW] for field in found)
    texts = [f"{_shorten(names[label])} {score:.2f}" for label, score in zip(labels, scores)]
    right = _draw_tile(image, window, boxes, labels, texts, len(names))
    # The largest first: their texts are the ones that there is room for.
    order = np.argsort(-np.prod(record.boxes_px[:, 2:] - record.boxes_px[:, :2], 1), kind="stable")
    texts = [_shorten(names[record.labels[k]]) + " (difficult)" * bool(record.difficult[k])
             for k in order]
    left = _draw_tile(image, window, record.boxes_px[order], record.labels[order], texts,
                      len(names))
    pair = Image.new("RGB", (2 * TILE + GAP, left.height + LINE), "white")
    part = "" if window == (0, 0, width, height) else (
        f", {window[2] - window[0]} x {window[3] - window[1]} of {width} x {height} pixels")
    nothing = f"nothing at {detector.settings.confidence:g}" + (
        f"; the best {len(boxes)}" if len(boxes) else "")
    shown = f", the best {MOST} shown" if count > MOST else ""
    captions = (_shorten(printable(record.path.name)) + part,
                f"{count} found{shown}" if count else nothing)
    for tile, caption, x in zip((left, right), captions, (0, TILE + GAP)):
        write_line(pair, caption, (x, 0), height=LINE, room=TILE)
        pair.paste(tile, (x, LINE))
    return pair


def choose_window(boxes_px: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the part of an image to show, as xyxy pixels: all of it, or where its objects are.

    `boxes_px` are (G, 4) xyxy, G >= 1. A part is a square, smaller at the edges of the image.
    """
    usual = np.median((boxes_px[:, 2:] - boxes_px[:, :2]).max(1))
    side = max(64, int(usual * TILE / LEAST_SIDE))
    if side >= max(width, height):
        return 0, 0, width, height
    centres = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2
    inside = (np.abs(centres[:, None] - centres) <= side / 2).all(2).sum(1)
    sides = np.minimum(side, (width, height))
    corner = np.clip(centres[inside.argmax()] - sides / 2, 0, (width, height) - sides).astype(int)
    return *corner.tolist(), *(corner + sides).tolist()


def _draw_tile(image, window, boxes_px, labels, texts, num_classes):
    """Return a part of an image with boxes, those named first on top, so large as a tile is."""
    x1, y1, x2, y2 = window
    tile = Image.fromarray(image[y1:y2, x1:x2])
    scale = TILE / max(tile.size)
    tile = tile.resize([max(1, round(side * scale)) for side in tile.size])
    boxes = ((boxes_px - (x1, y1, x1, y1)) * scale).clip(0, (*tile.size, *tile.size))
    texts = texts[:NAMED] + [""] * (len(texts) - NAMED)
    return draw_boxes(np.asarray(tile), boxes[::-1], labels[::-1], texts[::-1], num_classes)


def _shorten(text):
    """Return a text with its middle left out where it is long."""
    return text if len(text) <= 32 else f"{text[:20]}…{text[-11:]}"
