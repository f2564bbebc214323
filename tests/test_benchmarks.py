"""What the benchmarks stand on: turns, the check that sides agree, the table."""

import time

import numpy as np
import pytest
import torch

from benchmarks.inference import same_detections
from benchmarks.timing import race
from benchmarks.torchvision_ssd import as_torchvision, batch_as_lists, reference_loss
from nets.ssd import SSDNet, build_spec
from utils.cli import UserError
from utils.data.loader import Batch
from utils.multibox.loss import MultiBoxLoss


def test_a_race_takes_turns_and_counts_the_second_run_of_each():
    calls = []

    def task(name, pause):
        calls.append(name)
        time.sleep(pause)
        return 1

    medians = race({"slow": lambda: task("slow", 0.02), "fast": lambda: task("fast", 0.002)}, 2,
                   lambda one, other: one == other)
    assert calls == ["slow", "fast"] + 3 * ["slow", "slow", "fast", "fast"]
    assert 2 < medians["slow"] / medians["fast"] < 20


def test_a_race_of_different_results_is_refused():
    with pytest.raises(UserError, match="second does not give what first gives"):
        race({"first": lambda: 1, "second": lambda: 2}, 1, lambda one, other: one == other)


def test_detections_are_the_same_where_nearly_all_have_their_like():
    boxes = np.float32([[10 * k, 0, 10 * k + 9, 9] for k in range(20)])
    scores, labels = np.linspace(0.9, 0.2, 20, dtype=np.float32), np.arange(20)
    first = boxes, scores, labels
    assert same_detections(first, (boxes + 0.5, scores + 0.01, labels))
    for other in ((boxes + 2, scores, labels), (boxes, scores - 0.1, labels),
                  (boxes, scores, labels + 1), (boxes[:15], scores[:15], labels[:15])):
        assert not same_detections(first, other)


def test_torchvision_has_the_same_loss_for_the_same_weights():
    torch.manual_seed(0)
    network = SSDNet(4, build_spec("vgg", 300))
    criterion = MultiBoxLoss(network.coder, background_negatives=0)
    batch = Batch(torch.randint(256, (1, 3, 300, 300)).float(),
                  torch.tensor([[[0.1, 0.2, 0.5, 0.6], [0.5, 0.5, 0.9, 0.95], [0, 0, 0, 0]]]),
                  torch.tensor([[0, 2, -1]]), torch.zeros(1, 3, dtype=torch.bool), (0,))
    targets = criterion.make_targets(batch.boxes, batch.labels, batch.difficult)
    with torch.no_grad():
        loc, conf = network(batch.images)
        losses = criterion(loc, conf, targets, criterion.count(targets))
        reference = reference_loss(as_torchvision(network, same_priors=True),
                                   *batch_as_lists(batch), "cpu")
    assert float(reference) == pytest.approx(float(losses.loc + losses.conf), rel=1e-3)
