"""A small synthetic VOC data set for `make demo`: drawn shapes on textured backgrounds.

    python -m utils.data.demo_data --folder demo
"""

import colorsys
import math
from dataclasses import dataclass

import cv2
import numpy as np

from utils.multibox.boxes import area, pairwise_intersection
from utils.cli import UserError, make_folder, run, shorten

# Class name -> hue in degrees: colours of their own let a network learn the shapes in minutes.
HUES = {"circle": 0, "square": 95, "triangle": 205, "star": 300}
CLASS_NAMES = tuple(HUES)
HUE_SPREAD = 15
IMAGE_SIDES = (260, 420)  # pixels
OBJECTS = (1, 4)  # an image
OBJECT_SIDES = (0.2, 0.55)  # of the image's shorter side
SMALL_SIDES = (0.06, 0.09)  # small objects are marked difficult
SMALL_SHARE = 0.06
MAX_COVERED = 0.25  # of an object's box by others'


@dataclass(frozen=True)
class DemoSettings:
    """Where the data goes and how much of it there is."""

    # Gets VOCdevkit/VOC2007, classes.txt and held_out; images of the same number are replaced.
    folder: str = "demo"
    # Images in all; voc_annotation.py splits them.
    images: int = 600
    # More images, without annotations, in held_out/ for predict.py.
    held_out: int = 8
    # The same seed gives the same images.
    seed: int = 0


def main(settings):
    """Draw the images and write their annotations in VOC's layout."""
    if settings.images < 1 or settings.seed < 0:
        raise UserError("images must be at least 1, and seed 0: got "
                        f"{settings.images} and {settings.seed}.")
    folder = make_folder(settings.folder)
    root = folder / "VOCdevkit" / "VOC2007"
    (folder / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")
    images, annotations = make_folder(root / "JPEGImages"), make_folder(root / "Annotations")
    held_out = make_folder(folder / "held_out")
    for number in range(settings.images + settings.held_out):
        name = f"{number:06d}"
        image, objects = draw_scene(np.random.default_rng((settings.seed, number)))
        place = images if number < settings.images else held_out
        cv2.imencode(".jpg", image[..., ::-1])[1].tofile(place / f"{name}.jpg")
        if place is images:
            (annotations / f"{name}.xml").write_text(to_xml(name, image.shape, objects))
    print(f"drew {settings.images} images of {len(CLASS_NAMES)} shapes in {shorten(root)}")


def draw_scene(rng):
    """Draw one image, which depends on the np.random.Generator alone.

    Returns (H, W, 3) uint8 RGB; list of (class name, xyxy edges in pixels, difficult).
    """
    width, height = rng.integers(*IMAGE_SIDES, 2)
    image = draw_background(width, height, rng)
    objects = []
    for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
        name = CLASS_NAMES[rng.integers(len(CLASS_NAMES))]
        small = rng.random() < SMALL_SHARE
        outline = place_shape(name, small, (width, height), objects, rng)
        if outline is not None:
            # It is filled in sixteenths of a pixel, so that edges are smooth.
            cv2.fillPoly(image, [np.rint(outline * 16).astype(np.int32)], pick_colour(name, rng),
                         cv2.LINE_AA, 4)
            objects.append((name, bounds(outline, width, height), small))
    return image, objects


def draw_background(width, height, rng):
    """Return an image of coarse and fine noise in pale colours."""
    image = np.zeros((height, width, 3), dtype=np.float32)
    for cells, strength in ((3, 18), (9, 14), (40, 9)):
        noise = rng.normal(0, strength, (cells, cells, 1)) + rng.normal(0, 4, (cells, cells, 3))
        image += cv2.resize(noise.astype(np.float32), (int(width), int(height)),
                            interpolation=cv2.INTER_CUBIC)
    image += rng.normal(0, 6, image.shape) + rng.uniform(70, 185)
    return image.clip(0, 255).astype(np.uint8)


def place_shape(name, small, size, objects, rng):
    """Return an outline that leaves earlier objects visible, or None after some trials."""
    for _ in range(20):
        side = rng.uniform(*(SMALL_SIDES if small else OBJECT_SIDES)) * min(size)
        outline = make_outline(name, rng) * side / 2 * rng.uniform(0.8, 1.25, 2)
        half = (outline.max(0) - outline.min(0)) / 2 + 1
        centre = rng.uniform(half, np.array(size) - half)
        outline = outline - (outline.max(0) + outline.min(0)) / 2 + centre
        if not hides_any(bounds(outline, *size), objects):
            return outline
    return None


def hides_any(box, objects):
    """Tell whether the box covers too much of an earlier object, or is covered too much."""
    others = np.array([other for _, other, _ in objects], dtype=float).reshape(-1, 4)
    box = np.array([box], dtype=float)
    common = pairwise_intersection(box, others)[0]
    return (common > MAX_COVERED * np.minimum(area(others), area(box))).any()


def make_outline(name, rng):
    """Return an (N, 2) polygon of radius about 1 around the origin, turned at random."""
    if name == "circle":
        radii, start = np.ones(48), 0.0
    elif name == "square":
        radii, start = np.ones(4), math.pi / 4 + rng.uniform(-0.25, 0.25)
    else:
        radii = np.ones(3) if name == "triangle" else np.tile([1.0, 0.42], 5)
        start = rng.uniform(0, 2 * math.pi)
    angles = start + 2 * math.pi * np.arange(len(radii)) / len(radii)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]


def pick_colour(name, rng):
    """Return a vivid RGB colour around the hue of the class."""
    hue = (HUES[name] + rng.uniform(-HUE_SPREAD, HUE_SPREAD)) % 360
    rgb = colorsys.hsv_to_rgb(hue / 360, rng.uniform(0.75, 1), rng.uniform(0.6, 1))
    return [round(255 * value) for value in rgb]


def bounds(outline, width, height):
    """Return the whole pixels that a polygon touches: (xmin, ymin, xmax, ymax) edges."""
    low = np.floor(outline.min(0)).clip(0)
    high = np.ceil(outline.max(0)).clip(None, (width, height))
    return tuple(map(int, (*low, *high)))


def to_xml(name, shape, objects):
    """Return a VOC annotation; VOC counts pixels from 1 and includes the last."""
    rows = "".join(
        f"<object><name>{label}</name><difficult>{int(difficult)}</difficult><bndbox>"
        f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>\n" for label, (x1, y1, x2, y2), difficult in objects)
    return (f"<annotation><filename>{name}.jpg</filename><size><width>{shape[1]}</width>"
            f"<height>{shape[0]}</height><depth>3</depth></size>\n{rows}</annotation>\n")


if __name__ == "__main__":
    run(main, DemoSettings)
