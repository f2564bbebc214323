"""Time of a training sample, one core: this project against torchvision.transforms.v2.

    python -m benchmarks.loader --train_list 2007_train.txt

All go from the JPEG file to a normalised float tensor of 300x300, antialiased, with the same
distributions of colour changes, expansion, crops and flips, in one process, taking turns. Both
sides decode the whole JPEG; "as in training" has its decoder halve images where that gives the same
sample. What is left unlike: torchvision multiplies brightness by 0.875 to 1.125 where SSD adds up
to 32 levels, changes contrast about the image's mean where SSD multiplies, and draws width and
height of a crop apart.
"""

from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
import torch
from torchvision.transforms import v2

from benchmarks.race import race
from benchmarks.table import report, rows_of
from benchmarks.torchvision_ssd import augmentations, read_sample
from utils.cli import UserError, run
from utils.data.annotations import read_list
from utils.data.augment import AUGMENTATIONS, apply_geometry, choose_geometry
from utils.data.loader import DetectionDataset
from utils.image import load_image, normalise, stack_inputs
from utils.multibox.spec import SSDSpec


@dataclass(frozen=True)
class LoaderSettings:
    """What is timed."""

    # A list that voc_annotation.py wrote; its images must be JPEG files.
    train_list: str = "2007_train.txt"
    # Images a turn.
    images: int = 100
    turns: int = 3
    # File for the figures; "" for none.
    json_path: str = ""


def main(settings):
    """Compare what the tasks make, then time them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cv2.setNumThreads(1)
    records, _ = read_list(settings.train_list)
    records = (records * (settings.images // len(records) + 1))[:settings.images]
    tasks = make_tasks(records, SSDSpec())
    for name, task in tasks.items():
        print(describe(name, task, len(records)))
    figures = race({name: partial(read_all, task, len(records)) for name, task in tasks.items()},
                   settings.turns, lambda one, other: one == other, rehearse=False)
    report([replace(row, value=row.value / len(records),
                    reference_value=row.reference_value / len(records))
            for row in rows_of("a training sample, one core", figures)], settings.json_path)


def read_all(task, count):
    """Make all samples and give their shape and type, each alike."""
    return {(sample.shape, sample.dtype) for sample in map(task, range(count))}


def make_tasks(records, spec):
    """Return {name: function from the number of a record to a (1, 3, S, S) float tensor}."""
    # torchvision's crops keep an object, as this project's light ones do.
    augmentation = replace(AUGMENTATIONS["paper"], crop_keeps_object=True)
    dataset = DetectionDataset(records, spec, augmentation, seed=0)
    chain, rng = resized(spec), np.random.default_rng(0)

    def whole(k):
        image = load_image(records[k].path)
        boxes = records[k].boxes_px / (image.shape[1::-1] * 2)
        geometry = choose_geometry(boxes, augmentation, rng)
        sample, *_ = apply_geometry(image, boxes, geometry, spec, augmentation, rng)
        return normalise(stack_inputs([sample]), spec)

    return {"torchvision v2": lambda k: read_sample(records[k], chain)["image"][None],
            "the same reading": whole,
            "as in training": lambda k: normalise(stack_inputs([dataset[0, k].image]), spec)}


def describe(name, task, count):
    """Return a line on what a task makes; UserError where it is not the input of a network."""
    samples = torch.cat([task(k) for k in range(count)])
    if samples.shape[1:] != (3, 300, 300) or samples.dtype != torch.float32:
        raise UserError(f"{name} makes {tuple(samples.shape)} {samples.dtype}.")
    sharp = np.mean([cv2.Laplacian(sample.numpy().transpose(1, 2, 0), cv2.CV_32F).std()
                     for sample in samples])
    return (f"{name:<28} range {samples.min():.0f}..{samples.max():.0f}, mean {samples.mean():.1f},"
            f" deviation {samples.std():.1f}, of the Laplacian {sharp:.1f}")


def resized(spec):
    """Return torchvision's augmentation and what its SSD does to an image before the network."""
    return v2.Compose([
        *augmentations(spec.mean), v2.Resize((spec.size, spec.size), antialias=True),
        v2.SanitizeBoundingBoxes(), v2.ToDtype(torch.float32), v2.Normalize(spec.mean, spec.std)])


if __name__ == "__main__":
    run(main, LoaderSettings)
