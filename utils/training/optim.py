"""Seeds, optimizer, learning rate schedule, freezing."""

import math
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

NOMINAL_BATCH = 32  # the learning rate in the settings is for this batch size (paper section 3)
STEP_SCHEDULE = ((2 / 3, 0.1), (5 / 6, 0.01))  # the paper's 80k and 100k of 120k iterations


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length, batches and learning rate of a run over `num_images` images."""

    num_images: int
    epochs: int
    batch_size: int
    accumulate: int  # batches a step
    freeze_epochs: int
    freeze_batch_size: int
    learning_rate: float  # for NOMINAL_BATCH images a step
    kind: Literal["cosine", "step"]
    warmup_steps: int
    min_lr_ratio: float

    def is_frozen(self, epoch: int) -> bool:
        """Tell whether the pretrained layers stand still in an epoch, counted from 0."""
        return epoch < self.freeze_epochs

    def batch_size_in(self, epoch: int) -> int:
        """Return the images a batch of an epoch."""
        wanted = self.freeze_batch_size if self.is_frozen(epoch) else self.batch_size
        return min(wanted, self.num_images)

    def steps_in(self, epoch: int) -> int:
        """Return the optimizer steps of an epoch."""
        return -(-self.num_images // (self.batch_size_in(epoch) * self.accumulate))

    def total_steps(self) -> int:
        """Return the optimizer steps of the run; closed form, so any number of epochs is quick."""
        frozen = min(self.freeze_epochs, self.epochs)
        return frozen * self.steps_in(0) + (self.epochs - frozen) * self.steps_in(frozen)

    def rate(self, step: int, epoch: int) -> float:
        """Return the learning rate of a step, the first being 0, that lies in `epoch`."""
        factor = lr_factor(step, self.total_steps(), schedule=self.kind,
                           warmup_steps=self.warmup_steps, min_lr_ratio=self.min_lr_ratio)
        images = self.batch_size_in(epoch) * self.accumulate
        return self.learning_rate * images / NOMINAL_BATCH * factor


def seed_everything(seed: int) -> None:
    """Seed the global generators; samples are drawn from generators of their own."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def lr_factor(step: int, total_steps: int, *, schedule: Literal["cosine", "step"],
              warmup_steps: int, min_lr_ratio: float) -> float:
    """Return what the learning rate is multiplied with at a step.

    Args:
        step: optimizer steps done so far, 0 to total_steps - 1.
        total_steps: of the whole run.
        schedule: "cosine" from 1 to min_lr_ratio, or "step": the paper's two drops.
        warmup_steps: linear rise from 1/warmup_steps to the schedule's value; at most a fifth of
            the run, so that a short run trains at all.
        min_lr_ratio: end of the cosine.

    Returns:
        float in (0, 1].
    """
    progress = step / total_steps
    if schedule == "cosine":
        factor = min_lr_ratio + (1 - min_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2
    else:
        factor = min([1.0, *(value for start, value in STEP_SCHEDULE if progress >= start)])
    warmup_steps = max(1, min(warmup_steps, total_steps // 5))
    return factor * min(1.0, (step + 1) / warmup_steps)


def make_optimizer(network: nn.Module, *, name: Literal["adamw", "adam", "sgd"],
                   momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return the optimizer with the learning rate still to be set.

    Convolution weights decay; biases and batch norm do not. "sgd" is that of Caffe's SSD
    (`ssd_pascal.py`, `model_libs.py`): biases have lr_mult 2 and decay_mult 0, batch norm
    lr_mult 1 and decay_mult 0, and the scale of the L2 norm (`Normalize`, which names neither)
    lr_mult 1 and decay_mult 1. In "adamw", once
    called "adam" here, all learn alike and that scale does not decay.
    """
    caffe = name == "sgd"
    decay = {"weight": 1, "bias": 0, "norm": 0, "scale": 1 if caffe else 0}
    groups = [{"params": parameters, "weight_decay": weight_decay * decay[kind],
               "lr_mult": 2.0 if caffe and kind == "bias" else 1.0}
              for kind, parameters in split_parameters(network).items()]
    if caffe:
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum)
    return torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999))


def split_parameters(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the parameters by kind: weight, bias, norm (of batch norm), scale (of the L2 norm)."""
    found = {"weight": [], "bias": [], "norm": [], "scale": []}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kind = "bias" if name == "bias" else "scale"
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                kind = "norm"
            found["weight" if parameter.ndim > 1 else kind].append(parameter)
    return {kind: parameters for kind, parameters in found.items() if parameters}


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all parameter groups, each times its own "lr_mult"."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("lr_mult", 1.0)


def set_frozen(module: nn.Module, frozen: bool) -> None:
    """Freeze a module or let it train: gradients, and the running statistics of batch norm."""
    module.requires_grad_(not frozen)
    module.train(not frozen)


def has_batch_norm(network: nn.Module) -> bool:
    """Tell whether any layer needs more than one value a channel in training."""
    return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
