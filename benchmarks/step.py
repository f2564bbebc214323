"""Seconds an image of a training step on the CPU: as train.py does it, and PyTorch's plain way.

    python -m benchmarks.step --train_list 2007_train.txt

Both sides train SSD300 with VGG16 from the same weights on the same batches, which worker processes
read and augment meanwhile, and begin with the same loss. "plain" is fp32 in PyTorch's default
memory layout, its default Adam, and memory as the system manages it. Each turn is a process of
its own, since kept memory cannot be given up again. A step takes as long as the median one.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from nets.build import new_network
from utils.cli import ROOT, UserError, run
from utils.data.annotations import read_list
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import DetectionDataset
from utils.device import keep_freed_memory, set_precision
from utils.training.loss import multibox_loss
from utils.training.matching import make_targets
from utils.training.optim import Schedule, make_optimizer
from utils.training.trainer import Objective, Trainer

WARM_UP = 2  # steps that are not counted
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
    # What the processes are started with: one side in this process. "both" compares.
    side: Literal["both", "project", "plain"] = "both"


class Enough(Exception):
    """The steps of a turn are done."""


class WatchedTrainer(Trainer):
    """Remembers the first step's loss and the last batch."""

    first_loss = batch = None

    def train_step(self, group):
        self.batch = group[0]
        result = super().train_step(group)
        self.first_loss = self.first_loss or result["loss"]
        return result


def main(settings: StepSettings) -> None:
    """Compare the sides in turns, or be one of them."""
    if settings.side != "both":
        print(json.dumps(time_side(settings)))
        return
    found = {"project": [], "plain": []}
    for turn in range(settings.turns):
        for side, results in found.items():
            results.append(start_side(settings, side))
            print(f"turn {turn + 1}, {side:<8} {results[-1]['seconds']:.3f} s an image", flush=True)
    losses = [results[0]["loss"] for results in found.values()]
    if abs(losses[0] / losses[1] - 1) > LOSS_TOLERANCE:
        raise UserError(f"the sides do not the same work: losses {losses[0]} and {losses[1]}.")
    best = {side: min(results, key=lambda result: result["seconds"])
            for side, results in found.items()}
    project, plain = best["project"], best["plain"]
    print(f"first losses {losses[0]:.3f} and {losses[1]:.3f}; project in {project['precision']}\n"
          f"project {project['seconds']:.3f} s an image, plain {plain['seconds']:.3f}: "
          f"{plain['seconds'] / project['seconds']:.2f} x as fast\n"
          f"matching and loss: {project['objective'] / project['seconds']:.1%} of a step")


def start_side(settings, side):
    """Return what a side finds in a process of its own."""
    flags = [text for name, value in asdict(settings).items() if name != "side"
             for text in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, "-m", "benchmarks.step", *flags, "--side", side],
                          cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"{side} failed.")
    return json.loads(done.stdout.splitlines()[-1])


def time_side(settings):
    """Return {"loss": of the first step, "seconds": an image, ...} of a side."""
    trainer = make_trainer(settings, settings.side == "plain")
    ends = []

    def after_step():
        ends.append(time.perf_counter())
        if len(ends) == WARM_UP + settings.steps:
            raise Enough

    try:
        trainer.train_epoch(after_step=after_step)
    except Enough:
        pass
    else:
        raise UserError(f"the list has images for {len(ends) + 1} steps, which is too few.")
    times = [end - start for start, end in zip(ends[WARM_UP - 1:], ends[WARM_UP:])]
    return {"loss": trainer.first_loss, "precision": trainer.precision,
            "seconds": statistics.median(times) / settings.batch_size,
            "objective": time_objective(trainer, trainer.batch) / settings.batch_size}


def make_trainer(settings, plain):
    """Return a Trainer of one of the sides."""
    records, names = read_list(settings.train_list)
    torch.manual_seed(0)
    network = new_network("vgg", 300, len(names), backbone_weights="",
                          images=[record[:2] for record in records])
    cpu = torch.device("cpu")
    precision = set_precision("fp32" if plain else "auto", cpu)
    if plain:
        optimizer = torch.optim.Adam([{"params": list(network.parameters()), "lr_mult": 1.0}])
    else:
        keep_freed_memory()
        network.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(network, name="adamw", momentum=0.9, weight_decay=5e-4)
    schedule = Schedule(num_images=len(records), epochs=1, batch_size=settings.batch_size,
                        accumulate=1, freeze_epochs=0, freeze_batch_size=1, learning_rate=1e-3,
                        kind="cosine", warmup_steps=100, min_lr_ratio=0.01)
    dataset = DetectionDataset(records, network.spec, AUGMENTATIONS["light"], seed=0)
    return WatchedTrainer(network, optimizer, dataset, schedule, OBJECTIVE, device=cpu,
                          precision=precision, num_workers=settings.num_workers,
                          clip_grad_norm=10.0)


def time_objective(trainer, batch, turns=5):
    """Return the seconds of matching and of the loss, backward included, for a batch."""
    network, best = trainer.network, float("inf")
    loc, conf = (torch.randn(len(batch.images), len(network.priors), numbers, requires_grad=True)
                 for numbers in (4, network.num_classes))
    for _ in range(turns):
        start = time.perf_counter()
        targets = make_targets(batch.boxes, batch.labels, batch.difficult, network.priors,
                               iou_threshold=OBJECTIVE.match_iou, variances=network.spec.variances)
        sum(multibox_loss(loc, conf, targets, negatives_per_positive=3.0)).backward()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    run(main, StepSettings)
