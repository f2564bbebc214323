"""A few images of a list with their objects drawn on, alone or beside what a detector finds."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from utils.cli import UserError
from utils.data.annotations import Record
from utils.draw import draw_boxes, write_line
from utils.image import load_image
from utils.multibox.boxes import pairwise_intersection

TILE = 440  # pixels of the longer side of an image on a sheet
GAP, LINE = 8, 22  # pixels between tiles, and of a line of text
ZOOM = TILE / 20  # a typical object has at least 20 pixels on its tile
MAX_NAMED, MAX_DRAWN = 8, 30  # boxes of a tile with a text, and in all: more would hide the image
NUM_BEST = 3  # detections that are drawn where none reaches the confidence, as early in training


def choose_samples(records: Sequence[Record], count: int = 8, *, seed: int = 0) -> list[Record]:
    """Return `count` records with objects, or all where there are fewer; the same ones each time.

    Next comes a record with the class that was chosen least, so that rare classes are shown.
    """
    order = np.random.default_rng(seed).permutation(len(records))
    left = [records[k] for k in order if len(records[k].labels)]
    shown, chosen = Counter(), []
    while left and len(chosen) < count:
        rarest = min(range(len(left)), key=lambda k: min(shown[label] for label in
                                                         left[k].labels.tolist()))
        chosen.append(left.pop(rarest))
        shown.update(set(chosen[-1].labels.tolist()))
    return chosen


def choose_window(boxes_px: np.ndarray, width: int, height: int, *, zoom: float = ZOOM
                  ) -> tuple[int, int, int, int]:
    """Return the part of an image to show, xyxy in integer pixels: where most of its objects are.

    A square, cut off by the edges of the image; its side is `zoom` times the median longer side of
    the (G, 4) xyxy boxes, G >= 1, and at least 64 pixels.
    """
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
    """Return a part of an image with boxes, resized to `side` pixels before it is drawn on.

    Lines and texts are thus of one size, whatever that of the (H, W, 3) uint8 RGB image. `texts`
    are one a box, "" for none. Boxes (N, 4) xyxy in pixels of the image end at the window.
    """
    x1, y1, x2, y2 = window
    part = Image.fromarray(image[y1:y2, x1:x2])
    scale = side / max(part.size)
    resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    part = part.resize([max(1, round(length * scale)) for length in part.size], resample)
    boxes = ((boxes_px - (x1, y1, x1, y1)) * scale).clip(0, (*part.size, *part.size))
    return draw_boxes(np.asarray(part), boxes, labels, texts, num_classes)


def draw_record(record: Record, image: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """Return the part of a record's (H, W, 3) image where most objects are, objects drawn on."""
    areas = np.prod(record.boxes_px[:, 2:] - record.boxes_px[:, :2], 1)
    order = np.argsort(areas, kind="stable")  # the largest last, on top
    boxes, labels = record.boxes_px[order], record.labels[order]
    texts = [class_names[label] + (" (difficult)" if difficult else "")
             for label, difficult in zip(labels, record.difficult[order])]
    window = choose_window(record.boxes_px, image.shape[1], image.shape[0])
    return draw_window(image, window, boxes, labels, _last_only(texts), len(class_names))


def draw_samples(records: Sequence[Record], detector: Any, title: str) -> Image.Image | None:
    """Return a sheet of images, each beside itself: ground truth left, detections right.

    `detector` is an SSD; its own confidence counts. An image that cannot be read is left out; None
    where none can.
    """
    tiles = []
    for record in records:
        try:
            tiles += _draw_pair(record, detector)
        except UserError:  # gone since the start, perhaps
            continue
    if not tiles:
        return None
    width, height, columns = TILE + GAP, LINE + TILE + GAP, min(4, len(tiles))
    sheet = Image.new("RGB", (columns * width, LINE + -(-len(tiles) // 4) * height), "white")
    title += (f"; left: ground truth, right: detections with a score above "
              f"{detector.settings.confidence:g}, else the best {NUM_BEST}")
    write_line(sheet, title, (0, 0), height=LINE, room=sheet.width)
    for k, (caption, tile) in enumerate(tiles):
        x, y = k % 4 * width, LINE + k // 4 * height
        write_line(sheet, caption, (x, y), height=LINE, room=TILE)
        sheet.paste(tile, (x, y + LINE))
    return sheet


def _draw_pair(record, detector):
    """Return [(caption, tile)] of the ground truth and of the detections of a record."""
    image, names = load_image(record.path), detector.class_names
    window = choose_window(record.boxes_px, image.shape[1], image.shape[0])
    detections = detector.detect_batch([image], confidence=0.01)[0]
    detections = detections[pairwise_intersection(detections.boxes, np.array([window]))[:, 0] > 0]
    number = int((detections.scores > detector.settings.confidence).sum())
    boxes, scores, labels = detections[:min(number, MAX_DRAWN) or NUM_BEST][::-1]
    texts = [f"{names[label]} {score:.2f}" for label, score in zip(labels, scores)]
    caption = f"{number} detections" if number else f"none; the best {len(boxes)}"
    return [(record.path.name, draw_record(record, image, names)),
            (caption, draw_window(image, window, boxes, labels, _last_only(texts), len(names)))]


def _last_only(texts):
    """Return texts without all but the last few, which are drawn on top."""
    return [""] * (len(texts) - MAX_NAMED) + texts[-MAX_NAMED:]
