"""A run that ends anywhere and goes on comes to the same bits as one without a break."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_ssd import TinySSD

import train
import voc_annotation
from benchmarks.kill import compare
from ssd import SSD
from utils import cli
from utils.checkpoint import save_checkpoint
from utils.cli import ROOT, Stopped, UserError
from utils.data import demo_data
from utils.data.annotations import read_list
from utils.training import run_folder, run_state, stopping, trainer
from utils.training.run_state import fingerprint
from utils.training.stopping import SIGNALS, StopSignals
from utils.training.trainer import Trainer

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


class Crash(BaseException):
    """The process is gone: nothing catches it."""


class Freezable(TinySSD):
    """A tiny network whose first layers can stand still."""

    def __init__(self):
        super().__init__()
        self.num_classes, self.extras = 5, torch.nn.ModuleList()
        self.pretrained_layers = self.stages[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    demo_data.main(demo_data.DemoSettings(folder=str(folder), images=13, held_out=0))
    voc_annotation.main(voc_annotation.AnnotationSettings(
        classes_path=str(folder / "classes.txt"), VOCdevkit_path=str(folder / "VOCdevkit"),
        lists_dir=str(folder), val_share=0.2, test_share=0.2))
    return folder


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Have train.py train a tiny network, and draw no curves."""
    def network_of(checkpoint, *_):
        torch.rand(7)  # as a network's random start does
        network = Freezable()
        network.load_state_dict(checkpoint.state_dict)
        return network

    monkeypatch.setattr(train, "build_network", lambda *_: Freezable())
    monkeypatch.setattr(train, "network_of", network_of)
    monkeypatch.setattr(run_folder, "plot_history", lambda rows, folder: None)
    monkeypatch.setattr(sys, "argv", ["train.py"])


def settings_of(data, save_dir, **changes):
    values = {"train_list": str(data / "2007_train.txt"), "val_list": str(data / "2007_val.txt"),
              "save_dir": str(save_dir), "run_name": "run", "epochs": 3, "batch_size": 2,
              "num_workers": 0, "device": "cpu", "precision": "fp32", "save_period": 2}
    return train.TrainSettings(**(values | changes))


VARIANTS = {"plain": {}, "steps": {"save_steps": 1}, "accumulate": {"save_steps": 1,
                                                                    "accumulate": 2},
            "sgd, frozen": {"save_steps": 1, "freeze_epochs": 1, "freeze_batch_size": 4,
                            "backbone_weights": "some", "optimizer": "sgd"},
            "bf16, strided": {"save_steps": 2, "precision": "bf16", "channels_last": False},
            "eval_period": {"save_steps": 1, "eval_period": 2},
            "no val": {"save_steps": 1, "val_list": ""}}
REFERENCES = {}


@pytest.fixture
def reference(data, tmp_path_factory):
    """A function from a variant's name to the run folder of a training without a break."""
    def get(variant):
        if variant not in REFERENCES:
            save_dir = tmp_path_factory.mktemp("reference")
            train.main(settings_of(data, save_dir, **VARIANTS[variant]))
            REFERENCES[variant] = save_dir
        return REFERENCES[variant]
    return get


def crash_at(patch, owner, name, count, after=False):
    """Have the count-th call of a function end the process, before or after its work."""
    real, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(name)
        if after:
            real(*args, **kwargs)
        if len(calls) == count:
            raise Crash
        return None if after else real(*args, **kwargs)

    patch.setattr(owner, name, counted)


STEP, SAVE = (Trainer, "train_step"), (cli.os, "replace")
MEASURE = (SSD, "evaluate")
HALF_STEP = (torch.optim.AdamW, "step", True)


@pytest.mark.parametrize("variant, place, count", [
    ("plain", STEP, 1), ("plain", STEP, 6), ("plain", STEP, 12), ("plain", HALF_STEP, 7),
    *(("plain", MEASURE, k) for k in (1, 2, 3)), *(("plain", SAVE, k) for k in range(1, 12)),
    *(("plain", (*SAVE, True), k) for k in range(1, 12)),
    *(("steps", STEP, k) for k in (2, 5, 6, 12)), ("steps", HALF_STEP, 3),
    *(("steps", SAVE, k) for k in (2, 5, 9)),
    *(("accumulate", STEP, k) for k in (2, 3, 5)),
    *(("sgd, frozen", STEP, k) for k in (2, 3, 4, 5, 8)),
    ("bf16, strided", STEP, 4), ("bf16, strided", MEASURE, 2),
    ("eval_period", STEP, 7), ("eval_period", MEASURE, 1), ("eval_period", STEP, 12),
    ("no val", STEP, 8), *(("no val", SAVE, k) for k in (5, 6, 7, 8))])
def test_a_run_that_crashes_comes_to_the_same_bits(data, tmp_path, reference, monkeypatch, variant,
                                                   place, count):
    expected = reference(variant)
    save_dir = tmp_path / "logs"
    changes = VARIANTS[variant] | {"save_dir": str(save_dir)}
    with monkeypatch.context() as patch:
        crash_at(patch, *place[:2], count, *place[2:])
        with pytest.raises(Crash):
            train.main(settings_of(data, **changes))
    train.main(settings_of(data, **changes, resume="last"))
    assert_same(expected / "run", save_dir / "run")


def assert_same(expected, found):
    """Compare run folders; where the run lay is the only setting that may differ."""
    faults = compare(expected, found)
    assert {name for name in faults if not name.endswith(("/settings/save_dir", "/threads"))} == set()
    assert {path.name for path in expected.iterdir()} == {path.name for path in found.iterdir()}


@pytest.mark.parametrize("before, after", [(0, 2), (2, 0)])
def test_workers_may_change(data, tmp_path, reference, monkeypatch, before, after):
    expected = reference("steps")
    with monkeypatch.context() as patch:
        crash_at(patch, *STEP, 3)
        with pytest.raises(Crash):
            train.main(settings_of(data, tmp_path, save_steps=1, num_workers=before))
    monkeypatch.setattr(sys, "argv", ["train.py", f"--num-workers={after}"])
    train.main(settings_of(data, tmp_path, save_steps=1, num_workers=after, resume="last"))
    faults = compare(expected / "run", tmp_path / "run")
    assert {name.rpartition("/")[2] for name in faults} <= {"save_dir", "num_workers"}


def test_many_stops_by_signal_between_and_within_steps(data, tmp_path, reference, monkeypatch):
    """The run is stopped after every step: by a signal in the step, and while images are read."""
    expected, stops = reference("plain"), 0
    save_dir = tmp_path / "logs"
    while True:
        owner, name = ((Trainer, "train_step"), (trainer, "batches"))[stops % 2]
        real = getattr(owner, name)

        def signalled(*args, real=real):
            os.kill(os.getpid(), signal.SIGINT)
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, signalled)
            try:
                train.main(settings_of(data, save_dir, resume="last"))
                break
            except Stopped as stop:
                assert stop.status == 130 and "to go on:\npython train.py --resume" in str(stop)
                stops += 1
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if stops > 40:
            break
    train.main(settings_of(data, save_dir, resume="last"))
    assert stops > 12
    assert_same(expected / "run", save_dir / "run")
