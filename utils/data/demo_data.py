"""A small synthetic VOC data set of drawn shapes, for `make demo`."""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from utils.cli import make_folder, run, shorten
from utils.data.voc import voc_text
from utils.multibox.boxes import area, pairwise_intersection

# Class name -> hue in degrees: colours per class let a network learn the shapes in minutes.
HUES = {"circle": 0, "square": 95, "triangle": 205, "star": 300}
CLASS_NAMES = tuple(HUES)


@dataclass(frozen=True)
class DemoSettings:
    """Where the data goes and how much of it there is."""

    folder: str = "demo"  # gets VOCdevkit/VOC2007, classes.txt and held_out
    images: int = 600  # in all; voc_annotation.py splits them
    held_out: int = 8  # more images, without annotations, for predict.py
    seed: int = 0  # the same seed gives the same images


def main(settings: DemoSettings) -> None:
    """Draw the images and write their annotations in VOC's layout."""
    folder = make_folder(settings.folder)
    root = folder / "VOCdevkit" / "VOC2007"
    (folder / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")
    for number in range(settings.images + settings.held_out):
        image, objects = draw_scene(np.random.default_rng((settings.seed, number)))
        is_held_out = number >= settings.images
        images = make_folder(folder / "held_out" if is_held_out else root / "JPEGImages")
        cv2.imencode(".jpg", image[..., ::-1])[1].tofile(images / f"{number:06d}.jpg")
        if not is_held_out:
            names, boxes, difficult = zip(*objects)
            tags = [f"<difficult>{flag:d}</difficult>" for flag in difficult]
            text = voc_text(f"{number:06d}.jpg", image.shape[1::-1], names, np.array(boxes), tags)
            (make_folder(root / "Annotations") / f"{number:06d}.xml").write_text(text)
    print(f"drew {settings.images} images of {len(CLASS_NAMES)} shapes in {shorten(root)}")


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple]]:
    """Return an (H, W, 3) uint8 RGB image and its 1 to 4 (class, xyxy edges, difficult)."""
    size = rng.integers(260, 420, 2)  # width, height
    image, objects = _draw_background(*size.tolist(), rng), []
    for _ in range(rng.integers(1, 5)):
        name, is_small = CLASS_NAMES[rng.integers(len(CLASS_NAMES))], rng.random() < 0.06
        for _ in range(20):  # trials to find a place that leaves earlier objects visible
            side = rng.uniform(*((0.06, 0.09) if is_small else (0.2, 0.55))) * min(size)
            outline = _make_outline(name, rng) * side / 2 * rng.uniform(0.8, 1.25, 2)
            half = (outline.max(0) - outline.min(0)) / 2 + 1
            centre = rng.uniform(half, size - half)
            outline = outline - (outline.max(0) + outline.min(0)) / 2 + centre
            low, high = np.floor(outline.min(0)).clip(0), np.ceil(outline.max(0)).clip(None, size)
            box = tuple(map(int, (*low, *high)))
            boxes = np.array([box, *[other for _, other, _ in objects]], dtype=float)
            common = pairwise_intersection(boxes[:1], boxes[1:])[0]
            if (common <= 0.25 * np.minimum(area(boxes[1:]), area(boxes[:1]))).all():
                hue = (HUES[name] + rng.uniform(-15, 15)) % 360
                rgb = colorsys.hsv_to_rgb(hue / 360, rng.uniform(0.75, 1), rng.uniform(0.6, 1))
                points = np.rint(outline * 16).astype(np.int32)  # sixteenths: smooth edges
                cv2.fillPoly(image, [points], [round(255 * c) for c in rgb], cv2.LINE_AA, 4)
                objects.append((name, box, is_small))  # small objects are marked difficult
                break
    return image, objects


def _draw_background(width, height, rng):
    """Return an (H, W, 3) uint8 image of coarse and fine noise in pale colours."""
    image = np.zeros((height, width, 3), dtype=np.float32)
    for cells, strength in ((3, 18), (9, 14), (40, 9)):
        noise = rng.normal(0, strength, (cells, cells, 1)) + rng.normal(0, 4, (cells, cells, 3))
        image += cv2.resize(np.float32(noise), (width, height), interpolation=cv2.INTER_CUBIC)
    image += rng.normal(0, 6, image.shape) + rng.uniform(70, 185)
    return image.clip(0, 255).astype(np.uint8)


def _make_outline(name, rng):
    """Return an (N, 2) polygon of radius about 1 around the origin, turned at random."""
    corners = {"circle": 48, "square": 4, "triangle": 3, "star": 10}[name]
    start = np.pi / 4 + rng.uniform(-0.25, 0.25) if name == "square" else rng.uniform(0, 2 * np.pi)
    angles = start + 2 * np.pi * np.arange(corners) / corners
    outline = np.stack([np.cos(angles), np.sin(angles)], 1)
    outline[1::2] *= 0.42 if name == "star" else 1
    return outline


if __name__ == "__main__":
    run(main, DemoSettings)
