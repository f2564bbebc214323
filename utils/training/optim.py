"""Optimizer, learning rate schedule, freezing."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # SyncBatchNorm is one too

NOMINAL_BATCH = 32  # the learning rate in the settings is for this batch size (paper section 3)
STEP_SCHEDULE = ((2 / 3, 0.1), (5 / 6, 0.01))  # the paper's 80k and 100k of 120k iterations


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each step of a run.

    "cosine" falls from 1 to min_lr_ratio of the rate, "step" is the paper's two drops. The linear
    rise over warmup_steps takes at most a fifth of the run, so that a short run trains at all.
    """

    learning_rate: float  # for NOMINAL_BATCH images a step
    total_steps: int
    kind: Literal["cosine", "step"]
    warmup_steps: int
    min_lr_ratio: float

    def rate(self, step: int, images_per_step: int) -> float:
        """Return the learning rate of a step, counted from 0, in proportion to its images."""
        progress, end = step / self.total_steps, self.min_lr_ratio
        if self.kind == "cosine":
            factor = end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2
        else:
            factor = min([1.0, *(value for start, value in STEP_SCHEDULE if progress >= start)])
        warmup_steps = max(1, min(self.warmup_steps, self.total_steps // 5))
        factor *= min(1.0, (step + 1) / warmup_steps)
        return self.learning_rate * images_per_step / NOMINAL_BATCH * factor


def make_optimizer(network: nn.Module, *, name: Literal["adamw", "sgd"], momentum: float,
                   weight_decay: float) -> torch.optim.Optimizer:
    """Return the optimizer of a network on its device; the learning rate is set before each step.

    Convolution weights decay; biases and batch norm do not. As in Caffe's `ssd_pascal.py`, with
    "sgd" biases learn at twice the rate and the scale of the L2 norm decays; not so with "adamw".
    """
    is_caffe, groups = name == "sgd", {}
    # Frozen layers need groups of their own: fused SGD wants a gradient for all of a group or none.
    pretrained = set(network.pretrained_layers.parameters())
    for module in network.modules():
        is_norm = isinstance(module, _BatchNorm)
        for key, parameter in module.named_parameters(recurse=False):
            decays = parameter.ndim > 1 or is_caffe and key == "weight" and not is_norm
            lr_mult = 2.0 if is_caffe and key == "bias" and not is_norm else 1.0
            groups.setdefault((decays, lr_mult, parameter in pretrained), []).append(parameter)
    groups = [{"params": parameters, "weight_decay": weight_decay if decays else 0.0,
               "lr_mult": lr_mult} for (decays, lr_mult, _), parameters in groups.items()]
    # The fastest loop, which is not PyTorch's default on CPUs.
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    if is_caffe:
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=momentum, fused=fused)
        # Fused SGD leaves them uninitialised where the first step overflows fp16.
        for parameter in network.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    return torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999), fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all parameter groups, each times its own "lr_mult"."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_mult"]


def set_frozen(module: nn.Module, frozen: bool) -> None:
    """Freeze a module or let it train: gradients, and the running statistics of batch norm."""
    module.requires_grad_(not frozen)
    module.train(not frozen)
