"""A few images of a list with their objects drawn on, alone or beside what a detector finds."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from utils.data.annotations import Record
from utils.draw import draw_boxes, write_line
from utils.image import load_image

TILE, GAP, LINE = 440, 8, 22  # pixels of a tile's longer side, between tiles, of a line of text
DETECTED, MISSED, TRUE, NUM_COLOURS = 0, 1, 3, 6  # red, yellow, cyan: most eyes tell them apart
MAX_DRAWN = 30  # detections, or names of objects, on a tile: more would hide the image
NUM_BEST = 3  # detections that are drawn where none reaches the confidence, as early in training


def choose_samples(records: Sequence[Record], count: int = 8, *, seed: int = 0) -> list[Record]:
    """Return at most `count` records with objects, of all classes; the same ones each time."""
    order = np.random.default_rng(seed).permutation(len(records))
    left = [records[k] for k in order if len(records[k].labels)]
    shown, chosen = Counter(), []
    while left and len(chosen) < count:
        rarest = min(left, key=lambda record: min(shown[label] for label in record.labels.tolist()))
        left = [record for record in left if record is not rarest]
        chosen.append(rarest)
        shown.update(set(rarest.labels.tolist()))
    return chosen


def choose_window(boxes_px: np.ndarray, width: int, height: int, *, zoom: float = TILE / 20
                  ) -> tuple[int, int, int, int]:
    """Return the xyxy pixels where most boxes are, `zoom` times as large as their median."""
    side = max(64, zoom * np.median((boxes_px[:, 2:] - boxes_px[:, :2]).max(1)))
    sides = np.minimum(side, (width, height)).astype(int)
    centres = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2
    neighbours = (np.abs(centres[:, None] - centres) <= side / 2).all(2).sum(1)
    corner = np.clip(centres[neighbours.argmax()] - sides / 2, 0, (width, height) - sides)
    x1, y1 = corner.astype(int).tolist()
    return x1, y1, x1 + int(sides[0]), y1 + int(sides[1])


def draw_window(image: np.ndarray, window: tuple[int, int, int, int], boxes_px: np.ndarray,
                labels: Sequence[int], texts: Sequence[str], num_classes: int, *, side: int = TILE
                ) -> Image.Image:
    """Return a part of an image, resized to `side` pixels, then (N, 4) xyxy boxes drawn on it."""
    x1, y1, x2, y2 = window
    part = ImageOps.contain(Image.fromarray(image[y1:y2, x1:x2]), (side, side))
    boxes = (boxes_px - (x1, y1, x1, y1)) * part.width / (x2 - x1)
    boxes = boxes.clip(0, (*part.size, *part.size))
    return draw_boxes(np.asarray(part), boxes, labels, texts, num_classes)


def draw_marked(image: np.ndarray, boxes_px: np.ndarray, colours: Sequence[int],
                others_px: np.ndarray) -> Image.Image:
    """Return the part of an image around some boxes, drawn above others, which are TRUE ones."""
    size = np.array([image.shape[1], image.shape[0]] * 2)
    inside = boxes_px.clip(0, size)
    extent = np.concatenate([inside[:, :2].min(0), inside[:, 2:].max(0)])[None]
    boxes = np.concatenate([others_px, boxes_px])
    texts = [""] * len(boxes)  # they would hide what is small
    return draw_window(image, choose_window(extent, *size[:2].tolist(), zoom=2.2), boxes,
                       [TRUE] * len(others_px) + [*colours], texts, NUM_COLOURS)


def draw_record(record: Record, image: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """Return the part of a record's (H, W, 3) image where most objects are, objects drawn on."""
    window = choose_window(record.boxes_px, image.shape[1], image.shape[0])
    texts = [class_names[label] + (" (difficult)" if difficult else "")
             for label, difficult in zip(record.labels, record.difficult)]
    texts = texts if len(texts) <= MAX_DRAWN else [""] * len(texts)
    return draw_window(image, window, record.boxes_px, record.labels, texts, len(class_names))


def draw_samples(records: Sequence[Record], detector: Any, title: str, *, confidence: float
                 ) -> Image.Image | None:
    """Return a sheet of images with ground truth left, an SSD's detections right, or None."""
    names, tiles = detector.class_names, []
    for record in records:
        image = load_image(record.path)
        window = choose_window(record.boxes_px, image.shape[1], image.shape[0])
        detections = detector.detect_batch([image], confidence=0.01)[0]
        number = int((detections.scores > confidence).sum())
        boxes, scores, labels = detections[:min(number, MAX_DRAWN) or NUM_BEST][::-1]
        texts = [f"{names[label]} {score:.2f}" for label, score in zip(labels, scores)]
        tile = draw_window(image, window, boxes, labels, texts, len(names))
        tiles += [(record.path.name, draw_record(record, image, names)),
                  (f"{number} detections", tile)]
    width, height, rows = TILE + GAP, LINE + TILE + GAP, (len(tiles) + 3) // 4
    sheet = Image.new("RGB", (4 * width, LINE + rows * height), "white")
    title = f"{title}; right: scores above {confidence:g}, else the best {NUM_BEST} detections"
    write_line(sheet, title, (0, 0), height=LINE, room=sheet.width)
    for k, (caption, tile) in enumerate(tiles):
        x, y = k % 4 * width, LINE + k // 4 * height
        write_line(sheet, caption, (x, y), height=LINE, room=TILE)
        sheet.paste(tile, (x, y + LINE))
    return sheet if tiles else None
