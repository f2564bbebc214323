"""Images a second, one core: this project's training samples against torchvision.transforms.v2.

    python -m benchmarks.loader --train_list 2007_train.txt

Both go from the JPEG file to a normalised float tensor of 300x300 with the paper's augmentation, in
the same process, taking turns.
"""

import time
from dataclasses import dataclass

import cv2
import torch
from torchvision import tv_tensors
from torchvision.io import decode_jpeg, read_file
from torchvision.transforms import v2

from utils.cli import run
from utils.data.annotations import read_list
from utils.data.augment import AUGMENTATIONS
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
    """Time both and a bare decode."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    records, _ = read_list(settings.train_list)
    records = (records * (settings.images // len(records) + 1))[:settings.images]
    spec = SSDSpec()
    dataset = DetectionDataset(records, spec, AUGMENTATIONS["paper"], seed=0)
    chain = reference_chain(spec)
    tasks = {"this project": lambda k: normalise(stack_inputs([dataset[0, k].image]), spec),
             "torchvision v2": lambda k: reference_sample(records[k], chain),
             "decode alone": lambda k: load_image(records[k].path)}
    best = dict.fromkeys(tasks, 0.0)
    for _ in range(settings.turns):
        for name, task in tasks.items():
            best[name] = max(best[name], speed(task, len(records)))
    for name, value in best.items():
        print(f"{name:<16} {value:7.1f} images/s")
    print(f"ratio to v2      {best['this project'] / best['torchvision v2']:7.1f}")


def speed(task, count):
    """Return calls a second."""
    start = time.perf_counter()
    for k in range(count):
        task(k)
    return count / (time.perf_counter() - start)


def reference_chain(spec):
    """Return the SSD augmentation as torchvision's references write it."""
    fill = {tv_tensors.Image: spec.mean, "others": 0}
    return v2.Compose([
        v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=fill), v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(), v2.Resize((spec.size, spec.size), antialias=True),
        v2.SanitizeBoundingBoxes(), v2.ToDtype(torch.float32),
        v2.Normalize(spec.mean, spec.std)])


def reference_sample(record, chain):
    """Make one sample with torchvision alone."""
    image = tv_tensors.Image(decode_jpeg(read_file(str(record.path))))
    boxes = tv_tensors.BoundingBoxes(record.boxes_px, format="XYXY", canvas_size=image.shape[-2:])
    return chain({"image": image, "boxes": boxes, "labels": torch.from_numpy(record.labels)})


if __name__ == "__main__":
    run(main, LoaderSettings)
