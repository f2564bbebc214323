"""Small objects in large images: mAP without and with `tile`, after the same training steps.

    python -m benchmarks.tiles

Draws images of 3000x2000 pixels with shapes of 20 to 60 pixels, trains twice from the same start,
and measures both on other images.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from get_map import SSD, SSDSettings
from train import TrainSettings
from train import main as train
from utils.cli import make_folder, run
from utils.data.annotations import Record, list_text, read_list
from utils.data.demo_data import (CLASS_NAMES, bounds, draw_background, hides_any, make_outline,
                                  pick_colour)
from utils.evaluation.voc_ap import mean_ap


@dataclass(frozen=True)
class TileSettings:
    """What is drawn, and how it is trained."""

    folder: str = "tiles"
    train_images: int = 32
    test_images: int = 4
    image_size: tuple[int, int] = (3000, 2000)
    objects: int = 30  # an image
    object_sides: tuple[float, float] = (20, 60)  # pixels
    tiles: tuple[int, ...] = (0, 300)
    # As in train.py. Layers with ImageNet weights stay as they are, so that minutes are enough.
    backbone: str = "vgg"
    backbone_weights: str = "imagenet"
    epochs: int = 20
    learning_rate: float = 4e-3


def main(settings: TileSettings) -> None:
    """Draw, train without and with, measure."""
    folder = make_folder(settings.folder)
    for number, (name, count) in enumerate((("train", settings.train_images),
                                            ("test", settings.test_images))):
        records = [draw_image(folder / f"{name}{k}.jpg", np.random.default_rng((number, k)),
                              settings) for k in range(count)]
        (folder / f"{name}.txt").write_text(list_text(records, CLASS_NAMES))
    records = read_list(folder / "test.txt")[0]
    for tile in settings.tiles:
        train(TrainSettings(
            train_list=str(folder / "train.txt"), val_list="", save_dir=settings.folder,
            run_name=f"tile{tile}_{time.time():.0f}", tile=tile, backbone=settings.backbone,
            backbone_weights=settings.backbone_weights, epochs=settings.epochs,
            freeze_epochs=settings.epochs, freeze_batch_size=8,
            learning_rate=settings.learning_rate, sample_period=0))
        detector = SSD(SSDSettings(save_dir=settings.folder, precision="auto"))
        start = time.perf_counter()
        value = mean_ap(detector.evaluate(records)[0])
        seconds = (time.perf_counter() - start) / len(records)
        print(f"tile {tile}: mAP@0.5 {value:.4f}, {seconds:.2f} s an image")


def draw_image(path: Path, rng: np.random.Generator, settings: TileSettings) -> Record:
    """Write a textured image with shapes, and return its Record."""
    size, objects = np.array(settings.image_size), []
    image = draw_background(*size, rng)
    while len(objects) < settings.objects:
        name = CLASS_NAMES[rng.integers(len(CLASS_NAMES))]
        half = rng.uniform(*settings.object_sides) / 2
        outline = make_outline(name, rng) * half + rng.uniform(half, size - half)
        box = bounds(outline, *size)
        if not hides_any(box, objects):
            cv2.fillPoly(image, [np.rint(outline * 16).astype(np.int32)], pick_colour(name, rng),
                         cv2.LINE_AA, 4)
            objects.append((name, box, False))
    cv2.imwrite(str(path), image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 85))
    labels = [CLASS_NAMES.index(name) for name, *_ in objects]
    return Record(path, np.array([box for _, box, _ in objects], np.float32), np.array(labels),
                  np.zeros(len(labels), bool))


if __name__ == "__main__":
    run(main, TileSettings)
