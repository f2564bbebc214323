"""The scripts as a user runs them, one after the other, on a data set small enough for seconds."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import fill_state_dict, fixture_keys

import get_map
import train
from ssd import SSD
from utils.cli import ROOT, UserError

TINY = {"backbone": "mobilenetv2", "backbone_weights": "", "input_shape": (260, 260),
        "batch_size": 3, "num_workers": 0, "epochs": 1, "device": "cpu", "precision": "fp32",
        "run_name": "run"}


def settings_for(data, **changes):
    return train.TrainSettings(**{**TINY, "train_list": str(data / "val.txt"),
                                  "val_list": str(data / "val.txt"),
                                  "save_dir": str(data / "logs"), **changes})


@pytest.fixture(scope="module")
def trained(data):
    """The run folder of two steps of training."""
    train.main(settings_for(data))
    return data / "logs" / "run"


def read(path):
    return torch.load(path, weights_only=True)


def test_training_leaves_settings_history_curves_and_weights(trained):
    names = {path.name for path in trained.iterdir() if not path.name.startswith("events.")}
    assert names == {"settings.txt", "history.csv", "loss.png", "map.png", "last.pth", "best.pth",
                     "samples.jpg"}
    assert "learning_rate" in (trained / "settings.txt").read_text()


def test_the_newest_training_is_measured(trained, data):
    get_map.main(get_map.MapSettings(
        test_list=str(data / "2007_test.txt"), save_dir=str(data / "logs"), device="cpu",
        map_out_path=str(data / "map_out")))
    results = json.loads((data / "map_out" / "results.json").read_text(encoding="utf-8"))
    assert results["list"] == str(data / "2007_test.txt")
    assert (data / "map_out" / "report.html").exists()


def test_the_tile_of_a_training_is_that_of_its_weights(data, tiny):
    """Also of one that begins with a detector, and of one that goes on from there without it."""
    path = ""
    for number, tile in enumerate((0, 200, 0)):
        train.main(settings_for(data, tile=tile, run_name=f"tile{number}", model_path=path,
                                backbone="resnet50", input_shape=(128, 128), val_list=""))
        path = str(data / "logs" / f"tile{number}" / "best.pth")
        assert SSD(path, device="cpu").spec.tile == 200 * (number > 0)


def test_frozen_layers_stay_and_the_new_ones_train(trained, data):
    train.main(settings_for(data, model_path=str(trained / "last.pth"), run_name="more",
                            freeze_epochs=1, freeze_batch_size=4))
    before = read(trained / "last.pth")["state_dict"]
    after = read(data / "logs/more/last.pth")["state_dict"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # Frozen means weights and batch-norm statistics.
    assert not any(name.startswith("mobilenet.") for name in changed)
    assert "loc.0.weight" in changed and "extras.0.0.conv.0.1.running_mean" in changed


def test_training_starts_from_a_published_file_of_other_classes(data, tmp_path, capsys):
    fixture = np.load(Path(__file__).parent / "fixtures" / "bubbliiiing-mobilenetv2.npz")
    published = fill_state_dict(fixture_keys(fixture), 7)
    torch.save(published, tmp_path / "published.pth")
    train.main(settings_for(data, model_path=str(tmp_path / "published.pth"),
                            run_name="from_published", learning_rate=1e-6))
    out = capsys.readouterr().out
    assert "bubbliiiing" in out and "classes that start fresh: circle, square" in out
    values = read(data / "logs/from_published/last.pth")
    # The conventions of the file go into the new checkpoint with its weights.
    assert values["spec"]["mean"] == (104, 117, 123) and values["spec"]["steps"] is None
    torch.testing.assert_close(values["state_dict"]["loc.2.weight"], published["loc.2.weight"],
                               atol=1e-4, rtol=0)


@pytest.mark.parametrize("changes, message", [
    ({"epochs": 0}, "epochs must lie in 1.*got 0"),
    ({"learning_rate": -1.0}, "learning_rate must lie"),
    ({"train_list": "nowhere/2007_train.txt"}, "Run voc_annotation.py"),
    ({"input_shape": (300, 200)}, "input_shape must be square"),
    ({"anchors_size": (30, 60)}, "anchors_size must be 7"),
    ({"tile": 30}, "tile must be 0"),
    ({"classes_path": "model_data/voc_classes.txt"}, "different classes"),
    ({"backbone_weights": "nowhere.pth"}, "nowhere.pth: no such file"),
    ({"batch_size": 1}, "one image at a time"),
    ({"device": "cuda:99"}, "cannot be used here")])
def test_settings_that_cannot_work_are_refused(data, changes, message):
    with pytest.raises(UserError, match=message):
        train.main(settings_for(data, run_name="refused", **changes))


@pytest.mark.parametrize("script", ["train.py", "predict.py", "get_map.py", "voc_annotation.py"])
def test_a_mistyped_flag_stops_a_script_without_a_traceback(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--no_such_flag", "1"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and "Traceback" not in err and "no_such_flag" in err + out
