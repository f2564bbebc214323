"""The optimizer step of train.py against one large batch, differentiated in one go."""

import copy
import math

import pytest
import torch
from tiny_ssd import SIDE, TinySSD, group_norm

from train import train_step
from utils.cli import UserError
from utils.data.loader import Batch
from utils.multibox.loss import MultiBoxLoss
from utils.training.run import Run


def make_batch(counts):
    """Return a Batch of noise with so many objects in each image, padded to the largest."""
    generator = torch.Generator().manual_seed(len(counts))
    most = max(counts)
    low = torch.rand(len(counts), most, 2, generator=generator) * 0.5
    side = 0.15 + torch.rand(len(counts), most, 2, generator=generator) * 0.35
    labels = torch.randint(0, 3, (len(counts), most), generator=generator)
    for image, count in enumerate(counts):
        labels[image, count:] = -1
    images = torch.randint(0, 256, (len(counts), 3, SIDE, SIDE), generator=generator,
                           dtype=torch.uint8)
    return Batch(images, torch.cat([low, low + side], -1), labels,
                 torch.zeros(len(counts), most, dtype=torch.bool), tuple(range(len(counts))))


def rows_of(batch, rows):
    return Batch(*(part[rows] for part in batch[:5]))


def with_targets(batch, criterion):
    return batch._replace(targets=criterion.make_targets(*batch[1:4]))


def step(network, batches, *, precision="fp32", clip_grad_norm=0.0):
    """Return (StepResult, gradients by name) of a step of a copy; its weights move by them."""
    network = copy.deepcopy(network)
    criterion = MultiBoxLoss(network.coder, background_negatives=30)
    before = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    batches = [with_targets(batch, criterion) for batch in batches]
    result = train_step(network, criterion, optimizer, batches, precision=precision,
                        scaler=torch.amp.GradScaler("cpu", enabled=False),
                        clip_grad_norm=clip_grad_norm)
    return result, {name: old.detach() - new.detach() for (name, old), new in zip(
        before.named_parameters(), network.parameters())}


@pytest.fixture
def network():
    torch.manual_seed(2)  # every layer has a gradient
    return TinySSD(norm=group_norm)


@pytest.fixture
def batch():
    return make_batch([12, 4])  # with unequal counts, the mean of two batches' means would differ


def test_a_step_equals_one_backward_pass_over_the_whole_loss(network, batch):
    result, gradients = step(network, [rows_of(batch, slice(0, 1)), rows_of(batch, slice(1, 2))])
    criterion = MultiBoxLoss(network.coder, background_negatives=30)
    targets = criterion.make_targets(batch.boxes, batch.labels, batch.difficult)
    num_positives = int((targets.labels > 0).sum())
    loss = sum(criterion(*network(batch.images), targets, num_positives))
    loss.backward()
    assert sum(result.losses.tolist()[:2]) == pytest.approx(loss.item(), rel=1e-5)
    assert result[:3] == (num_positives, 16, 2)
    for name, parameter in network.named_parameters():
        # The weights have moved by the gradient, to the rounding of their own size.
        scale = max(float(parameter.grad.abs().max()), float(parameter.abs().max()))
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-5 * scale)


def test_a_bf16_step_is_an_fp32_step_within_its_rounding(network, batch):
    full, exact = step(network, [batch])
    half, rounded = step(network, [batch], precision="bf16")
    assert half.losses.tolist()[:2] == pytest.approx(full.losses.tolist()[:2], rel=0.02)
    for name in ("heads.0.weight", "heads.2.weight", "stages.0.0.weight"):
        both = torch.stack([exact[name].flatten(), rounded[name].flatten()])
        assert torch.nn.functional.cosine_similarity(*both, dim=0) > 0.95


def test_the_gradient_norm_is_cut(network, batch):
    _, gradients = step(network, [batch], clip_grad_norm=0.5)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    assert norm == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("tensor", ["heads.0.bias", "stages.0.0.weight"])
def test_a_run_whose_loss_is_not_finite_stops_before_it_saves(network, batch, tensor, tmp_path):
    network.get_parameter(tensor).data.fill_(math.nan)
    result, _ = step(network, [batch])
    run = Run(tmp_path, network, torch.optim.SGD(network.parameters(), lr=1.0), None, ("a",),
              settings={}, lists={}, save_period=0)
    with pytest.raises(UserError, match=r"not finite.*lines of the train list: \[2, 3\]"):
        run.log(result)
    with pytest.raises(UserError, match="not finite"):
        run.save()
    assert not list(tmp_path.iterdir())
