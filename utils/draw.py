"""Boxes drawn on images."""

import colorsys
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

# Ships with matplotlib, so that Latin, Greek and Cyrillic names can be drawn on every machine.
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def class_colour(label, num_classes):
    """Return an (R, G, B) colour; the classes are spread over the colour circle."""
    rgb = colorsys.hsv_to_rgb(label / max(num_classes, 1), 0.9, 0.9)
    return tuple(round(255 * value) for value in rgb)


def draw_detections(image, detections, class_names):
    """Return a copy of an image with boxes, class names and scores.

    Args:
        image: (H, W, 3) uint8 RGB.
        detections: Detections with boxes_px in `boxes`, as NumPy arrays.
        class_names: names by label.

    Returns:
        PIL image in RGB, of the same size.
    """
    texts = [f"{class_names[label]} {score:.2f}" for _, score, label in zip(*detections)]
    # The best detection is drawn last, on top.
    return draw_boxes(image, detections.boxes[::-1], detections.labels[::-1], texts[::-1],
                      len(class_names))


def draw_boxes(image, boxes_px, labels, texts, num_classes):
    """Return a copy of an image with boxes and a text on each, later ones on top.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes_px: (N, 4) xyxy edges in pixels.
        labels: (N,) class indices, for the colours.
        texts: N strings.
        num_classes: without background.

    Returns:
        PIL image in RGB, of the same size.
    """
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    width = max(2, round(sum(canvas.size) / 400))
    font = ImageFont.truetype(str(FONT), max(11, round(sum(canvas.size) / 75)))
    for box, label, text in zip(boxes_px, labels, texts):
        colour = class_colour(int(label), num_classes)
        x1, y1, x2, y2 = (float(edge) for edge in box)
        if x2 - x1 < 1 or y2 - y1 < 1:
            continue
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour, width=width)
        _write_label(pen, font, text, (x1, y1), colour, canvas.size)
    return canvas


def _write_label(pen, font, text, corner, colour, size):
    """Write on a filled plate above the corner, or below it at the image's top."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    plate_w, plate_h = right - left + 4, bottom - top + 4
    x = max(0, min(corner[0], size[0] - plate_w))
    y = corner[1] - plate_h if corner[1] >= plate_h else corner[1]
    pen.rectangle((x, y, x + plate_w, y + plate_h), fill=colour)
    dark = sum(colour) > 380
    pen.text((x + 2 - left, y + 2 - top), text, font=font, fill="black" if dark else "white")
