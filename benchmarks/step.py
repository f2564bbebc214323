"""Seconds an image of a training step: as train.py does it, and two other ways.

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
from dataclasses import asdict, replace
from itertools import pairwise

import torch

from benchmarks.prepare import BenchSettings
from benchmarks.table import Row, most_memory
from benchmarks.torchvision_ssd import (as_torchvision, batch_as_lists, reference_loader,
                                        reference_loss)
from nets.build import new_network
from train import train_step
from utils.cli import ROOT, UserError
from utils.data.annotations import read_list
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import DetectionDataset, Loader
from utils.device import keep_freed_memory, set_precision
from utils.multibox.loss import MultiBoxLoss
from utils.training.optim import make_optimizer, set_learning_rate

WARM_UP = 2  # steps that are not counted
# torchvision's reference training keeps an object in each crop.
AUGMENTATION = replace(AUGMENTATIONS["paper"], crop_keeps_object=True)
LOSS_TOLERANCE = 0.02  # bf16 keeps 8 bits
LEARNING_RATE, BATCH_SIZE, NUM_WORKERS = 1e-4, 8, 2
SIDES = ("project", "plain", "torchvision")


def measure(settings: BenchSettings) -> list[Row]:
    """Compare the sides in turns; the best turn of each counts."""
    best = {}
    for turn in range(settings.turns):
        for side in SIDES:
            process = subprocess.run([sys.executable, "-m", "benchmarks.step", side,
                                      json.dumps(asdict(settings))], cwd=ROOT,
                                     stdout=subprocess.PIPE, text=True)
            if process.returncode:
                raise UserError(f"{side} failed.")
            measurement = json.loads(process.stdout.splitlines()[-1])
            print(f"turn {turn + 1}, {side:<11} {measurement['seconds']:.3f} s an image, loss "
                  f"{measurement['loss']:.3f}", flush=True)
            best[side] = min(best.get(side, measurement), measurement, key=lambda m: m["seconds"])
    losses = [measurement["loss"] for measurement in best.values()]
    if max(losses) / min(losses) - 1 > LOSS_TOLERANCE:
        raise UserError(f"the sides do not the same work: losses {losses}.")
    project = best.pop("project")
    task, way = f"training step, batch {BATCH_SIZE}, an image", project["precision"]
    return [Row(task, way, project["seconds"], side, other["seconds"])
            for side, other in best.items()] + [
        Row("most memory of training", way, project["memory"], side, other["memory"], "B")
        for side, other in best.items()]


def measure_side(side: str, settings: BenchSettings) -> dict:
    """Return {"loss" of the first batch, "seconds" an image, "memory", "precision"} of a side."""
    records, names = read_list(f"{settings.data}/2007_train.txt")
    torch.manual_seed(0)
    network = new_network("vgg", 300, len(names), backbone_weights="",
                          images=[record[:2] for record in records])
    dataset = DetectionDataset(records, network.spec, AUGMENTATION, seed=0)
    precision = set_precision("auto" if side == "project" else "fp32",
                              torch.device(settings.device))
    if side == "torchvision":
        losses = torchvision_steps(settings.device, network, dataset)
    else:
        losses = project_steps(settings.device, network, dataset, precision, side == "plain")
    loss, seconds = time_steps(settings, losses)
    return {"loss": loss, "seconds": seconds, "memory": most_memory(settings.device),
            "precision": precision}


def time_steps(settings: BenchSettings, losses: Iterable[float]) -> tuple[float, float]:
    """Do the steps; return the first loss and the median seconds an image."""
    ends, first_loss = [], None
    for loss in losses:
        if settings.device != "cpu":
            torch.cuda.synchronize()
        first_loss = loss if first_loss is None else first_loss
        ends.append(time.perf_counter())
        if len(ends) == WARM_UP + settings.steps:
            times = [end - start for start, end in pairwise(ends[WARM_UP - 1:])]
            return first_loss, statistics.median(times) / BATCH_SIZE
    raise UserError(f"the list has images for {len(ends)} steps, which is too few.")


def project_steps(device, network, dataset, precision, is_plain):
    """Yield the loss of each step as train.py does it, or in PyTorch's plain way."""
    network.to(device)
    if is_plain:
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    else:
        keep_freed_memory()
        network.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(network, name="adamw", momentum=0.9, weight_decay=5e-4)
        set_learning_rate(optimizer, LEARNING_RATE)
    criterion = MultiBoxLoss(network.coder)
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
    for batches in make_loader(dataset, NUM_WORKERS).epoch(0):
        if is_plain:
            batches = [batch._replace(images=batch.images.contiguous()) for batch in batches]
        yield train_step(network.train(), criterion, optimizer, batches, scaler=scaler,
                         precision=precision, clip_grad_norm=10.0)["loss"]


def torchvision_steps(device, network, dataset):
    """Yield the loss of each step of torchvision's reference training, from the same weights.

    The first is that of the project's first batch; its own loader draws others.
    """
    reference = as_torchvision(network, same_priors=True).to(device)
    first_batch = next(make_loader(dataset, 0).epoch(0))[0]
    with torch.no_grad():
        loss = reference_loss(reference, *batch_as_lists(first_batch), device).item()
    optimizer = torch.optim.SGD(reference.parameters(), LEARNING_RATE, 0.9, weight_decay=5e-4)
    loader = reference_loader(dataset.records, dataset.spec, BATCH_SIZE, NUM_WORKERS)
    for images, targets in loader:
        optimizer.zero_grad()
        reference_loss(reference, images, targets, device).backward()
        optimizer.step()
        yield loss


def make_loader(dataset, num_workers):
    return Loader(dataset, batch_size=BATCH_SIZE, accumulate=1, seed=0, num_workers=num_workers)


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):
        measurement = measure_side(sys.argv[1], BenchSettings(**json.loads(sys.argv[2])))
    print(json.dumps(measurement))
