"""Schedule, optimizer groups and freezing."""

import math

import pytest
import torch
from torch import nn

from utils.training.optim import (NOMINAL_BATCH, Schedule, make_optimizer, set_frozen,
                                  set_learning_rate)

FLAT = {"kind": "step", "warmup_steps": 0, "min_lr_ratio": 0.01}


def lr_factor(step, total_steps, **flags):
    """Return a step's learning rate as a part of the whole one."""
    return Schedule(1.0, total_steps, **flags).rate(step, NOMINAL_BATCH)


class Scale(nn.Module):
    """A learned factor a channel, the shape of the L2Norm layer's."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 20.0))


class Network(nn.Sequential):
    """Layers of which the first are pretrained, as make_optimizer wants to know."""

    @property
    def pretrained_layers(self):
        return self[:1]


def small_network():
    torch.manual_seed(0)
    return Network(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), Scale(), nn.Linear(3, 2))


@pytest.mark.parametrize("step, expected", [
    (0, 1), (79_999, 1), (80_000, 0.1), (99_999, 0.1), (100_000, 0.01), (119_999, 0.01)])
def test_step_schedule_drops_where_the_paper_does(step, expected):
    assert lr_factor(step, 120_000, **FLAT) == pytest.approx(expected)


@pytest.mark.parametrize("step, expected", [
    (0, 1), (25, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2), (50, 0.55), (100, 0.1)])
def test_cosine_by_hand(step, expected):
    assert lr_factor(step, 100, kind="cosine", warmup_steps=0,
                     min_lr_ratio=0.1) == pytest.approx(expected)


@pytest.mark.parametrize("warmup_steps, total_steps, expected", [
    (4, 10 ** 6, [0.25, 0.5, 0.75, 1, 1]), (0, 10 ** 6, [1] * 5),
    (100, 20, [0.25, 0.5, 0.75, 1, 1]), (100, 3, [1])])
def test_warm_up_is_linear_and_takes_a_fifth_of_a_run_at_most(warmup_steps, total_steps, expected):
    factors = [lr_factor(step, total_steps, **FLAT | {"warmup_steps": warmup_steps})
               for step in range(len(expected))]
    assert factors == pytest.approx(expected)


# Caffe's SSD: convolutions lr_mult 1, decay_mult 1; their biases 2 and 0; batch norm 1 and 0; the
# scale of Normalize names neither, so 1 and 1. AdamW: lr 1 for all, decay for convolutions alone.
CAFFE = {"0.weight": (1, 1), "0.bias": (2, 0), "1.weight": (1, 0), "1.bias": (1, 0),
         "2.weight": (1, 1), "3.weight": (1, 1), "3.bias": (2, 0)}


def one_step(name, gradient, **options):
    """Return {parameter name: (before, after)} of a step with the same gradient everywhere."""
    network = small_network()
    optimizer = make_optimizer(network, name=name, momentum=0.9, **options)
    set_learning_rate(optimizer, 0.1)
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    return {key: (before[key], value.detach()) for key, value in network.named_parameters()}


@pytest.mark.parametrize("key", CAFFE)
def test_a_step_of_sgd_is_caffes_group_by_group(key):
    lr_mult, decay_mult = CAFFE[key]
    before, after = one_step("sgd", 0.25, weight_decay=0.5)[key]
    # SGDSolver: w - base_lr lr_mult (gradient + weight_decay decay_mult w)
    expected = before - 0.1 * lr_mult * (0.25 + 0.5 * decay_mult * before)
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("key", CAFFE)
def test_adamw_shrinks_convolutions_alone_by_rate_times_decay(key):
    before, after = one_step("adamw", 0.0, weight_decay=0.5)[key]
    factor = 0.95 if key in ("0.weight", "3.weight") else 1
    torch.testing.assert_close(after, before * factor)
    before, after = one_step("adamw", 0.25, weight_decay=0.0)[key]
    torch.testing.assert_close(after, before - 0.1)  # a first step of Adam is the rate itself


def test_frozen_layers_keep_weights_and_statistics_until_they_are_thawed():
    layers = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    layers.train()
    set_frozen(layers, True)
    before = {key: value.clone() for key, value in layers.state_dict().items()}
    layers(torch.randn(4, 2, 8, 8) * 5 + 3)
    assert not any(p.requires_grad for p in layers.parameters())
    assert all(torch.equal(value, before[key]) for key, value in layers.state_dict().items())
    set_frozen(layers, False)
    layers(torch.randn(4, 2, 8, 8) * 5 + 3).sum().backward()
    assert all(p.grad is not None for p in layers.parameters())
    assert not torch.equal(layers[1].running_mean, before["1.running_mean"])


def test_the_rate_is_in_proportion_to_the_images_of_a_step():
    schedule = Schedule(0.32, 10, kind="step", warmup_steps=0, min_lr_ratio=1.0)
    assert schedule.rate(0, 20) == pytest.approx(0.2)
    assert schedule.rate(9, 20) == pytest.approx(0.002)


def test_momentum_after_a_first_step_that_overflowed():
    """As is usual in fp16. The momentum is 0 then, not memory that nobody has written."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 1)
    optimizer = make_optimizer(Network(layer), name="sgd", momentum=0.9, weight_decay=0.0)
    set_learning_rate(optimizer, 0.5)
    before = layer.weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=100)
    torch.use_deterministic_algorithms(True)  # memory that nobody has written is nan with it
    try:
        for grad in (math.inf, 2.0, 2.0):
            scaler.scale(torch.zeros(()))
            for parameter in layer.parameters():
                parameter.grad = torch.full_like(parameter, grad) * scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
    finally:
        torch.use_deterministic_algorithms(False)
    # 0.5 x 2, and 0.5 x (0.9 x 2 + 2)
    torch.testing.assert_close(layer.weight, before - 1 - 1.9)


@pytest.mark.parametrize("name, plain", [
    ("adamw", lambda groups: torch.optim.AdamW(groups, lr=0.0, betas=(0.8, 0.999), fused=False)),
    ("sgd", lambda groups: torch.optim.SGD(groups, lr=0.0, momentum=0.8, fused=False))])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_fused_loop_gives_the_plain_loops_weights_in_both_memory_formats(name, plain, layout):
    networks, optimizers = [], []
    for is_plain in (False, True):
        torch.manual_seed(1)
        network = Network(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1)).to(
            memory_format=layout)
        optimizer = make_optimizer(network, name=name, momentum=0.8, weight_decay=0.05)
        if is_plain:
            optimizer = plain([{key: group[key] for key in ("params", "weight_decay", "lr_mult")}
                               for group in optimizer.param_groups])
        networks.append(network)
        optimizers.append(optimizer)
    images = torch.randn(2, 3, 8, 8).to(memory_format=layout)
    for _ in range(5):
        for network, optimizer in zip(networks, optimizers):
            network(images).square().sum().backward()
            set_learning_rate(optimizer, 0.01)
            optimizer.step()
            optimizer.zero_grad()
    for own, expected in zip(*(network.parameters() for network in networks)):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)
