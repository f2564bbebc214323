"""Boxes drawn on images, and sheets of heat maps."""

import colorsys
import contextlib
import functools
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.detections import Detections
from utils.multibox.boxes import area, pairwise_intersection

# Ships with matplotlib, whose import would take longer than all the drawing.
FONT = Path(find_spec("matplotlib").origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"


@functools.cache
def find_font(text: str) -> Path:
    """Return a font with all characters of a text: FONT, or the first one of the system."""
    if text.isascii():
        return FONT
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font
    for path in (FONT, *map(Path, sorted(findSystemFonts()))):
        with contextlib.suppress(OSError, RuntimeError):  # a font that FreeType cannot read
            if {*map(ord, text), *range(33, 127)} <= FT2Font(str(path)).get_charmap().keys():
                return path
    print(f"note: no font here has all characters of {text!r}; install one, such as Noto Sans")
    return FONT


@functools.lru_cache(256)
def _fitting_font(text, height, room):
    """Return the font of a text, smaller than `height` pixels where `room` is too narrow."""
    font = ImageFont.truetype(find_font(text.rstrip(" .0123456789")), height)  # without score
    ratio = max(room, 1) / max(font.getlength(text), 1)
    return font if ratio >= 1 else font.font_variant(size=max(7, int(height * ratio)))


def class_colour(label: int, num_classes: int) -> tuple[int, int, int]:
    """Return an (R, G, B) colour; the classes are spread over the colour circle."""
    return tuple(round(255 * x) for x in colorsys.hsv_to_rgb(label / num_classes, 0.9, 0.9))


def draw_detections(image: np.ndarray, detections: Detections) -> Image.Image:
    """Return `draw_boxes` of Detections with their class names and scores, the best on top."""
    detections = detections[::-1]
    texts = [f"{name} {score:.2f}" for name, score in zip(detections.names, detections.scores)]
    return draw_boxes(image, detections.boxes, detections.labels, texts,
                      len(detections.class_names))


def draw_boxes(image: np.ndarray, boxes_px: np.ndarray, labels: Sequence[int],
               texts: Sequence[str], num_classes: int) -> Image.Image:
    """Return an (H, W, 3) uint8 RGB image with (N, 4) xyxy boxes and texts, later ones on top."""
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    height = max(11, round(sum(canvas.size) / 90))  # of a line of text
    line_width, margin = math.ceil(sum(canvas.size) / 400), max(2, round(height / 8))
    shown, sizes = [], []
    for box, label, text in zip(np.asarray(boxes_px, float).tolist(), labels, texts):
        x1, y1, x2, y2 = box
        if x2 - x1 < 1 or y2 - y1 < 1:
            continue
        colour = class_colour(int(label), num_classes)
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour, width=line_width)
        if text:
            font = _fitting_font(text, height, canvas.width - 2 * margin)
            shown.append((box, colour, text, font))
            sizes.append((math.ceil(font.getlength(text)) + 2 * margin, height + margin))
    plates = place_plates([box for box, *_ in shown], sizes, canvas.size)
    for (_, colour, text, font), (x1, y1, x2, y2) in zip(shown, plates):  # above all boxes
        fill = "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else "white"
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=colour)
        pen.text(((x1 + x2) / 2, (y1 + y2) / 2), text, fill, font, "mm")
    return canvas


def place_plates(boxes: list, sizes: list, image_size: tuple[int, int]) -> list[list[float]]:
    """Return the xyxy plate of each text, near its box, where it hides least of the others."""
    plates, areas = [], area(np.array(boxes).reshape(-1, 4))
    for (x1, y1, x2, y2), (width, height) in zip(boxes[::-1], sizes[::-1]):
        corners = [(x, y) for x in (x1, x2 - width) for y in (y1 - height, y2, y1, y2 - height)]
        room = np.maximum(np.subtract(image_size, (width, height)), 0)
        corners = np.array(corners).clip(0, room).round()
        options = np.concatenate([corners, corners + (width, height)], 1)
        hidden = pairwise_intersection(options, np.array(plates).reshape(-1, 4)) / (width * height)
        shares = pairwise_intersection(options, np.array(boxes)) / areas  # of small boxes more
        plates.append(options[(hidden.sum(1) + shares.sum(1)).argmin()].tolist())
    return plates[::-1]


def write_line(canvas: Image.Image, text: str, position: tuple[int, int], *, height: int,
               room: int) -> None:
    """Write a line on a PIL image, from (x, y), `height` and at most `room` pixels."""
    font = _fitting_font(text, round(height * 0.65), room)
    ImageDraw.Draw(canvas).text((position[0], position[1] + height / 2), text, "black", font, "lm",
                                stroke_width=2, stroke_fill="white")


def draw_heat(image: np.ndarray, heat: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """Return a sheet of where K classes score, best first: (K, h, w) in [0, 1] over the image."""
    scale = min(1, 640 / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    order = heat.max((1, 2)).argsort()[::-1][:12]
    (height, width), line, columns = small.shape[:2], 24, math.ceil(math.sqrt(len(order)))
    size = (columns * width, math.ceil(len(order) / columns) * (height + line))
    sheet = Image.new("RGB", size, "white")
    for k, label in enumerate(order):
        scores = cv2.resize(heat[label], (width, height)).clip(0, 1)[..., None]
        colours = cv2.applyColorMap(np.uint8(scores * 255), cv2.COLORMAP_JET)[..., ::-1]
        mixed = small * (0.7 - 0.5 * scores) + colours * (0.2 + 0.4 * scores)
        x, y = k % columns * width, k // columns * (height + line)
        sheet.paste(Image.fromarray(np.uint8(mixed.clip(0, 255))), (x, y + line))
        write_line(sheet, f"{class_names[label]}: up to {heat[label].max():.2f}", (x + 4, y),
                   height=line, room=width - 8)
    return sheet
