"""What the benchmarks stand on: turns, the check that sides agree, the table."""

import json
import math
import sys
import time

import numpy as np
import pytest
import torch
from torchvision.models.detection import SSD300_VGG16_Weights

from benchmarks.__main__ import BenchSettings, draw
from benchmarks.__main__ import main as bench
from benchmarks.inference import postprocessing, same_arrays, same_detections
from benchmarks.machine import machine, operations, peak
from benchmarks.prepare import CANDIDATES, _background
from benchmarks.race import race
from benchmarks.runtimes import same_scores
from benchmarks.table import Row, quantity, read_rows, report, rows_of, table
from benchmarks.torchvision_ssd import as_torchvision, batch_as_lists, reference_loss
from nets.ssd import SSDNet, build_spec
from utils.cli import UserError
from utils.data.loader import Batch
from utils.multibox.loss import loss_normaliser, multibox_loss
from utils.multibox.matching import make_targets


def test_a_race_takes_turns_and_counts_the_second_run_of_each():
    calls = []

    def task(name, pause):
        calls.append(name)
        time.sleep(pause)
        return 1

    figures = race({"slow": lambda: task("slow", 0.02), "fast": lambda: task("fast", 0.002)}, 2,
                   lambda one, other: one == other)
    assert calls == ["slow", "fast"] + 3 * ["slow", "slow", "fast", "fast"]
    assert figures["slow"]["ratio"] == 1
    assert 2 < figures["fast"]["ratio"] < 20
    assert figures["fast"]["low"] <= figures["fast"]["median"] <= figures["fast"]["high"]


def test_a_race_of_different_results_is_refused():
    with pytest.raises(UserError, match="ours does not give what theirs gives"):
        race({"theirs": lambda: 1, "ours": lambda: 2}, 1, lambda one, other: one == other)


def test_rows_are_kept_and_printed(tmp_path, capsys):
    rows = [*rows_of("reading", {"theirs": {"median": 0.2}, "ours": {"median": 0.0005}},
                     {"ours": 0.5}),
            Row("alone", "ours", 3 * 2**30, unit="B")]
    report(rows, str(tmp_path / "rows.json"))
    assert table(rows).splitlines()[1:] == [
        "reading  ours  500 us  theirs     200 ms  400 x  50%",
        "alone    ours  3 GB    -          -       -      -"]
    assert table(rows) in capsys.readouterr().out
    assert json.loads((tmp_path / "rows.json").read_text())["machine"] == machine()
    again = read_rows(tmp_path / "rows.json")
    assert again[0] == rows[0] and again[1].unit == "B" and math.isnan(again[1].ratio)
    curve = {"panel": "a", "axis": "b", "name": "c", "xs": [1, 10], "seconds": [0.1, 1]}
    draw(rows, [curve], tmp_path / "rows.png")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("value, unit, text", [
    (2.5, "s", "2.5 s"), (0.0123, "s", "12.3 ms"), (3e-6, "s", "3 us"), (1e-9, "s", "0.001 us"),
    (2**29, "B", "512 MB"), (math.nan, "s", "-")])
def test_quantities(value, unit, text):
    assert quantity(value, unit) == text


def test_detections_are_the_same_where_nearly_all_have_their_like():
    boxes = np.float32([[10 * k, 0, 10 * k + 9, 9] for k in range(20)])
    found = boxes, np.linspace(0.9, 0.2, 20, dtype=np.float32), np.arange(20)
    assert same_detections(found, found)
    assert same_detections(found, (boxes + 0.5, found[1] + 0.01, found[2]))
    assert not same_detections(found, (boxes + 2, *found[1:]))
    assert not same_detections(found, (boxes, found[1] - 0.1, found[2]))
    assert not same_detections(found, (boxes, found[1], found[2] + 1))
    assert not same_detections(found, tuple(part[:17] for part in found))
    assert not same_detections(found, tuple(part[:0] for part in found))


def test_background_leaves_as_many_candidates_as_are_asked_for():
    conf = 3 * torch.randn(1, 8732, 5, generator=torch.Generator().manual_seed(0))
    conf[..., 0] += _background(conf)
    assert abs(int((conf.softmax(-1)[..., 1:] > 0.01).sum()) - CANDIDATES) <= 2


def test_both_postprocessings_find_the_same():
    task = postprocessing(5)
    assert same_arrays(task["torchvision"](), task["this project"]())


def test_operations_of_ssd300_are_those_that_torchvision_publishes():
    network = SSDNet(91, build_spec("vgg", 300))
    # Of SSD300_VGG16_Weights.COCO_V1.meta, where a multiplication and an addition are one.
    assert operations(network, 300) == pytest.approx(
        2e9 * SSD300_VGG16_Weights.COCO_V1.meta["_ops"], rel=0.01)
    assert peak("fp32") > 1e8


def test_torchvision_has_the_same_loss_for_the_same_weights():
    torch.manual_seed(0)
    network = SSDNet(4, build_spec("vgg", 300))
    batch = Batch(torch.randint(256, (1, 3, 300, 300)).float(),
                  torch.tensor([[[0.1, 0.2, 0.5, 0.6], [0.5, 0.5, 0.9, 0.95], [0, 0, 0, 0]]]),
                  torch.tensor([[0, 2, -1]]), torch.zeros(1, 3, dtype=torch.bool), (0,))
    targets = make_targets(batch.boxes, batch.labels, batch.difficult, network.priors,
                           iou_threshold=0.5, variances=network.spec.variances)
    mean = torch.tensor(network.spec.mean).view(3, 1, 1)
    with torch.no_grad():
        parts = multibox_loss(*network(batch.images - mean), targets, negatives_per_positive=3)
        ours = sum(parts) / loss_normaliser(targets.labels, negatives_per_positive=3,
                                            background_negatives=0)
        theirs = reference_loss(as_torchvision(network, same_priors=True),
                                *batch_as_lists(batch), "cpu")
    assert float(theirs) == pytest.approx(float(ours), rel=1e-3)


def test_a_network_that_torchvision_does_not_have_is_refused():
    for spec in (build_spec("vgg", 512), build_spec("mobilenetv2", 300),
                 build_spec("vgg", 300, tile=400)):
        with torch.device("meta"), pytest.raises(UserError, match="SSD300 with VGG16 alone"):
            as_torchvision(SSDNet(3, spec), same_priors=True)


def test_runtimes_agree_where_scores_are_clear():
    scores = torch.zeros(1, 50, 3)
    assert not same_scores((None, scores), (None, scores))  # nothing to see
    scores[0, :5, 1] = 0.7
    assert same_scores((None, scores), (None, scores + 0.01))
    assert not same_scores((None, scores), (None, 0 * scores))


def test_unknown_benchmarks_and_failed_ones_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no benchmark speed; there are inference, runtimes"):
        bench(BenchSettings(only=("speed",), folder=str(tmp_path)))
    (tmp_path / "2007_train.txt").touch()
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(UserError, match="failed: map"):
        bench(BenchSettings(only=("map",), folder=str(tmp_path), model_path="any"))
