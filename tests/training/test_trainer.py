"""The optimizer step: accumulation, bf16, layout, and what stops a run."""

import copy
from functools import partial

import pytest
import torch
from tiny_ssd import SIDE, TinySSD

from nets.ssd import SSDNet, build_spec
from ssd import SSD, SSDSettings
from train import TrainSettings
from train import make_trainer as make_trainer_of
from utils.cli import UserError
from utils.data.loader import Batch
from utils.training.optim import Schedule, make_optimizer
from utils.training.trainer import Objective, Trainer

CPU = torch.device("cpu")
SCHEDULE = Schedule(num_images=8, epochs=3, batch_size=4, accumulate=2, freeze_epochs=1,
                    freeze_batch_size=8, learning_rate=1e-3, kind="cosine", warmup_steps=0,
                    min_lr_ratio=0.1)
OBJECTIVE = Objective(match_iou=0.5, negatives_per_positive=3.0, background_negatives=30,
                      train_on_difficult=True)


def make_trainer(network, *, precision="fp32", objective=OBJECTIVE, clip_grad_norm=0.0):
    optimizer = make_optimizer(network, name="sgd", momentum=0.9, weight_decay=0.0)
    return Trainer(network, optimizer, None, SCHEDULE, objective, device=CPU, precision=precision,
                   num_workers=0, clip_grad_norm=clip_grad_norm)


def make_batch(counts):
    """Return a Batch of noise with so many objects in each image, padded to the largest."""
    generator = torch.Generator().manual_seed(len(counts))
    most = max(counts)
    low = torch.rand(len(counts), most, 2, generator=generator) * 0.5
    side = 0.15 + torch.rand(len(counts), most, 2, generator=generator) * 0.35
    labels = torch.randint(0, 3, (len(counts), most), generator=generator)
    for image, count in enumerate(counts):
        labels[image, count:] = -1
    return Batch(torch.randint(0, 256, (len(counts), 3, SIDE, SIDE), generator=generator,
                               dtype=torch.uint8), torch.cat([low, low + side], -1), labels,
                 torch.zeros(len(counts), most, dtype=torch.bool), tuple(range(len(counts))))


def part_of(batch, places):
    return Batch(*(part[places] for part in batch[:4]), batch.indices[places])


def gradients(network, group, **options):
    """Return (step's figures, {parameter: gradient}) of one step of a copy of the network."""
    trainer = make_trainer(copy.deepcopy(network), **options)
    kept = {}
    trainer.optimizer.zero_grad = lambda set_to_none: kept.update(
        {name: p.grad.clone() for name, p in trainer.network.named_parameters()})
    return trainer.train_step(group), kept


@pytest.fixture
def network():
    """A network without batch norm: with it, a batch is more than the sum of its parts."""
    torch.manual_seed(2)  # every layer has a gradient
    return TinySSD(norm=partial(torch.nn.GroupNorm, 8))


def test_two_batches_accumulated_are_one_large_batch(network):
    # Twelve objects against four: the mean of two batches' means would differ.
    # The sums run in another order, so float32 may differ by its rounding, 1e-7 relative times the
    # square root of the thousands of terms in a gradient: 1e-4 of a tensor's largest entry.
    batch = make_batch([12, 4])
    whole, expected = gradients(network, [batch])
    parts, found = gradients(network, [part_of(batch, slice(0, 1)), part_of(batch, slice(1, 2))])
    assert parts["positives"] == whole["positives"] > 0
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert all(gradient.any() for gradient in expected.values())
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-4 * scale, msg=name)


def test_a_bf16_step_is_an_fp32_step_within_its_rounding(network):
    batch = make_batch([12])
    full, exact = gradients(network, [batch])
    half, rounded = gradients(network, [batch], precision="bf16")
    for name in ("loc", "conf"):
        assert half[name] == pytest.approx(full[name], rel=0.02)
    for name in ("heads.0.weight", "heads.2.weight", "stages.0.0.weight"):
        both = torch.stack([exact[name].flatten(), rounded[name].flatten()])
        assert torch.nn.functional.cosine_similarity(*both, dim=0) > 0.95


@pytest.fixture
def mobilenet():
    torch.manual_seed(0)
    return SSDNet(4, build_spec("mobilenetv2", 300)).train()


def test_the_gradient_norm_is_cut(network):
    class Taken(Exception):
        pass

    trainer = make_trainer(network, clip_grad_norm=0.5)

    def look():
        total = sum(float(p.grad.square().sum()) for p in network.parameters()) ** 0.5
        assert total == pytest.approx(0.5, rel=1e-3)
        raise Taken

    trainer.optimizer.step = look
    with pytest.raises(Taken):
        trainer.train_step([make_batch([2, 1])])


@pytest.mark.parametrize("epoch, frozen, batch_size, steps", [
    (0, True, 8, 1), (1, False, 4, 1), (2, False, 4, 1)])
def test_schedule_by_hand(epoch, frozen, batch_size, steps):
    assert SCHEDULE.is_frozen(epoch) is frozen
    assert SCHEDULE.batch_size_in(epoch) == batch_size and SCHEDULE.steps_in(epoch) == steps
    assert SCHEDULE.rate(0, epoch) == pytest.approx(1e-3 * 8 / 32)  # there are no more images


@pytest.mark.parametrize("epochs, freeze, total", [(3, 1, 2 + 2 * 7), (1, 5, 2), (4, 0, 4 * 7),
                                                   (10 ** 18, 10, 20 + (10 ** 18 - 10) * 7)])
def test_total_steps_need_no_counting(epochs, freeze, total):
    # 27 images: 14 + 13 frozen in batches of 7 by two; 7 steps of 2 x 2.
    schedule = Schedule(num_images=27, epochs=epochs, batch_size=2, accumulate=2,
                        freeze_epochs=freeze, freeze_batch_size=7, learning_rate=1.0, kind="step",
                        warmup_steps=0, min_lr_ratio=0.1)
    assert schedule.total_steps() == total


def epoch_sums(**changes):
    return {"positives": 0.0, "objects": 0.0, "images": 8.0} | changes


def test_an_epoch_without_positives_is_said_or_stops(network, capsys):
    trainer = make_trainer(network)
    with pytest.raises(UserError, match="280 objects matched a prior.*anchors_size"):
        trainer._check_positives(epoch_sums(objects=280.0), 0)
    trainer._check_positives(epoch_sums(objects=280.0, positives=1.0), 0)
    assert not capsys.readouterr().out
    trainer._check_positives(epoch_sums(objects=280.0), 4)
    trainer._check_positives(epoch_sums(), 0)  # crops without objects, by chance
    assert capsys.readouterr().out.count("WARNING: epoch") == 2


def test_positives_and_objects_are_counted(network):
    figures = make_trainer(network).train_step([make_batch([3, 0]), make_batch([1, 0])])
    assert figures["objects"] == 4 and figures["images"] == 4 and figures["positives"] >= 4
    network.priors.fill_(float("nan"))
    assert make_trainer(network).train_step([make_batch([1, 0])])["positives"] == 0


def test_channels_last_false_stays_contiguous_beside_a_detector(mobilenet):
    settings = TrainSettings(backbone="mobilenetv2", channels_last=False, device="cpu")
    trainer = make_trainer_of(settings, mobilenet, [None], CPU, "fp32")
    SSD(SSDSettings(device="cpu"), network=trainer.network, class_names=("a", "b", "c"))
    assert all(p.is_contiguous() for p in trainer.network.parameters())
