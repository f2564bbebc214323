"""A run that ends anywhere and goes on comes to the same bits as one without a break."""

import math
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from same_run import assert_same_run

import train
from ssd import SSD
from utils import cli
from utils.cli import UserError
from utils.evaluation.voc_ap import ClassResult

STEP, OPTIMIZER = (train, "train_step"), (torch.optim.AdamW, "step")
MEASURE, REPLACE = (SSD, "evaluate"), (cli.os, "replace")
VARIANTS = {
    "plain": {}, "steps": {"save_steps": 1, "save_period": 2},
    "accumulate": {"save_steps": 1, "accumulate": 2},
    "frozen sgd": {"save_steps": 1, "freeze_epochs": 1, "freeze_batch_size": 4,
                   "backbone_weights": "", "model_path": "start", "optimizer": "sgd"},
    "early stop": {"save_steps": 1, "early_stopping": 1, "epochs": 8, "learning_rate": 1e-12},
    "no val": {"save_steps": 1, "val_list": ""}}
pytestmark = pytest.mark.usefixtures("tiny")


class Crash(BaseException):
    """The process is gone: nothing catches it."""


@pytest.fixture(scope="module")
def references():
    return {}


@pytest.fixture
def uninterrupted(references, flags, tmp_path_factory):
    """Return a function from a variant's name to (its settings, the run folder of its training)."""
    def get(variant):
        settings = flags | VARIANTS[variant]
        if variant not in references:
            save_dir = tmp_path_factory.mktemp("reference")
            if settings.get("model_path"):
                train.main(train.TrainSettings(**flags | {"epochs": 1, "save_dir": str(save_dir),
                                                          "run_name": "start"}))
                VARIANTS[variant]["model_path"] = str(save_dir / "start" / "last.pth")
                settings = flags | VARIANTS[variant]
            train.main(train.TrainSettings(**settings, save_dir=str(save_dir)))
            references[variant] = save_dir / "run"
        return settings, references[variant]
    return get


def crash_at(patch, owner, name, count, *, after=False):
    """Have the count-th call of a function end the process, before or after its work."""
    function, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(1)
        result = function(*args, **kwargs) if after or len(calls) < count else None
        if len(calls) == count:
            raise Crash
        return result

    patch.setattr(owner, name, counted)


@pytest.mark.parametrize("variant, place, count, after", [
    ("plain", STEP, 7, False), ("plain", MEASURE, 2, False),
    ("plain", REPLACE, 3, False), ("plain", REPLACE, 5, True), ("plain", OPTIMIZER, 6, True),
    ("steps", STEP, 6, False), ("steps", REPLACE, 8, True), ("accumulate", STEP, 4, False),
    ("frozen sgd", STEP, 3, False), ("frozen sgd", STEP, 6, False),
    ("early stop", MEASURE, 2, False), ("no val", STEP, 9, False)])
def test_a_crash_anywhere_leaves_the_same_bits(uninterrupted, tmp_path, monkeypatch, variant, place,
                                               count, after):
    settings, expected = uninterrupted(variant)
    settings = train.TrainSettings(**settings | {"save_dir": str(tmp_path), "resume": "last"})
    with monkeypatch.context() as patch:
        crash_at(patch, *place, count, after=after)
        with pytest.raises(Crash):
            train.main(settings)
    train.main(settings)
    assert_same_run(tmp_path / "run", expected)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_says_how_to_go_on(uninterrupted, tmp_path, monkeypatch,
                                                            capsys, number):
    settings, expected = uninterrupted("plain")
    settings["save_dir"] = str(tmp_path)
    train_step, calls = train.train_step, []

    def step(*args, **kwargs):
        calls.append(1)
        if len(calls) == 6:
            signal.raise_signal(number)
        return train_step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", step)
        with pytest.raises(KeyboardInterrupt):
            train.main(train.TrainSettings(**settings))
    assert f"step 2 of epoch 2; to go on:\npython train.py --resume {tmp_path}" in (
        capsys.readouterr().err)
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    train.main(train.TrainSettings(resume=str(tmp_path / "run")))  # its settings are its own
    assert_same_run(tmp_path / "run", expected)


def test_best_pth_holds_the_confidence_that_detection_takes(flags, tmp_path, monkeypatch, capsys):
    scores, precision, recall = np.array([[0.8, 0.603, 0.2], [1, 1, 2 / 3], [0.5, 1, 1]])
    good = ClassResult(0.7, 0.6, 2, 3, scores, precision, recall)
    nothing = ClassResult(math.nan, math.nan, 0, 0, *np.zeros((3, 0)))
    monkeypatch.setattr(SSD, "evaluate", lambda self, records: [good, nothing, nothing, nothing])
    train.main(train.TrainSettings(**flags | {"epochs": 1}, save_dir=str(tmp_path)))
    best = SSD(tmp_path / "run" / "best.pth", device="cpu")
    assert capsys.readouterr().out.endswith(" classes, val mAP@0.5 0.700\n")
    assert best.thresholds.confidence == 0.4 and best.about.items() >= {
        "model": "run/best.pth", "version": cli.VERSION, "val_map": 0.7,
        "confidence_by_class": dict.fromkeys(best.class_names) | {best.class_names[0]: 0.4}}.items()
    assert best.confidence_text == "confidence 0.4, best F1 on val"
    set_here = SSD(tmp_path / "run" / "best.pth", device="cpu", confidence=0.6)
    assert set_here.confidence_text == "confidence 0.6, as set"
    last = SSD(tmp_path / "run" / "last.pth", device="cpu")
    assert last.confidence_text == "confidence 0.5, the default"


@pytest.fixture
def stopped(uninterrupted, tmp_path):
    """The folder of a finished run, which may be changed."""
    shutil.copytree(uninterrupted("plain")[1], tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("changes, words", [
    ({"learning_rate": 0.5}, "began with learning_rate 0.001 .now 0.5"),
    ({"epochs": 9, "seed": 4}, "epochs 3 .now 9., seed 0 .now 4"),
    ({"batch_size": 4}, "batch_size 2 .now 4"),
    ({"train_list": "val.txt"}, "train list .8 images, \\w+, now 4 images"),
    ({"resume": "best.pth"}, "best.pth: holds weights; only the last.pth"),
    ({"resume": "nowhere"}, "nowhere")])
def test_what_would_change_the_numbers_is_refused_in_one_line(stopped, data, changes, words):
    if "train_list" in changes:
        changes = {"train_list": str(data / changes["train_list"])}
    if "best.pth" in changes.values():
        changes = {"resume": str(stopped / "best.pth")}
    settings = train.TrainSettings(**{"resume": str(stopped)} | changes)
    with pytest.raises(UserError, match=words) as error:
        train.main(settings)
    assert "\n" not in str(error.value)


def test_batches_of_another_size_may_make_the_same_steps(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted("accumulate")[1], tmp_path / "run")
    train.main(train.TrainSettings(resume=str(tmp_path / "run"), batch_size=4, accumulate=1))
    last = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    assert last["settings"]["accumulate"] == 1


def test_resume_last_begins_a_run_of_a_name_and_refuses_without_any(flags, tmp_path):
    with pytest.raises(UserError, match="no last.pth under"):
        train.main(train.TrainSettings(save_dir=str(tmp_path), resume="last"))
    settings = train.TrainSettings(**flags | {"epochs": 1}, save_dir=str(tmp_path), resume="last")
    train.main(settings)
    with pytest.raises(UserError, match="choose another run_name"):
        train.main(train.TrainSettings(**flags | {"epochs": 1}, save_dir=str(tmp_path)))
    assert (tmp_path / "run" / "last.pth").exists()
