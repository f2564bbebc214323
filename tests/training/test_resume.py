"""A run that ends anywhere and goes on comes to the same bits as one without a break."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_ssd import TinySSD

import train
import voc_annotation
from benchmarks.kill import compare
from ssd import SSD
from utils import cli
from utils.cli import ROOT, Stopped, UserError
from utils.data import demo_data
from utils.data.annotations import read_list
from utils.training import run_folder, run_state, trainer
from utils.training.optim import Schedule
from utils.training.run_state import check_basis, fingerprint
from utils.training.stopping import SIGNALS, StopSignals
from utils.training.trainer import Trainer

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


class Crash(BaseException):
    """The process is gone: nothing catches it."""


class Freezable(TinySSD):
    """A tiny network whose first layers can stand still."""

    def __init__(self, norm=torch.nn.BatchNorm2d):
        super().__init__(norm)
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
            # The second mAP of so short a run does not beat the first, or the third the second.
            "early": {"save_steps": 1, "early_stopping": 1, "epochs": 9},
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
    *(("early", MEASURE, k) for k in (1, 2, 3)), ("early", STEP, 6),
    *(("early", SAVE, k) for k in (5, 10, 12)),
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
    assert not [name for name in faults if not name.endswith("/settings/save_dir")]
    names = [{path.name for path in folder.iterdir() if not path.name.startswith("events.")}
             for folder in (expected, found)]
    assert names[0] == names[1]


def test_a_run_that_stopped_early_has_ended_but_can_go_on(data, tmp_path, monkeypatch, capsys):
    changes = VARIANTS["early"] | {"epochs": 4}
    train.main(settings_of(data, tmp_path, **changes))
    out = capsys.readouterr().out
    ended = int(out.partition("early stopping after epoch ")[2].partition(" of 4")[0])
    assert ended < 4 and f"epoch {ended + 1}/4" not in out and f"of {ended} (val mAP" in out
    before = (tmp_path / "run/last.pth").read_bytes()
    train.main(settings_of(data, tmp_path, **changes, resume="last"))
    command = capsys.readouterr().out.partition("go on all the same:\n")[2].splitlines()[0]
    assert before == (tmp_path / "run/last.pth").read_bytes()
    monkeypatch.setattr(sys, "argv", shlex.split(command)[1:])
    train.main(settings_of(data, tmp_path, **changes | {"early_stopping": 0}, resume="last"))
    assert "epoch 4/4" in capsys.readouterr().out


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
            signal.raise_signal(signal.SIGINT)
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
        assert stops < 40
    assert stops > 12
    assert_same(expected / "run", save_dir / "run")


def stopped_run(data, save_dir, monkeypatch, step=6, **changes):
    """Leave a run that was stopped before a step, 4 steps an epoch; return its last.pth."""
    with monkeypatch.context() as patch:
        crash_at(patch, *STEP, step)
        with pytest.raises(Crash):
            train.main(settings_of(data, save_dir, save_steps=1, **changes))
    return save_dir / "run" / "last.pth"


@pytest.mark.parametrize("changes, words", [
    ({"seed": 5}, ["seed 0 (now 5)"]), ({"epochs": 9, "batch_size": 3}, ["batch_size 2 (now 3)",
                                                                         "epochs 3 (now 9)"]),
    ({"learning_rate": 0.1}, ["learning_rate 0.001 (now 0.1)"]),
    ({"augmentation": "none"}, ["augmentation 'light' (now 'none')"]),
    ({"backbone": "resnet50"}, ["backbone 'vgg' (now 'resnet50')"]),
    ({"anchors_size": (9.0,)}, ["anchors_size () (now (9.0,))"])])
def test_settings_that_change_the_numbers_are_refused_by_name(data, tmp_path, monkeypatch, changes,
                                                              words):
    last = stopped_run(data, tmp_path, monkeypatch)
    before = last.read_bytes()
    with pytest.raises(UserError, match="the run began with") as error:
        train.main(settings_of(data, tmp_path, resume="last", **changes))
    assert all(word in str(error.value) for word in words)
    assert f"--model_path {last}" in str(error.value) and str(error.value).count("\n") == 1
    assert last.read_bytes() == before


def merge(given, saved, *, default=1, old_default=1, typed=(), free=()):
    values = run_state.merge_settings({"a": given}, {"a": saved}, typed=typed, free=free, place="x",
                                      defaults=({"a": default}, {"a": old_default}))
    return values["a"]


def test_what_counts_as_asked_for():
    assert merge(1, 7) == 7  # nothing was said: the run's own
    assert merge(7, 7, typed={"a"}) == 7
    assert merge(5, 7, free={"a"}) == 5 and merge(1, 7, free={"a"}) == 7
    assert merge(1, 7, free={"a"}, typed={"a"}) == 1  # typed, though it is the default
    # The default was edited since: that speaks where the run took the default of its time.
    assert merge(2, 7, default=2) == 7 and merge(2, 1, default=2, free={"a"}) == 2
    for asked in ({"given": 5}, {"given": 1, "typed": {"a"}}):
        with pytest.raises(UserError, match="a 7"):
            merge(saved=7, **asked)
    with pytest.raises(UserError, match=r"a 1 \(now 2\)"):
        merge(2, 1, default=2)


def test_the_runs_own_settings_win_over_defaults(data, tmp_path, monkeypatch, capsys):
    last = stopped_run(data, tmp_path, monkeypatch, accumulate=2, step=3)
    train.main(train.TrainSettings(resume=str(last)))  # nothing but the path
    out = capsys.readouterr().out
    assert "going on after epoch 1" in out and "epoch 3/3" in out
    assert torch.load(last, weights_only=True)["settings"]["accumulate"] == 2


def test_batches_may_shrink_where_steps_keep_their_images(data, tmp_path, reference, monkeypatch,
                                                          capsys):
    """2 x 2 images are the step of 4 at once, without batch norm but for rounding."""
    def plain(saved=None, *_):
        network = Freezable(lambda channels: torch.nn.Identity())
        if saved:
            network.load_state_dict(saved.state_dict)
        return network

    monkeypatch.setattr(train, "build_network", lambda *_: plain())
    monkeypatch.setattr(train, "network_of", plain)
    changes = {"batch_size": 4, "optimizer": "sgd"}
    train.main(settings_of(data, tmp_path / "whole", **changes))
    last = stopped_run(data, tmp_path, monkeypatch, step=2, **changes)
    capsys.readouterr()
    train.main(settings_of(data, tmp_path, resume="last", optimizer="sgd", batch_size=2,
                           accumulate=2))
    assert "as many images as before" in capsys.readouterr().out
    saved, whole = (torch.load(path, weights_only=True) for path in (
        last, tmp_path / "whole" / "run" / "last.pth"))
    assert saved["run"]["step"] == whole["run"]["step"] and saved["settings"]["accumulate"] == 2
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(saved["state_dict"][name], value, rtol=0, atol=1e-5)


def test_the_command_after_lack_of_memory_goes_on(data, tmp_path, monkeypatch):
    real = Trainer.train_step

    def train_step(self, group):
        if self.step == 5 and len(group[0].images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, group)

    monkeypatch.setattr(Trainer, "train_step", train_step)
    changes = {"batch_size": 2, "freeze_epochs": 1, "freeze_batch_size": 6,
               "backbone_weights": "some"}
    with pytest.raises(UserError, match="lower batch_size 4 -> 2 and freeze_batch_size 6 -> 3") \
            as error:
        train.main(settings_of(data, tmp_path, **changes | {"batch_size": 4}))
    script, *flags = shlex.split(str(error.value).splitlines()[-1])[1:]
    assert script == "train.py" and flags[2:] == [
        "--batch_size", "2", "--freeze_batch_size", "3", "--accumulate", "2"]
    monkeypatch.setattr(sys, "argv", [script, *flags])
    cli.run(train.main, train.TrainSettings)
    assert torch.load(tmp_path / "run" / "last.pth", weights_only=True)["run"]["epoch"] == 3


def edit_list(path, line):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:1], *line(lines[1:])]) + "\n")


@pytest.mark.parametrize("name, line, words", [
    ("train", lambda lines: lines[:-1], r"the train list \(7 images then, 6 now\)"),
    ("train", lambda lines: lines[::-1], "the train list"),
    ("val", lambda lines: lines[:1], r"the val list \(3 images then, 1 now\)"),
    ("val", lambda lines: [line.rpartition(" ")[0] + " 1,1,50,50,0" for line in lines], "the val")])
def test_changed_lists_are_refused_by_name(data, tmp_path, monkeypatch, name, line, words):
    shutil.copytree(data, tmp_path / "data")
    stopped_run(tmp_path / "data", tmp_path, monkeypatch)
    edit_list(tmp_path / "data" / f"2007_{name}.txt", line)
    with pytest.raises(UserError, match=words) as error:
        train.main(settings_of(tmp_path / "data", tmp_path, resume="last"))
    assert ("train" in str(error.value)) != ("the val list" in str(error.value))


def test_moved_folders_go_on(data, tmp_path, reference, monkeypatch):
    shutil.copytree(data, tmp_path / "old")
    last = stopped_run(tmp_path / "old", tmp_path / "logs", monkeypatch)
    (tmp_path / "old").rename(tmp_path / "new")
    for name in ("train", "val"):
        path = tmp_path / "new" / f"2007_{name}.txt"
        path.write_text(path.read_text().replace(str(data), str(tmp_path / "new")))
    (tmp_path / "logs").rename(tmp_path / "moved")
    train.main(settings_of(tmp_path / "new", tmp_path / "elsewhere",
                           resume=str(tmp_path / "moved" / "run")))
    faults = compare(reference("steps") / "run", tmp_path / "moved" / "run")
    assert {name.rpartition("/")[2] for name in faults} <= {"save_dir", "train_list", "val_list"}
    assert not last.exists() and not (tmp_path / "elsewhere").exists()


def test_fingerprints_see_every_part_of_a_record(data):
    records, _ = read_list(data / "2007_train.txt")
    first = records[0]
    others = [first._replace(path=first.path.with_name("other.jpg")),
              first._replace(boxes_px=first.boxes_px + 1), first._replace(labels=first.labels + 1),
              first._replace(difficult=~first.difficult)]
    seen = {fingerprint([changed, *records[1:]])[1] for changed in (first, *others)}
    assert len(seen) == 5
    assert fingerprint([first._replace(path=Path("/elsewhere") / first.path.name)]) \
        == fingerprint([first])


def test_a_job_that_always_says_resume(data, tmp_path, monkeypatch, capsys):
    train.main(settings_of(data, tmp_path, resume="last", epochs=1))
    assert "no " in capsys.readouterr().out.splitlines()[0]
    assert (tmp_path / "run" / "last.pth").exists()
    before = (tmp_path / "run" / "best.pth").read_bytes(), (tmp_path / "run/last.pth").read_bytes()
    train.main(settings_of(data, tmp_path, resume="last", epochs=1))
    out = capsys.readouterr().out
    assert "all 1 epochs are done. To train on, begin a new run" in out and "--model_path" in out
    assert before == ((tmp_path / "run/best.pth").read_bytes(),
                      (tmp_path / "run/last.pth").read_bytes())
    # a run that was killed before its first save
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "settings.txt").write_text("old\n")
    (tmp_path / "early" / "last.part").write_text("half")
    with pytest.raises(UserError, match="holds another run"):
        train.main(settings_of(data, tmp_path, run_name="early", epochs=1))
    train.main(settings_of(data, tmp_path, run_name="early", epochs=1, resume="last"))
    assert "epochs                  1\n" in (tmp_path / "early" / "settings.txt").read_text()
    # the newest run of all, and folders of something else
    train.main(settings_of(data, tmp_path, run_name="", resume="last", epochs=1))
    assert f"{tmp_path / 'early'}/last.pth: all" in capsys.readouterr().out.replace(os.sep, "/")
    for name, file in (("photos", "a.jpg"), ("weights", "best.pth")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
        with pytest.raises(UserError, match="holds another run"):
            train.main(settings_of(data, tmp_path, run_name=name, resume="last"))


@pytest.mark.parametrize("resume, words", [
    ("last", "no run to go on with"), ("nowhere/last.pth", "no such file")])
def test_nothing_to_go_on_with(data, tmp_path, resume, words):
    with pytest.raises(UserError, match=words):
        train.main(settings_of(data, tmp_path / "none", run_name="", resume=resume))


def test_best_holds_weights_alone(data, tmp_path, monkeypatch):
    last = stopped_run(data, tmp_path, monkeypatch)
    best = last.with_name("best.pth")
    assert best.stat().st_size < 0.5 * last.stat().st_size
    with pytest.raises(UserError, match="weights alone"):
        train.main(settings_of(data, tmp_path, resume=str(best)))


NAN = torch.tensor(float("nan"))
DAMAGE = {
    "no dict": lambda run: run.update(optimizer=[1]), "gone": lambda run: run.pop("sums"),
    "a step too many": lambda run: run.update(done=3),
    "beyond": lambda run: run.update(epoch=10 ** 30),
    "negative": lambda run: run.update(done=-1), "text": lambda run: run.update(step="5"),
    "nan": lambda run: run["sums"].update(loss=float("nan")),
    "history": lambda run: run.update(history=[]), "rows": lambda run: run.update(history=[1]),
    "best": lambda run: run.update(best_map="high"),
    "generator": lambda run: run["generators"].update(cpu=torch.zeros(3, dtype=torch.uint8)),
    "machine": lambda run: run.pop("machine"), "defaults": lambda run: run.update(defaults=3),
    "shape": lambda run: run["optimizer"][0].update(exp_avg=torch.zeros(2)),
    "not finite": lambda run: run["optimizer"][0].update(
        exp_avg=run["optimizer"][0]["exp_avg"] * NAN),
    "one number": lambda run: run["optimizer"][0].update(
        exp_avg=torch.zeros(()).expand_as(run["optimizer"][0]["exp_avg"])),
    "whole": lambda run: run["optimizer"][0].update(exp_avg=run["optimizer"][0]["exp_avg"].int()),
    "unknown parameter": lambda run: run["optimizer"].update({999: run["optimizer"][0]}),
    "part": lambda run: run["optimizer"][0].pop("step")}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_a_users_error(data, tmp_path, monkeypatch, damage):
    last = stopped_run(data, tmp_path, monkeypatch)
    values = torch.load(last, weights_only=True)
    DAMAGE[damage](values["run"])
    torch.save(values, last)
    with pytest.raises(UserError, match="last.pth: what it holds of the run is damaged") as error:
        train.main(settings_of(data, tmp_path, resume="last"))
    assert str(error.value).count("\n") == 1 and len(str(error.value)) < 620


def test_hostile_settings_in_a_state(data, tmp_path, monkeypatch):
    last = stopped_run(data, tmp_path, monkeypatch)
    for name, value in (("epochs", "many"), ("batch_size", -1), ("seed", None)):
        values = torch.load(last, weights_only=True)
        values["settings"][name] = value
        torch.save(values, tmp_path / "last.pth")
        with pytest.raises(UserError, match=name):
            train.main(settings_of(data, tmp_path, resume=str(tmp_path / "last.pth")))


def in_another_process(code):
    code = f"from utils.training.run_folder import *\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_a_folder_has_one_writer(tmp_path):
    hold = f"with hold_folder(Path({str(tmp_path)!r})):\n    print('held')\n"
    claim = (f"with claim_folder({str(tmp_path.parent)!r}, {tmp_path.name!r}, 'b', again=True):\n"
             "    pass\n")
    with run_folder.hold_folder(tmp_path, "text"):
        for attempt in (hold, claim):
            assert "trained by another process now" in in_another_process(attempt).stderr
        assert (tmp_path / "settings.txt").exists()
    assert in_another_process(hold).stdout == "held\n"
    assert (tmp_path / "settings.txt").read_text() == "text\n"


@posix
def test_a_killed_process_leaves_no_lock_though_its_workers_live_on(tmp_path):
    hold = f"with hold_folder(Path({str(tmp_path)!r})):\n    print('held')\n"
    in_another_process(hold + "    import signal, sys\n    sys.stdout.flush()\n"
                       "    if os.fork() == 0:\n        os.close(1), os.close(2)\n"
                       "        time.sleep(9)\n    else:\n"
                       "        signal.raise_signal(signal.SIGKILL)\n")
    assert in_another_process(hold).stdout == "held\n"


def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(data, tmp_path, monkeypatch):
    real, calls = torch.save, []

    def full(values, path):
        calls.append(path)
        if len(calls) > 8:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(values, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(UserError) as error:
            train.main(settings_of(data, tmp_path, save_steps=1))
    last = tmp_path / "run" / "last.pth"
    assert "No space left" in str(error.value)
    assert "step 2 of epoch 2; to go on:\npython train.py --resume " in str(error.value)
    assert shlex.split(str(error.value).splitlines()[-1])[3] == str(last)
    progress = torch.load(last, weights_only=True)["progress"]
    assert progress == {"epoch": 1, "step": 2}
    train.main(settings_of(data, tmp_path, resume="last"))


@pytest.mark.parametrize("error, words", [
    (UserError("a process that reads images ended"), "reads images ended"),
    (RuntimeError("CUDA out of memory. Tried"), "batch_size 2 -> 1 and raise accumulate 1 -> 2"),
    (run_state.CannotLearn("not finite"), None), (RuntimeError("a bug"), None)])
def test_ends_that_say_how_to_go_on(data, tmp_path, monkeypatch, error, words):
    real, calls = Trainer.train_step, []

    def fail(*args):
        calls.append(1)
        if len(calls) == 6:
            raise error
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", fail)
        with pytest.raises(type(error) if words is None else UserError) as caught:
            train.main(settings_of(data, tmp_path))
    place = "holds the run up to the end of epoch 1; to go on:"
    assert (place in str(caught.value)) == (words is not None)
    assert (words or "") in str(caught.value)


def test_a_signal_in_the_measurement_ends_it(data, tmp_path, reference, monkeypatch):
    def signalled(self, records):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(20)

    with monkeypatch.context() as patch:
        patch.setattr(SSD, "evaluate", signalled)
        with pytest.raises(Stopped, match="up to the end of epoch 1") as stop:
            train.main(settings_of(data, tmp_path))
    assert stop.value.status == 143
    train.main(settings_of(data, tmp_path, resume="last"))
    assert_same(reference("plain") / "run", tmp_path / "run")


def test_signals_are_noted_then_raised_then_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(Stopped):
            stop.at_once(lambda: pytest.fail("begun"))
        with pytest.raises(Stopped) as error:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(5)
        assert error.value.status == 128 + signal.SIGTERM
    assert before == [signal.getsignal(number) for number in SIGNALS]


@posix
def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.number is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@posix
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_script_says_what_to_type(data, tmp_path, number, status):
    """The signal goes to the script and its workers, as a terminal and a scheduler send it."""
    save_dir = tmp_path / "it's here"
    command = [sys.executable, str(ROOT / "train.py"), "--train_list", str(data / "2007_train.txt"),
               "--val_list", "", "--save_dir", str(save_dir), "--backbone", "mobilenetv2",
               "--backbone_weights", "", "--input_shape", "260", "260", "--batch_size", "2",
               "--epochs", "400", "--run_name", "a b", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        while not process.stdout.readline().startswith("epoch 1/400"):
            assert process.poll() is None
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == status and "Traceback" not in err, err
    *_, place, line = err.splitlines()
    assert line.startswith("python train.py --resume ") and "to go on:" in place
    assert shlex.split(line)[3] == str(save_dir / "a b" / "last.pth")
    assert torch.load(shlex.split(line)[3], weights_only=True)["progress"]["epoch"] >= 1


def check_cut_run(data, tmp_path, monkeypatch, changes):
    """Train without a break, and with a crash at step 5; both must end with the same bits."""
    train.main(settings_of(data, tmp_path / "whole", **changes))
    with monkeypatch.context() as patch:
        crash_at(patch, *STEP, 5)
        with pytest.raises(Crash):
            train.main(settings_of(data, tmp_path / "cut", **changes))
    train.main(settings_of(data, tmp_path / "cut", **changes, resume="last"))
    assert_same(tmp_path / "whole" / "run", tmp_path / "cut" / "run")


def test_a_run_of_windows_goes_on_with_the_same_bits(data, tmp_path, monkeypatch):
    def tiled(saved=None, *_):
        network = Freezable()
        network.spec = replace(network.spec, tile=100)
        if saved:
            network.load_state_dict(saved.state_dict)
        return network

    monkeypatch.setattr(train, "build_network", lambda *_: tiled())
    monkeypatch.setattr(train, "network_of", tiled)
    changes = {"epochs": 2, "save_steps": 1}
    check_cut_run(data, tmp_path, monkeypatch, changes)


def test_the_state_of_the_scaler_survives(data, tmp_path, monkeypatch):
    """fp16 on the CPU, which train.py refuses for its slowness: one step overflows and is left."""
    monkeypatch.setattr(train, "set_precision", lambda name, device: "fp16")
    monkeypatch.setattr("ssd.set_precision", lambda name, device: "fp32")  # for val mAP
    changes = {"epochs": 2, "precision": "auto", "save_steps": 1}
    real = torch.amp.GradScaler

    def scaler_of(device, enabled):
        return real(device, enabled=enabled, init_scale=2.0 ** 19, growth_interval=3)

    monkeypatch.setattr(torch.amp, "GradScaler", scaler_of)
    check_cut_run(data, tmp_path, monkeypatch, changes)
    run = torch.load(tmp_path / "cut" / "run" / "last.pth", weights_only=True)["run"]
    assert 0 < run["skipped"] < run["step"] and 0 < run["scaler"]["scale"]


def test_a_scaler_that_met_no_loss_works():
    """That of a rank without a batch in its first step."""
    network = Freezable()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    schedule = Schedule(num_images=1, epochs=1, batch_size=1, accumulate=1, freeze_epochs=0,
                        freeze_batch_size=1, learning_rate=1.0, kind="step", warmup_steps=0,
                        min_lr_ratio=0.1)
    a_trainer = Trainer(network, optimizer, None, schedule, None, device=torch.device("cpu"),
                        precision="fp16", num_workers=0, clip_grad_norm=0.0)
    before = next(network.parameters()).detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 65536.0)  # its scale, which is divided out
    a_trainer._update()
    assert torch.equal(next(network.parameters()), before - 1) and not a_trainer.skipped


@pytest.mark.parametrize("clip", [10.0, 0.0])
def test_a_gradient_that_is_not_finite_reaches_no_weights(data, tmp_path, monkeypatch, clip):
    """Loss and outputs are finite, and the gradient of a square root at 0 is not."""
    real = trainer.multibox_loss

    def loss(loc, conf, *args, **kwargs):
        parts = real(loc, conf, *args, **kwargs)
        return parts._replace(loc=parts.loc + (loc.sum() * 0).sqrt())

    monkeypatch.setattr(trainer, "multibox_loss", loss)
    with pytest.raises(UserError, match="gradient is not finite at step 1; lower learning_rate"):
        train.main(settings_of(data, tmp_path, clip_grad_norm=clip))
    assert not list(tmp_path.rglob("*.pth"))


def test_a_run_of_before_several_processes_is_refused_by_them(monkeypatch):
    """Its last.pth does not say how many there were: there was one."""
    basis = {"data": {}}
    check_basis(basis, {"data": {}}, "last.pth")
    monkeypatch.setattr(run_state, "world_size", lambda: 2)
    with pytest.raises(UserError, match="began with 1 processes, now there are 2"):
        check_basis(basis, {"data": {}}, "last.pth")
