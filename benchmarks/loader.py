"""Time of a training sample, one core: this project against torchvision.transforms.v2.

Both go from the JPEG file to a normalised float tensor of 300x300, antialiased, with the same
distributions of expansion, crops and flips, and near ones of brightness and contrast.
"""

import operator
from dataclasses import replace
from functools import partial

import cv2
import torch
from torchvision.transforms import v2

from benchmarks.prepare import BenchSettings
from benchmarks.timing import Row, race, rows_of
from benchmarks.torchvision_ssd import augmentations, read_sample
from nets.ssd import Normalise
from utils.data.annotations import read_list
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import DetectionDataset, collate
from utils.multibox.spec import SSDSpec


def measure(settings: BenchSettings) -> list[Row]:
    """Compare what both make, then time them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cv2.setNumThreads(1)
    records = read_list(f"{settings.data}/2007_train.txt")[0][:100]
    tasks = make_tasks(records, SSDSpec())
    for name, task in tasks.items():
        print(describe(name, task, len(records)))
    medians = race({name: partial(make_all, task, len(records)) for name, task in tasks.items()},
                   settings.turns, operator.eq, rehearse=False)
    return rows_of("a training sample, one core",
                   {name: median / len(records) for name, median in medians.items()})


def make_all(task, count):
    """Make all samples; return the set of their shapes and types."""
    return {(sample.shape, sample.dtype) for sample in map(task, range(count))}


def make_tasks(records, spec):
    """Return {name: function from the number of a record to a (1, 3, S, S) float tensor}."""
    # torchvision's crops keep an object, as this project's light ones do.
    augmentation = replace(AUGMENTATIONS["paper"], crop_keeps_object=True)
    dataset = DetectionDataset(records, spec, augmentation, seed=0)
    normalise = Normalise(spec.mean, spec.std)
    chain = v2.Compose([
        *augmentations(spec.mean), v2.Resize((spec.size, spec.size), antialias=True),
        v2.SanitizeBoundingBoxes(), v2.ToDtype(torch.float32), v2.Normalize(spec.mean, spec.std)])
    return {"torchvision v2": lambda k: read_sample(records[k], chain)["image"][None],
            "this project": lambda k: normalise(collate([dataset[0, k]]).images)}


def describe(name, task, count):
    """Return a line on what a task makes, by which the distributions are compared."""
    samples = torch.cat([task(k) for k in range(count)])
    return (f"{name:<28} range {samples.min():.0f}..{samples.max():.0f}, mean {samples.mean():.1f},"
            f" standard deviation {samples.std():.1f}")
