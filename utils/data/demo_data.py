"""A small synthetic VOC data set for `make demo`: drawn shapes on textured backgrounds.

    python -m utils.data.demo_data --folder demo
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from utils.cli import UserError, make_folder, run, shorten
from utils.multibox.boxes import area, pairwise_intersection

# Class name -> hue in degrees. Colours per class let a network learn the shapes in minutes.
HUES = {"circle": 0, "square": 95, "triangle": 205, "star": 300}
CLASS_NAMES = tuple(HUES)
MAX_COVERED = 0.25  # of an object's box by others
DrawnObject = tuple[str, tuple[int, int, int, int], bool]  # class name, xyxy edges, difficult


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


def main(settings: DemoSettings) -> None:
    """Draw the images and write their annotations in VOC's layout."""
    if settings.images < 1 or settings.seed < 0:
        raise UserError("images must be at least 1, and seed 0: got "
                        f"{settings.images} and {settings.seed}.")
    folder = make_folder(settings.folder)
    root = make_folder(folder / "VOCdevkit" / "VOC2007")
    (folder / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")
    folders = [make_folder(path) for path in (root / "JPEGImages", folder / "held_out")]
    annotations = make_folder(root / "Annotations")
    for number in range(settings.images + settings.held_out):
        name, held_out = f"{number:06d}", number >= settings.images
        image, objects = draw_scene(np.random.default_rng((settings.seed, number)))
        cv2.imencode(".jpg", image[..., ::-1])[1].tofile(folders[int(held_out)] / f"{name}.jpg")
        if not held_out:
            (annotations / f"{name}.xml").write_text(_to_xml(name, image.shape, objects))
    print(f"drew {settings.images} images of {len(CLASS_NAMES)} shapes in {shorten(root)}")


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[DrawnObject]]:
    """Return an image, (H, W, 3) uint8 RGB, and its 1 to 4 objects; both depend on `rng` alone."""
    width, height = rng.integers(260, 420, 2)
    image, objects = draw_background(width, height, rng), []
    for _ in range(rng.integers(1, 5)):
        name = CLASS_NAMES[rng.integers(len(CLASS_NAMES))]
        small = rng.random() < 0.06  # small objects are marked difficult
        outline = _place_shape(name, small, (width, height), objects, rng)
        if outline is not None:
            hue = (HUES[name] + rng.uniform(-15, 15)) % 360
            rgb = colorsys.hsv_to_rgb(hue / 360, rng.uniform(0.75, 1), rng.uniform(0.6, 1))
            # In sixteenths of a pixel, so that edges are smooth.
            cv2.fillPoly(image, [np.rint(outline * 16).astype(np.int32)],
                         [round(255 * value) for value in rgb], cv2.LINE_AA, 4)
            objects.append((name, bounds(outline, width, height), small))
    return image, objects


def draw_background(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Return an (H, W, 3) uint8 image of coarse and fine noise in pale colours."""
    image = np.zeros((height, width, 3), dtype=np.float32)
    for cells, strength in ((3, 18), (9, 14), (40, 9)):
        noise = rng.normal(0, strength, (cells, cells, 1)) + rng.normal(0, 4, (cells, cells, 3))
        image += cv2.resize(noise.astype(np.float32), (int(width), int(height)),
                            interpolation=cv2.INTER_CUBIC)
    image += rng.normal(0, 6, image.shape) + rng.uniform(70, 185)
    return image.clip(0, 255).astype(np.uint8)


def _place_shape(name, small, size, objects, rng):
    """Return an (N, 2) outline that leaves earlier objects visible, or None after 20 trials."""
    for _ in range(20):
        side = rng.uniform(*((0.06, 0.09) if small else (0.2, 0.55))) * min(size)
        outline = make_outline(name, rng) * side / 2 * rng.uniform(0.8, 1.25, 2)
        half = (outline.max(0) - outline.min(0)) / 2 + 1
        centre = rng.uniform(half, np.array(size) - half)
        outline = outline - (outline.max(0) + outline.min(0)) / 2 + centre
        if not hides_any(bounds(outline, *size), objects):
            return outline
    return None


def hides_any(box: Sequence[float], objects: Sequence[DrawnObject]) -> bool:
    """Tell whether the box covers too much of an earlier object, or is covered too much."""
    others = np.array([other for _, other, _ in objects], dtype=float).reshape(-1, 4)
    box = np.array([box], dtype=float)
    common = pairwise_intersection(box, others)[0]
    return bool((common > MAX_COVERED * np.minimum(area(others), area(box))).any())


def make_outline(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return an (N, 2) polygon of radius about 1 around the origin, turned at random."""
    radii = np.tile({"star": [1.0, 0.42]}.get(name, [1.0]),
                    {"circle": 48, "square": 4, "triangle": 3, "star": 5}[name])
    start = 0.0
    if name == "square":
        start = np.pi / 4 + rng.uniform(-0.25, 0.25)
    elif name != "circle":
        start = rng.uniform(0, 2 * np.pi)
    angles = start + 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]


def bounds(outline: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the xyxy edges of the pixels that an (N, 2) polygon touches."""
    low = np.floor(outline.min(0)).clip(0)
    high = np.ceil(outline.max(0)).clip(None, (width, height))
    return tuple(map(int, (*low, *high)))


def _to_xml(name, shape, objects):
    """Return a VOC annotation; VOC counts pixels from 1 and includes the last."""
    rows = "".join(
        f"<object><name>{label}</name><difficult>{int(difficult)}</difficult><bndbox>"
        f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>\n" for label, (x1, y1, x2, y2), difficult in objects)
    return (f"<annotation><filename>{name}.jpg</filename><size><width>{shape[1]}</width>"
            f"<height>{shape[0]}</height><depth>3</depth></size>\n{rows}</annotation>\n")


if __name__ == "__main__":
    run(main, DemoSettings)
