"""Optimizer, learning rate schedule, freezing."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # SyncBatchNorm is one too

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
    ranks: int = 1  # processes, which have a batch each where one process would accumulate

    @property
    def batches_a_step(self) -> int:
        """The batches of a step, of all ranks."""
        return self.accumulate * self.ranks

    def is_frozen(self, epoch: int) -> bool:
        """Tell whether the pretrained layers stand still in an epoch, counted from 0."""
        return epoch < self.freeze_epochs

    def batch_size_in(self, epoch: int) -> int:
        """Return the images a batch of an epoch."""
        wanted = self.freeze_batch_size if self.is_frozen(epoch) else self.batch_size
        return min(wanted, self.num_images)

    def steps_in(self, epoch: int) -> int:
        """Return the optimizer steps of an epoch."""
        return -(-self.num_images // (self.batch_size_in(epoch) * self.batches_a_step))

    def total_steps(self) -> int:
        """Return the optimizer steps of the run; closed form, so any number of epochs is quick."""
        frozen = min(self.freeze_epochs, self.epochs)
        return frozen * self.steps_in(0) + (self.epochs - frozen) * self.steps_in(frozen)

    def epochs_for(self, steps: int) -> int:
        """Return the epochs that have at least so many steps, whatever `epochs` is."""
        first = min(self.freeze_epochs, -(-steps // self.steps_in(0)))
        left = max(0, steps - first * self.steps_in(0))
        return first + -(-left // self.steps_in(self.freeze_epochs))

    def rate(self, step: int, epoch: int) -> float:
        """Return the learning rate of a step, the first being 0, that lies in `epoch`."""
        factor = lr_factor(step, self.total_steps(), schedule=self.kind,
                           warmup_steps=self.warmup_steps, min_lr_ratio=self.min_lr_ratio)
        # A pass over the images may be less than a step.
        images = min(self.batch_size_in(epoch) * self.batches_a_step, self.num_images)
        return self.learning_rate * images / NOMINAL_BATCH * factor


def lr_factor(step: int, total_steps: int, *, schedule: Literal["cosine", "step"],
              warmup_steps: int, min_lr_ratio: float) -> float:
    """Return what the learning rate is multiplied with, in (0, 1], at a step counted from 0.

    "cosine" falls from 1 to min_lr_ratio, "step" is the paper's two drops. The linear rise over
    warmup_steps takes at most a fifth of the run, so that a short run trains at all.
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
    """Return the optimizer of a network on its device, with the learning rate still to be set.

    Convolution weights decay; biases and batch norm do not. "sgd" is that of Caffe's SSD
    (`ssd_pascal.py`, `model_libs.py`): biases learn at twice the rate, and the scale of the L2
    norm (`Normalize`) decays. In "adamw" all learn alike and that scale does not decay.
    """
    caffe, groups = name == "sgd", {}
    # Apart from the rest: fused SGD fails where only some of a group have had gradients so far.
    pretrained = set(getattr(network, "pretrained_layers", nn.Module()).parameters())
    for module in network.modules():
        norm = isinstance(module, _BatchNorm)
        for key, parameter in module.named_parameters(recurse=False):
            decays = parameter.ndim > 1 or caffe and key == "weight" and not norm
            lr_mult = 2.0 if caffe and key == "bias" and not norm else 1.0
            groups.setdefault((decays, lr_mult, parameter in pretrained), []).append(parameter)
    groups = [{"params": parameters, "weight_decay": weight_decay * decays, "lr_mult": lr_mult}
              for (decays, lr_mult, _), parameters in groups.items()]
    # PyTorch's fastest loop, which is not its default on CPUs. It takes weights, gradients and
    # state number by number as they lie in memory: all must have one memory format.
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    if caffe:
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=momentum, fused=fused)
        # Fused, it would leave them unset where the first step overflows fp16.
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
