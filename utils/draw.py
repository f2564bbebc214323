"""Boxes drawn on images, and sheets of heat maps."""

import colorsys
import functools
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.detections import Detections
from utils.multibox.boxes import pairwise_intersection

# Ships with matplotlib, so that Latin, Greek and Cyrillic names can be drawn on every machine.
# Importing matplotlib for its folder alone would take longer than all the drawing.
FONT = Path(importlib.util.find_spec("matplotlib").origin).parent.joinpath(
    "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
MAX_HEAT_MAPS = 12  # classes that a sheet shows
LUMINANCE = (0.299, 0.587, 0.114)  # of R, G, B (ITU-R BT.601)

_print_once = functools.cache(print)


def find_font(text: str) -> Path:
    """Return a font with all characters of a text: FONT, or the first one of the system."""
    return _find_font(frozenset(ord(c) for c in text if c.isprintable() and not c.isascii()))


@functools.cache
def _find_font(characters):
    if not characters:
        return FONT
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    for path in (FONT, *map(Path, sorted(findSystemFonts()))):
        try:
            if characters | set(range(33, 127)) <= FT2Font(str(path)).get_charmap().keys():
                return path
        except (OSError, RuntimeError):  # a font that FreeType cannot read
            continue
    _print_once("note: no font on this machine has all characters of the class names, so that "
                "drawings show boxes instead; install one that has them, such as Noto Sans")
    return FONT


@functools.cache
def _load_font(path, height):
    return ImageFont.truetype(path, height)


def _fitting_font(text, height, room):
    """Return the font of a text, smaller than `height` pixels where `room` is too narrow."""
    font = _load_font(find_font(text), height)
    ratio = max(room, 1) / max(font.getlength(text), 1)
    return font if ratio >= 1 else font.font_variant(size=max(7, int(height * ratio)))


def class_colour(label: int, num_classes: int) -> tuple[int, int, int]:
    """Return an (R, G, B) colour; the classes are spread over the colour circle."""
    rgb = colorsys.hsv_to_rgb(label / num_classes, 0.9, 0.9)
    return tuple(round(255 * value) for value in rgb)


def draw_detections(image: np.ndarray, detections: Detections, class_names: Sequence[str]
                    ) -> Image.Image:
    """Return `draw_boxes` of Detections with their class names and scores, the best on top."""
    boxes, scores, labels = detections[::-1]
    texts = [f"{class_names[label]} {score:.2f}" for score, label in zip(scores, labels)]
    return draw_boxes(image, boxes, labels, texts, len(class_names))


def draw_boxes(image: np.ndarray, boxes_px: np.ndarray, labels: Sequence[int],
               texts: Sequence[str], num_classes: int) -> Image.Image:
    """Return a copy of an (H, W, 3) uint8 RGB image with boxes and a text on each.

    All boxes are drawn before the texts, so that no edge runs through a text. Lines and characters
    grow with the image. Boxes thinner than a pixel are left out.

    Args:
        boxes_px: (N, 4) xyxy in pixels; later ones on top.
        labels: N class indices, for the colours.
        texts: N strings, "" for none.
    """
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    line_width = math.ceil(sum(canvas.size) / 400)
    shown = [(tuple(map(float, box)), class_colour(int(label), num_classes), text)
             for box, label, text in zip(boxes_px, labels, texts)
             if box[2] - box[0] >= 1 and box[3] - box[1] >= 1]
    for (x1, y1, x2, y2), colour, _ in shown:
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour, width=line_width)
    shown = [item for item in shown if item[2]]
    height = max(11, round(sum(canvas.size) / 90))
    margin = max(2, round(height / 8))
    fonts = [_fitting_font(text, height, canvas.width - 2 * margin) for *_, text in shown]
    extents = [pen.textbbox((0, 0), text, font) for (*_, text), font in zip(shown, fonts)]
    sizes = [(right - left + 2 * margin, bottom - top + 2 * margin)
             for left, top, right, bottom in extents]
    plates = place_plates([box for box, *_ in shown], sizes, canvas.size)
    for (_, colour, text), font, (left, top, *_), plate in zip(shown, fonts, extents, plates):
        x1, y1, x2, y2 = plate
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=colour)
        pen.text((x1 + margin - left, y1 + margin - top), text, font=font,
                 fill="black" if np.dot(colour, LUMINANCE) > 140 else "white")
    return canvas


def place_plates(boxes: Sequence[Sequence[float]], sizes: Sequence[tuple[float, float]],
                 image_size: tuple[int, int]) -> list[list[float]]:
    """Return the xyxy plate of each box's text, of (width, height) `sizes`, inside the image.

    Above, below or in its box, or a line further off, wherever it covers the least of the plates of
    later boxes; of equals the first.
    """
    plates = []
    for (x1, y1, x2, y2), (width, height) in zip(boxes[::-1], sizes[::-1]):
        corners = [(x, y) for x in (x1, x2 - width) for y in (y1 - height, y2, y1, y2 - height)]
        corners += [(x1, y1 - 2 * height), (x1, y2 + height)]
        room = np.array(image_size) - (width, height)
        corners = np.array(corners).clip(0, room.clip(0)).round()
        options = np.concatenate([corners, corners + (width, height)], 1)
        covered = pairwise_intersection(options, np.array(plates).reshape(-1, 4)).sum(1)
        plates.append(options[covered.argmin()].tolist())
    return plates[::-1]


def write_line(canvas: Image.Image, text: str, position: tuple[int, int], *, height: int,
               room: int) -> None:
    """Write a line in black on a PIL image, from (x, y), `height` and at most `room` pixels."""
    font = _fitting_font(text, round(height * 0.65), room)
    middle = position[1] + height / 2
    ImageDraw.Draw(canvas).text((position[0], middle), text, "black", font, "lm")


def draw_heat(image: np.ndarray, heat: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """Return a sheet that shows where each class scores, the classes with the best scores first.

    Args:
        image: (H, W, 3) uint8 RGB.
        heat: (K, h, w) float32 scores in [0, 1] over the image.
        class_names: K names.
    """
    scale = min(1, 640 / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    order = heat.max((1, 2)).argsort()[::-1][:MAX_HEAT_MAPS]
    height, width = small.shape[:2]
    line, columns = 24, math.ceil(math.sqrt(len(order)))
    rows = math.ceil(len(order) / columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + line)), "white")
    for k, label in enumerate(order):
        scores = cv2.resize(heat[label], (width, height)).clip(0, 1)[..., None]
        colours = cv2.applyColorMap(np.uint8(scores * 255), cv2.COLORMAP_JET)[..., ::-1]
        mixed = small * (0.7 - 0.5 * scores) + colours * (0.2 + 0.4 * scores)
        x, y = k % columns * width, k // columns * (height + line)
        sheet.paste(Image.fromarray(np.uint8(mixed.clip(0, 255))), (x, y + line))
        write_line(sheet, f"{class_names[label]}: up to {heat[label].max():.2f}", (x + 4, y),
                   height=line, room=width - 8)
    return sheet
