"""Boxes drawn on images."""

import colorsys
import functools
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.multibox.boxes import pairwise_intersection

# Ships with matplotlib, so that Latin, Greek and Cyrillic names can be drawn on every machine.
# Importing matplotlib for its folder alone would take longer than all the drawing.
FONT = Path(importlib.util.find_spec("matplotlib").origin).with_name("mpl-data").joinpath(
    "fonts", "ttf", "DejaVuSans.ttf")
PLATE_EDGE = 1 / 8  # between a text and the edge of its plate, of the height of letters
MOST_HEAT = 12  # classes that a heat map shows
LUMINANCE = (0.299, 0.587, 0.114)  # of R, G, B (ITU-R BT.601)


_say_once = functools.cache(print)


def find_font(text):
    """Return the path of a font with all letters of a text; FONT where none here has them."""
    wanted = frozenset(ord(letter) for letter in text if letter.isprintable())
    return FONT if text.isascii() or wanted <= _letters(FONT) else _find_other_font(wanted)


@functools.cache
def _find_other_font(wanted):
    for path in _system_fonts():
        if wanted <= _letters(path):
            return path
    _say_once("no font on this machine has all letters of the class names; drawings show boxes in "
              "the place of some. Install one that has them, such as Noto Sans.")
    return FONT


@functools.cache
def _system_fonts():
    from matplotlib.font_manager import findSystemFonts

    return sorted(findSystemFonts())


@functools.cache
def _letters(path):
    """Return the code points that a font file has glyphs for."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):  # a font that FreeType cannot read
        return frozenset()


def class_colour(label, num_classes):
    """Return an (R, G, B) colour; the classes are spread over the colour circle."""
    rgb = colorsys.hsv_to_rgb(label / num_classes, 0.9, 0.9)
    return tuple(round(255 * value) for value in rgb)


def draw_detections(image, detections, class_names):
    """Return `draw_boxes` of class names and scores.

    `detections` are Detections with boxes_px in `boxes`, as NumPy arrays.
    """
    boxes, scores, labels = (field[::-1] for field in detections)  # the best is drawn last, on top
    texts = [f"{class_names[label]} {score:.2f}" for score, label in zip(scores, labels)]
    return draw_boxes(image, boxes, labels, texts, len(class_names))


def draw_boxes(image, boxes_px, labels, texts, num_classes):
    """Return a copy of an image with boxes and a text on each, later ones on top.

    All boxes are drawn before the texts, so that no edge runs through a text. Lines and letters
    grow with the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes_px: (N, 4) xyxy edges in pixels.
        labels: (N,) class indices, for the colours.
        texts: N strings; "" for none.
        num_classes: without background.

    Returns:
        PIL image in RGB, of the same size.
    """
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    width = math.ceil(sum(canvas.size) / 400)
    shown = [(tuple(map(float, box)), class_colour(int(label), num_classes), text)
             for box, label, text in zip(boxes_px, labels, texts)
             if box[2] - box[0] >= 1 and box[3] - box[1] >= 1]
    for (x1, y1, x2, y2), colour, _ in shown:
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour, width=width)
    shown = [item for item in shown if item[2]]
    height = max(11, round(sum(canvas.size) / 90))
    edge = max(2, round(height * PLATE_EDGE))
    room = canvas.width - 2 * edge
    fonts = [_fitting_font(text, height, room) for *_, text in shown]
    extents = [pen.textbbox((0, 0), text, font) for font, (*_, text) in zip(fonts, shown)]
    plates = _place_plates([box for box, *_ in shown], canvas.size, extents, edge)
    for plate, (left, top, *_), font, (_, colour, text) in zip(plates, extents, fonts, shown):
        x, y, right, bottom = plate
        pen.rectangle((x, y, right - 1, bottom - 1), fill=colour)
        pen.text((x + edge - left, y + edge - top), text, font=font,
                 fill="black" if np.dot(colour, LUMINANCE) > 140 else "white")
    return canvas


def _fitting_font(text, height, room):
    """Return the font of a text, smaller than `height` pixels where `room` is too narrow."""
    font = _font(find_font(text), height)
    share = max(room, 1) / max(font.getlength(text), 1)
    return font if share >= 1 else font.font_variant(size=max(7, int(height * share)))


@functools.cache
def _font(path, height):
    return ImageFont.truetype(path, height)


def write_line(canvas, text, place, *, height, room):
    """Write a line in black on a PIL image, from (x, y), `height` and at most `room` pixels."""
    font = _fitting_font(text, round(height * 0.65), room)
    ImageDraw.Draw(canvas).text((place[0], place[1] + height / 2), text, "black", font, "lm")


def draw_heat(image: np.ndarray, heat: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """Return a sheet that shows where each class scores, the classes with the best scores first.

    Args:
        image: (H, W, 3) uint8 RGB.
        heat: (K, h, w) float32 scores in [0, 1] over the image.
        class_names: K names.
    """
    scale = min(1, 640 / max(image.shape[:2]))
    tile = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    order = heat.max((1, 2)).argsort()[::-1][:MOST_HEAT]
    columns, line = math.ceil(math.sqrt(len(order))), 24
    height, width = tile.shape[:2]
    rows = -(-len(order) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + line)), "white")
    for k, label in enumerate(order):
        share = cv2.resize(heat[label], (width, height)).clip(0, 1)[..., None]
        colours = cv2.applyColorMap(np.uint8(share * 255), cv2.COLORMAP_JET)[..., ::-1]
        place = k % columns * width, k // columns * (height + line)
        mixed = tile * (0.7 - 0.5 * share) + colours * (0.2 + 0.4 * share)
        sheet.paste(Image.fromarray(np.uint8(mixed.clip(0, 255))), (place[0], place[1] + line))
        write_line(sheet, f"{class_names[label]}: up to {heat[label].max():.2f}",
                   (place[0] + 4, place[1]), height=line, room=width - 8)
    return sheet


def _place_plates(boxes, size, extents, edge=2):
    """Return [x1, y1, x2, y2] of a plate for each text, inside the image where it fits at all.

    Above, below or in its box, or a line further off, wherever it covers the least of the plates of
    later boxes; of equals the first.
    """
    plates = []
    for (x1, y1, x2, y2), (left, top, right, bottom) in zip(boxes[::-1], extents[::-1]):
        sides = np.array([right - left, bottom - top]) + 2 * edge
        corners = np.array([(x, y) for x in (x1, x2 - sides[0])
                            for y in (y1 - sides[1], y2, y1, y2 - sides[1])]
                           + [(x1, y) for y in (y1 - 2 * sides[1], y2 + sides[1])])
        corners = corners.clip(0, (np.array(size) - sides).clip(0)).round()
        options = np.concatenate([corners, corners + sides], 1)
        covered = pairwise_intersection(options, np.array(plates).reshape(-1, 4)).sum(1)
        plates.append(options[covered.argmin()].tolist())
    return plates[::-1]
