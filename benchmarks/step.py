"""Seconds an image of a training step: as train.py does it, and two other ways.

    python -m benchmarks.step --train_list 2007_train.txt

All sides train SSD300 with VGG16 from the same weights on the same images, which worker processes
read and augment meanwhile. "plain" is this project's data and loss with fp32 in PyTorch's default
memory layout, its default Adam, and memory as the system manages it. "torchvision" is its
ssd300_vgg16 with the data, loss and optimizer of its reference training. That the three do the
same is seen by the loss of one batch, before the first step. Each turn is a process of its own,
since kept memory cannot be given up again. A step takes as long as the median one.
"""

import contextlib
import io
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import torch

from benchmarks.machine import most_memory, operations, peak, wait
from benchmarks.table import Row, report
from benchmarks.torchvision_ssd import (as_torchvision, batch_as_lists, reference_loader,
                                        reference_loss)
from nets.build import new_network
from utils.cli import ROOT, UserError, run
from utils.data.annotations import read_list
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import DetectionDataset, make_loader
from utils.device import keep_freed_memory, pick_device, set_precision
from utils.multibox.loss import multibox_loss
from utils.multibox.matching import make_targets
from utils.training.optim import Schedule, make_optimizer
from utils.training.trainer import Objective, Trainer

WARM_UP = 2  # steps that are not counted
# As torchvision's reference training has it.
AUGMENTATION = replace(AUGMENTATIONS["paper"], crop_keeps_object=True)
LOSS_TOLERANCE = 0.02  # bf16 keeps 8 bits
OBJECTIVE = Objective(match_iou=0.5, negatives_per_positive=3.0, background_negatives=30,
                      train_on_difficult=True)


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


class Enough(Exception):
    """The steps of a turn are done."""


class WatchedTrainer(Trainer):
    """Remembers the first step's loss and the last batch."""

    first_loss = batch = None
    contiguous = False  # PyTorch's default layout; else the images' own, channels last

    def train_step(self, group):
        if self.contiguous:
            group = [batch._replace(images=batch.images.contiguous()) for batch in group]
        self.batch = group[0]
        result = super().train_step(group)
        self.first_loss = self.first_loss or result["loss"]
        return result


class Clock:
    """Called after each step; raises Enough after the last."""

    def __init__(self, settings):
        self.settings, self.ends = settings, []

    def __call__(self):
        wait(self.settings.device)
        self.ends.append(time.perf_counter())
        if len(self.ends) == WARM_UP + self.settings.steps:
            raise Enough

    def seconds(self):
        """Return the median seconds an image; UserError where the data ended before."""
        if len(self.ends) < WARM_UP + self.settings.steps:
            raise UserError(f"the list has images for {len(self.ends)} steps, which is too few.")
        times = [end - start for start, end in pairwise(self.ends[WARM_UP - 1:])]
        return statistics.median(times) / self.settings.batch_size


def main(settings: StepSettings) -> None:
    """Compare the sides in turns, or be one of them."""
    pick_device(settings.device)
    if settings.side != "all":
        print(json.dumps(SIDES[settings.side](settings)))
        return
    found = {side: [] for side in SIDES}
    for turn in range(settings.turns):
        for side, results in found.items():
            results.append(start_side(settings, side))
            print(f"turn {turn + 1}, {side:<11} {results[-1]['seconds']:.3f} s an image, loss "
                  f"{results[-1]['loss']:.3f}", flush=True)
    losses = [results[0]["loss"] for results in found.values()]
    if max(losses) / min(losses) - 1 > LOSS_TOLERANCE:
        raise UserError(f"the sides do not the same work: losses {losses}.")
    best = {side: min(results, key=lambda result: result["seconds"])
            for side, results in found.items()}
    project = best.pop("project")
    print(f"matching and loss: {project['objective'] / project['seconds']:.1%} of a step")
    task, way = f"training step, batch {settings.batch_size}, an image", project["precision"]
    share = project["operations"] / project["seconds"] / peak(way, settings.device)
    report([Row(task, way, project["seconds"], side, other["seconds"], share=share)
            for side, other in best.items()] +
           [Row("most memory of training", way, project["memory"], side, other["memory"], "B")
            for side, other in best.items()], settings.json_path, settings.device)


def start_side(settings, side):
    """Return what a side finds in a process of its own."""
    flags = [text for name, value in asdict(settings).items() if name not in ("side", "json_path")
             for text in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, "-m", "benchmarks.step", *flags, "--side", side],
                          cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"{side} failed.")
    return json.loads(done.stdout.splitlines()[-1])


def time_project(settings, *, plain=False):
    """Return what the Trainer takes: {"loss": of the first batch, "seconds": an image, ...}."""
    trainer, clock = make_trainer(settings, plain), Clock(settings)
    with contextlib.suppress(Enough):
        trainer.train_epoch(after_step=clock)
    return {"loss": trainer.first_loss, "precision": trainer.precision, "seconds": clock.seconds(),
            "memory": most_memory(settings.device),
            "operations": operations(trainer.network, 300, training=True),
            "objective": time_objective(trainer, trainer.batch) / settings.batch_size}


def time_torchvision(settings):
    """Return what torchvision's reference training takes, from the same weights."""
    trainer = make_trainer(settings, True)
    dataset = trainer.dataset
    network = as_torchvision(trainer.network, same_priors=True).to(settings.device)
    with torch.no_grad():
        loss = reference_loss(network, *batch_as_lists(first_batch(dataset, settings)),
                              settings.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    loader = reference_loader(dataset.records, dataset.spec, settings.batch_size,
                              settings.num_workers)
    del trainer
    clock = Clock(settings)
    with contextlib.suppress(Enough):
        for images, targets in loader:
            optimizer.zero_grad()
            reference_loss(network, images, targets, settings.device).backward()
            optimizer.step()
            clock()
    return {"loss": loss.item(), "seconds": clock.seconds(), "memory": most_memory(settings.device)}


SIDES = {"project": time_project, "plain": partial(time_project, plain=True),
         "torchvision": time_torchvision}


def first_batch(dataset, settings):
    """Return the batch that training begins with."""
    return next(iter(make_loader(dataset, settings.batch_size, seed=0, num_workers=0,
                                 pin_memory=False)))


def make_trainer(settings, plain):
    """Return a Trainer of one of the sides."""
    records, names = read_list(settings.train_list)
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        network = new_network("vgg", 300, len(names), backbone_weights="",
                              images=[record[:2] for record in records])
    device = torch.device(settings.device)
    precision = set_precision("fp32" if plain else "auto", device)
    network.to(device)
    if plain:
        optimizer = torch.optim.Adam([{"params": list(network.parameters()), "lr_mult": 1.0}])
    else:
        keep_freed_memory()
        network.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(network, name="adamw", momentum=0.9, weight_decay=5e-4)
    schedule = Schedule(num_images=len(records), epochs=1, batch_size=settings.batch_size,
                        accumulate=1, freeze_epochs=0, freeze_batch_size=1, learning_rate=1e-3,
                        kind="cosine", warmup_steps=100, min_lr_ratio=0.01)
    dataset = DetectionDataset(records, network.spec, AUGMENTATION, seed=0)
    trainer = WatchedTrainer(network, optimizer, dataset, schedule, OBJECTIVE, device=device,
                             precision=precision, num_workers=settings.num_workers,
                             clip_grad_norm=10.0)
    trainer.contiguous = plain
    return trainer


def time_objective(trainer, batch, turns=5):
    """Return the seconds of matching and of the loss, backward included, for a batch."""
    network, best, batch = trainer.network, float("inf"), batch.to(trainer.device)
    loc, conf = (torch.randn(len(batch.images), len(network.priors), numbers, requires_grad=True,
                             device=trainer.device)
                 for numbers in (4, network.num_classes))
    for _ in range(turns):
        wait(trainer.device.type)
        start = time.perf_counter()
        targets = make_targets(batch.boxes, batch.labels, batch.difficult, network.priors,
                               iou_threshold=OBJECTIVE.match_iou, variances=network.spec.variances)
        sum(multibox_loss(loc, conf, targets, negatives_per_positive=3.0)).backward()
        wait(trainer.device.type)
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    run(main, StepSettings)
