"""Images a second, one core: this project's training samples against torchvision.transforms.v2.

    python -m benchmarks.loader --train_list 2007_train.txt

All go from the JPEG file to a normalised float tensor of 300x300, antialiased, with the same
distributions of colour changes, expansion, crops and flips, in one process, taking turns. Both
sides decode the whole JPEG; "own reading" has its decoder halve images where that gives the same
sample. What is left unlike: torchvision multiplies brightness by 0.875 to 1.125 where SSD adds up
to 32 levels, changes contrast about the image's mean where SSD multiplies, and draws width and
height of a crop apart.
"""

import time
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from utils.cli import UserError, run
from utils.data.annotations import read_list
from utils.data.augment import AUGMENTATIONS, CROP_TRIALS, apply_geometry, choose_geometry
from utils.data.loader import DetectionDataset
from utils.image import load_image, normalise, stack_inputs
from utils.spec import SSDSpec


@dataclass(frozen=True)
class LoaderSettings:
    """What is timed."""

    # A list that voc_annotation.py wrote; its images must be JPEG files.
    train_list: str = "2007_train.txt"
    # Images a turn.
    images: int = 100
    # Turns of each; the best counts, since other programs can only slow a turn down.
    turns: int = 3


def main(settings):
    """Compare what the tasks make, then time them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cv2.setNumThreads(1)
    records, _ = read_list(settings.train_list)
    records = (records * (settings.images // len(records) + 1))[:settings.images]
    tasks = make_tasks(records, SSDSpec())
    for name in list(tasks)[:3]:
        print(describe(name, tasks[name], len(records)))
    tasks["decode alone"] = lambda k: load_image(records[k].path)
    best = dict.fromkeys(tasks, 0.0)
    for _ in range(settings.turns):
        for name, task in tasks.items():
            best[name] = max(best[name], speed(task, len(records)))
    for name, value in best.items():
        ratio = value / best["torchvision v2"]
        print(f"{name:<28} {value:7.1f} images/s   {ratio:5.2f} x torchvision v2")


def make_tasks(records, spec):
    """Return {name: function from the number of a record to a (1, 3, S, S) float tensor}."""
    # torchvision's crops keep an object, as this project's light ones do.
    augmentation = replace(AUGMENTATIONS["paper"], crop_keeps_object=True)
    dataset = DetectionDataset(records, spec, augmentation, seed=0)
    chain, rng = reference_chain(spec), np.random.default_rng(0)

    def whole(k):
        image = load_image(records[k].path)
        boxes = records[k].boxes_px / (image.shape[1::-1] * 2)
        geometry = choose_geometry(boxes, augmentation, rng)
        sample, *_ = apply_geometry(image, boxes, geometry, spec, augmentation, rng)
        return normalise(stack_inputs([sample]), spec)

    return {"this project": whole,
            "this project, own reading": lambda k: normalise(
                stack_inputs([dataset[0, k].image]), spec),
            "torchvision v2": lambda k: reference_sample(records[k], chain)["image"][None]}


def describe(name, task, count):
    """Return a line on what a task makes; UserError where it is not the input of a network."""
    samples = torch.cat([task(k) for k in range(count)])
    if samples.shape[1:] != (3, 300, 300) or samples.dtype != torch.float32:
        raise UserError(f"{name} makes {tuple(samples.shape)} {samples.dtype}.")
    sharp = np.mean([cv2.Laplacian(sample.numpy().transpose(1, 2, 0), cv2.CV_32F).std()
                     for sample in samples])
    return (f"{name:<28} range {samples.min():.0f}..{samples.max():.0f}, mean {samples.mean():.1f},"
            f" deviation {samples.std():.1f}, of the Laplacian {sharp:.1f}")


def speed(task, count):
    """Return calls a second."""
    start = time.perf_counter()
    for k in range(count):
        task(k)
    return count / (time.perf_counter() - start)


class Distort(v2.RandomPhotometricDistort):
    """SSD's colour changes: torchvision swaps channels besides, half of the time."""

    def make_params(self, flat_inputs):
        return super().make_params(flat_inputs) | {"channel_permutation": None}


def reference_chain(spec):
    """Return the SSD augmentation as torchvision's references write it, with SSD's numbers."""
    fill = {tv_tensors.Image: spec.mean, "others": 0}
    return v2.Compose([
        Distort(hue=(-0.1, 0.1)), v2.RandomZoomOut(fill=fill),
        v2.RandomIoUCrop(trials=CROP_TRIALS), v2.RandomHorizontalFlip(),
        v2.Resize((spec.size, spec.size), antialias=True), v2.SanitizeBoundingBoxes(),
        v2.ToDtype(torch.float32), v2.Normalize(spec.mean, spec.std)])


def reference_sample(record, chain):
    """Make one sample with torchvision alone."""
    image = tv_tensors.Image(decode_jpeg(read_file(str(record.path)), mode=ImageReadMode.RGB))
    boxes = tv_tensors.BoundingBoxes(record.boxes_px, format="XYXY", canvas_size=image.shape[-2:])
    return chain({"image": image, "boxes": boxes, "labels": torch.from_numpy(record.labels)})


if __name__ == "__main__":
    run(main, LoaderSettings)
