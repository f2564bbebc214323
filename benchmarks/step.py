"""Seconds an image of a training step: as train.py does it, and two other ways.

All train SSD300 with VGG16 from the same weights on the same images, read and augmented meanwhile.
"plain" is this project's data and loss with PyTorch's defaults: fp32, contiguous memory, Adam.
"torchvision" is its ssd300_vgg16 with its reference training. The loss of the first batch must be
the same. Each turn is a process of its own, since kept memory cannot be given up.
"""

import statistics
import time
from dataclasses import replace
from itertools import islice, pairwise

import torch
from torch.utils.data import DataLoader

from benchmarks.prepare import BenchSettings
from benchmarks.timing import Row, most_memory, run_alone
from benchmarks.torchvision_ssd import (ReferenceImages, as_torchvision, batch_as_lists,
                                        reference_loss)
from nets.build import new_network
from train import train_step
from utils.cli import UserError
from utils.data.annotations import read_list
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import DetectionDataset, Loader
from utils.device import keep_freed_memory, set_precision
from utils.multibox.coder import BoxCoder
from utils.multibox.loss import Losses, MultiBoxLoss
from utils.training.optim import make_optimizer, set_learning_rate

WARM_UP = 2  # steps that are not counted
# torchvision's reference training keeps an object in each crop.
AUGMENTATION = replace(AUGMENTATIONS["paper"], crop_keeps_object=True)
LEARNING_RATE, BATCH_SIZE, NUM_WORKERS = 1e-4, 8, 2


def measure(settings: BenchSettings) -> list[Row]:
    """Compare the sides in turns; the best turn of each counts."""
    best = {}
    for turn in range(settings.turns):
        for side in ("project", "plain", "torchvision"):
            measurement = run_alone(measure_side, side, settings)
            print(f"turn {turn + 1}, {side:<11} {measurement['seconds']:.3f} s an image, loss "
                  f"{measurement['loss']:.3f}", flush=True)
            best[side] = min(best.get(side, measurement), measurement, key=lambda m: m["seconds"])
    losses = [measurement["loss"] for measurement in best.values()]
    if max(losses) > 1.02 * min(losses):  # bf16 keeps 8 bits
        raise UserError(f"the sides do not the same work: losses {losses}.")
    project = best.pop("project")
    rows, way = [], project["precision"]
    for side, other in best.items():
        rows += [Row(f"training step, batch {BATCH_SIZE}, an image", way, project["seconds"], side,
                     other["seconds"]),
                 Row("most memory of that", way, project["memory"], side, other["memory"], "B")]
    return rows


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


def time_steps(settings, losses):
    """Do the steps; return the first loss and the median seconds an image."""
    ends, values = [], []
    for loss in islice(losses, WARM_UP + settings.steps):
        if settings.device != "cpu":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        values.append(loss)
    times = [end - start for start, end in pairwise(ends[WARM_UP - 1:])]
    return values[0], statistics.median(times) / BATCH_SIZE


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
    criterion = MultiBoxLoss(BoxCoder(network.spec))
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
    for batches in make_loader(dataset, NUM_WORKERS, criterion.make_targets).epoch(0):
        if is_plain:
            batches = [batch._replace(images=batch.images.contiguous()) for batch in batches]
        step = train_step(network.train(), criterion, optimizer, batches, scaler=scaler,
                          precision=precision, clip_grad_norm=10.0)
        yield sum(step.losses.tolist()[:len(Losses._fields)])


def torchvision_steps(device, network, dataset):
    """Yield the loss of the project's first batch for each step of torchvision's training."""
    reference = as_torchvision(network, same_priors=True).to(device)
    first_batch = next(make_loader(dataset, 0).epoch(0))[0]
    with torch.no_grad():
        loss = reference_loss(reference, *batch_as_lists(first_batch), device).item()
    optimizer = torch.optim.SGD(reference.parameters(), LEARNING_RATE, 0.9, weight_decay=5e-4)
    samples = ReferenceImages(dataset.records, dataset.spec)
    for batch in DataLoader(samples, BATCH_SIZE, shuffle=True, drop_last=True,
                            num_workers=NUM_WORKERS, collate_fn=list):
        images, targets = zip(*batch)
        optimizer.zero_grad()
        reference_loss(reference, images, targets, device).backward()
        optimizer.step()
        yield loss


def make_loader(dataset, num_workers, make_targets=None):
    return Loader(dataset, batch_size=BATCH_SIZE, accumulate=1, seed=0, num_workers=num_workers,
                  make_targets=make_targets)
