"""Seeds, optimizer, learning rate schedule, freezing."""

import math
import random

import numpy as np
import torch
from torch import nn

NOMINAL_BATCH = 32  # the learning rate in the settings is for this batch size (paper section 3)
STEP_SCHEDULE = ((2 / 3, 0.1), (5 / 6, 0.01))  # the paper's 80k and 100k of 120k iterations


def seed_everything(seed):
    """Seed the global generators; samples are drawn from generators of their own."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def lr_factor(step, total_steps, *, schedule, warmup_steps, min_lr_ratio):
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


def make_optimizer(network, *, name, momentum, weight_decay):
    """Return the optimizer with the learning rate still to be set.

    Weights decay; biases, batch norm and L2Norm do not (Caffe: decay_mult 0 for biases).
    """
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay},
              {"params": others, "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum)
    return torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999))


def set_learning_rate(optimizer, value):
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = value


def set_frozen(module, frozen):
    """Freeze a module or let it train: gradients, and the running statistics of batch norm."""
    module.requires_grad_(not frozen)
    module.train(not frozen)


def has_batch_norm(network):
    """Tell whether any layer needs more than one value a channel in training."""
    return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
