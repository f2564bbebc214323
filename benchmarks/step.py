"""Seconds an image of a training step: as train.py does it, and two other ways.

    python -m benchmarks.step --train_list 2007_train.txt

All sides train SSD300 with VGG16 from the same weights on the same images, which worker processes
read and augment meanwhile. "plain" is this project's data and loss with fp32 in PyTorch's default
memory layout, its default Adam, and memory as the system manages it. "torchvision" is its
ssd300_vgg16 with the data, loss and optimizer of its reference training. The loss of the first
batch shows that the three do the same. Each turn is a process of its own, since kept memory cannot
be given up again. A step takes as long as the median one.
"""

import contextlib
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Literal

import torch

from benchmarks.table import Row, most_memory, report
from benchmarks.torchvision_ssd import (as_torchvision, batch_as_lists, reference_loader,
                                        reference_loss)
from nets.build import new_network
from train import train_step
from utils.cli import ROOT, UserError, run
from utils.data.annotations import read_list
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import DetectionDataset, Loader
from utils.device import keep_freed_memory, pick_device, set_precision
from utils.multibox.loss import MultiBoxLoss
from utils.training.optim import make_optimizer, set_learning_rate

WARM_UP = 2  # steps that are not counted
# torchvision's reference training keeps an object in each crop.
AUGMENTATION = replace(AUGMENTATIONS["paper"], crop_keeps_object=True)
LOSS_TOLERANCE = 0.02  # bf16 keeps 8 bits
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class StepSettings:
    """What is timed."""

    # A list that voc_annotation.py wrote, with more images than a turn takes.
    train_list: str = "2007_train.txt"
    batch_size: int = 8
    # Steps that are counted in a turn.
    steps: int = 10
    # Turns of each side, one after the other; the best counts.
    turns: int = 2
    num_workers: int = 2
    # "cpu" or "cuda".
    device: str = "cpu"
    # File for the figures; "" for none.
    json_path: str = ""
    # What the processes are started with: one side in this process. "all" compares.
    side: Literal["all", "project", "plain", "torchvision"] = "all"


def main(settings: StepSettings) -> None:
    """Compare the sides in turns, or be one of them."""
    pick_device(settings.device)
    if settings.side != "all":
        with contextlib.redirect_stdout(io.StringIO()):
            measurement = measure(settings)
        print(json.dumps(measurement))
        return
    best = {}
    for turn in range(settings.turns):
        for side in ("project", "plain", "torchvision"):
            measurement = run_side(settings, side)
            print(f"turn {turn + 1}, {side:<11} {measurement['seconds']:.3f} s an image, loss "
                  f"{measurement['loss']:.3f}", flush=True)
            best[side] = min(best.get(side, measurement), measurement, key=lambda m: m["seconds"])
    losses = [measurement["loss"] for measurement in best.values()]
    if max(losses) / min(losses) - 1 > LOSS_TOLERANCE:
        raise UserError(f"the sides do not the same work: losses {losses}.")
    project = best.pop("project")
    task, way = f"training step, batch {settings.batch_size}, an image", project["precision"]
    report([Row(task, way, project["seconds"], side, other["seconds"])
            for side, other in best.items()] +
           [Row("most memory of training", way, project["memory"], side, other["memory"], "B")
            for side, other in best.items()], settings.json_path)


def run_side(settings: StepSettings, side: str) -> dict:
    """Return what a side measures in a process of its own."""
    flags = [text for name, value in asdict(settings).items() if name not in ("side", "json_path")
             for text in (f"--{name}", str(value))]
    process = subprocess.run([sys.executable, "-m", "benchmarks.step", *flags, "--side", side],
                             cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        raise UserError(f"{side} failed.")
    return json.loads(process.stdout.splitlines()[-1])


def measure(settings: StepSettings) -> dict:
    """Return {"loss" of the first batch, "seconds" an image, "memory", "precision"} of a side."""
    records, names = read_list(settings.train_list)
    torch.manual_seed(0)
    network = new_network("vgg", 300, len(names), backbone_weights="",
                          images=[record[:2] for record in records])
    dataset = DetectionDataset(records, network.spec, AUGMENTATION, seed=0)
    precision = set_precision("auto" if settings.side == "project" else "fp32",
                              torch.device(settings.device))
    if settings.side == "torchvision":
        losses = torchvision_steps(settings, network, dataset)
    else:
        losses = project_steps(settings, network, dataset, precision)
    loss, seconds = time_steps(settings, losses)
    return {"loss": loss, "seconds": seconds, "memory": most_memory(settings.device),
            "precision": precision}


def time_steps(settings: StepSettings, losses: Iterable[float]) -> tuple[float, float]:
    """Do the steps; return the first loss and the median seconds an image."""
    ends, first_loss = [], None
    for loss in losses:
        if settings.device != "cpu":
            torch.cuda.synchronize()
        first_loss = loss if first_loss is None else first_loss
        ends.append(time.perf_counter())
        if len(ends) == WARM_UP + settings.steps:
            times = [end - start for start, end in pairwise(ends[WARM_UP - 1:])]
            return first_loss, statistics.median(times) / settings.batch_size
    raise UserError(f"the list has images for {len(ends)} steps, which is too few.")


def project_steps(settings, network, dataset, precision):
    """Yield the loss of each step as train.py does it, or in PyTorch's plain way."""
    is_plain = settings.side == "plain"
    network.to(settings.device)
    if is_plain:
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    else:
        keep_freed_memory()
        network.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(network, name="adamw", momentum=0.9, weight_decay=5e-4)
        set_learning_rate(optimizer, LEARNING_RATE)
    criterion = MultiBoxLoss(network.coder)
    scaler = torch.amp.GradScaler(settings.device, enabled=precision == "fp16")
    for batches in make_loader(settings, dataset).epoch(0):
        if is_plain:
            batches = [batch._replace(images=batch.images.contiguous()) for batch in batches]
        yield train_step(network.train(), criterion, optimizer, batches, scaler=scaler,
                         precision=precision, clip_grad_norm=10.0)["loss"]


def torchvision_steps(settings, network, dataset):
    """Yield the loss of each step of torchvision's reference training, from the same weights.

    The first is that of the project's first batch; its own loader draws others.
    """
    reference = as_torchvision(network, same_priors=True).to(settings.device)
    first_batch = next(make_loader(replace(settings, num_workers=0), dataset).epoch(0))[0]
    with torch.no_grad():
        loss = reference_loss(reference, *batch_as_lists(first_batch), settings.device).item()
    optimizer = torch.optim.SGD(reference.parameters(), LEARNING_RATE, 0.9, weight_decay=5e-4)
    for images, targets in reference_loader(dataset.records, dataset.spec, settings.batch_size,
                                            settings.num_workers):
        optimizer.zero_grad()
        reference_loss(reference, images, targets, settings.device).backward()
        optimizer.step()
        yield loss


def make_loader(settings, dataset):
    return Loader(dataset, batch_size=settings.batch_size, accumulate=1, seed=0,
                  num_workers=settings.num_workers)


if __name__ == "__main__":
    run(main, StepSettings)
