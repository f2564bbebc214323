"""The scripts as a user runs them, on a folder small enough to train in seconds."""

import csv
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fill_state_dict, fixture_keys
from PIL import Image

import train
import voc_annotation
from nets.ssd import SSDNet, build_spec
from ssd import SSD, SSDSettings
from utils.cli import ROOT, UserError
from utils.data import demo_data
from utils.data.annotations import read_list
from utils.training import trainer

TINY = {"backbone": "mobilenetv2", "backbone_weights": "", "input_shape": (260, 260),
        "batch_size": 3, "num_workers": 0,
        "device": "cpu", "precision": "fp32", "run_name": "run"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A drawn data set of 10 images with its lists, in a path with a space."""
    folder = tmp_path_factory.mktemp("with space")
    demo_data.main(demo_data.DemoSettings(folder=str(folder), images=10))
    voc_annotation.main(voc_annotation.AnnotationSettings(
        classes_path=str(folder / "classes.txt"), VOCdevkit_path=str(folder / "VOCdevkit"),
        lists_dir=str(folder), val_share=0.2, test_share=0.2))
    return folder


def settings_for(folder, **changes):
    return train.TrainSettings(**{**TINY, "train_list": str(folder / "2007_train.txt"),
                                  "val_list": str(folder / "2007_val.txt"),
                                  "save_dir": str(folder / "logs"), **changes})


@pytest.fixture(scope="module")
def trained(folder):
    """The run folder of two steps of training."""
    train.main(settings_for(folder, epochs=1))
    return folder / "logs" / "run"


def names_in(folder):
    """Return the names of a run's files, TensorBoard's, which may not be installed, apart."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("events.")}


def test_training_leaves_settings_history_curves_and_weights(trained):
    assert names_in(trained) == {"settings.txt", "history.csv", "loss.png", "map.png", "last.pth",
                                 "best.pth", "samples.jpg"}
    rows = list(csv.DictReader(open(trained / "history.csv")))
    assert len(rows) == 1 and float(rows[0]["loss"]) > 0
    assert "learning_rate" in (trained / "settings.txt").read_text()


def test_a_checkpoint_is_plain_and_knows_its_classes(trained):
    values = torch.load(trained / "best.pth", weights_only=True)
    assert values["class_names"] == list(demo_data.CLASS_NAMES)
    assert values["settings"]["backbone"] == "mobilenetv2"
    assert values["spec"]["backbone"] == "mobilenetv2"


def test_the_tile_of_a_training_is_that_of_its_weights(trained, folder):
    """Also of one that begins with a detector, and of one that goes on from there without it."""
    image = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    path = trained / "last.pth"
    for name, tile in (("tiles", 200), ("tiles2", 0)):
        train.main(settings_for(folder, epochs=1, tile=tile, run_name=name, model_path=str(path)))
        path = folder / "logs" / name / "best.pth"
        detector, sizes = SSD(SSDSettings(model_path=str(path))), []
        runtime = detector.runtime
        detector.runtime = lambda inputs: sizes.append(len(inputs)) or runtime(inputs)
        detector.detect(image)
        assert detector.spec.tile == 200 and sizes == [6]
    with pytest.raises(UserError, match="tile must be 0 or a whole number in 64..16384, got 30"):
        train.main(settings_for(folder, tile=30, run_name="none", model_path=str(path)))
    with pytest.raises(UserError, match="tile must be 0"):
        train.main(settings_for(folder, tile=30, run_name="none"))


def test_training_goes_on_from_a_checkpoint(trained, folder):
    train.main(settings_for(folder, epochs=1, model_path=str(trained / "last.pth"),
                            run_name="more", freeze_epochs=1, freeze_batch_size=4))
    before = torch.load(trained / "last.pth", weights_only=True)["state_dict"]
    after = torch.load(folder / "logs/more/last.pth", weights_only=True)["state_dict"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # Frozen means weights and batch-norm statistics; the new layers do train.
    assert not any(name.startswith("mobilenet.") for name in changed)
    assert "loc.0.weight" in changed and "extras.0.conv.0.1.running_mean" in changed


def test_training_starts_from_a_published_file_of_other_classes(folder, tmp_path, capsys):
    fixture = np.load(Path(__file__).parent / "fixtures" / "bubbliiiing-mobilenetv2.npz")
    torch.save(fill_state_dict(fixture_keys(fixture), 7), tmp_path / "published.pth")
    train.main(settings_for(folder, epochs=1, model_path=str(tmp_path / "published.pth"),
                            run_name="from_published", learning_rate=1e-6))
    out = capsys.readouterr().out
    assert "bubbliiiing" in out and "classes that start fresh: circle, square" in out
    values = torch.load(folder / "logs/from_published/last.pth", weights_only=True)
    # The conventions of the file go into the new checkpoint with its weights.
    assert values["spec"]["mean"] == (104, 117, 123) and values["spec"]["steps"] is None
    published = fill_state_dict(fixture_keys(fixture), 7)
    torch.testing.assert_close(values["state_dict"]["loc.2.weight"], published["loc.2.weight"],
                               atol=1e-4, rtol=0)


def test_detect_takes_paths_arrays_and_pil_alike(trained, folder):
    detector = SSD(SSDSettings(model_path=str(trained / "best.pth"), confidence=0.0, device="cpu"))
    path = folder / "VOCdevkit/VOC2007/JPEGImages/000002.jpg"
    array = np.asarray(Image.open(path).convert("RGB"))
    results = [detector.detect(image) for image in (array, Image.fromarray(array))]
    np.testing.assert_array_equal(results[0].boxes, results[1].boxes)
    assert len(results[0].scores) == 200  # the most kept of an image
    height, width = array.shape[:2]
    assert (results[0].boxes >= 0).all() and (results[0].boxes <= [width, height] * 2).all()
    assert len(detector.detect(path).scores) == 200
    single, other = detector.detect_batch([array, array[::-1].copy()])
    np.testing.assert_allclose(single.scores, results[0].scores, atol=1e-5)


def test_a_loss_that_is_not_finite_names_the_images(folder, monkeypatch):
    monkeypatch.setattr(trainer, "normalise", lambda images, spec: images.float() * float("nan"))
    with pytest.raises(UserError, match=r"loc and conf loss.*\n.*\.jpg"):
        train.main(settings_for(folder, epochs=1, run_name="nan"))


def stop_with(monkeypatch, owner, name, error):
    def fail(*args, **kwargs):
        raise error
    monkeypatch.setattr(owner, name, fail)


def test_an_interrupt_during_val_map_keeps_the_epoch(folder, monkeypatch):
    stop_with(monkeypatch, SSD, "evaluate", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train.main(settings_for(folder, epochs=2, run_name="interrupted"))
    assert names_in(folder / "logs/interrupted") == {"settings.txt", "history.csv", "loss.png", "last.pth", "best.pth"}


def test_a_val_image_that_goes_bad_costs_a_line(folder, monkeypatch, capsys):
    stop_with(monkeypatch, SSD, "evaluate", UserError("a.jpg: not an image"))
    train.main(settings_for(folder, epochs=1, run_name="gone_bad"))
    out = capsys.readouterr().out
    assert "no val mAP this time: a.jpg" in out and "best: epoch 1 of 1 (no val mAP)" in out
    assert "next: python get_map.py" in out


def test_out_of_memory_leaves_no_folder(folder, monkeypatch):
    stop_with(monkeypatch, trainer, "normalise",
              RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"))
    with pytest.raises(RuntimeError, match="allocate memory"):  # `run` says what to lower
        train.main(settings_for(folder, epochs=1, run_name="too_large"))
    assert not (folder / "logs/too_large").exists()


def test_accumulation_sees_every_image_in_fewer_steps(folder):
    settings = settings_for(folder, batch_size=2, accumulate=2)
    records = read_list(settings.train_list)[0]
    runner = train.make_trainer(settings, SSDNet(6, build_spec("mobilenetv2", 300)), records,
                                torch.device("cpu"), "fp32")
    groups = []
    runner.train_step = lambda group: (groups.append(group), dict.fromkeys(runner.sums, 1.0))[1]
    runner.train_epoch()
    assert len(groups) == runner.schedule.steps_in(0) == -(-len(records) // 4)
    seen = {index for group in groups for batch in group for index in batch.indices}
    assert seen == set(range(len(records)))


@pytest.mark.parametrize("changes, message", [
    ({"freeze_epochs": 1}, "freeze_epochs needs pretrained"),
    ({"epochs": 0}, "epochs must lie in 1.*got 0"),
    ({"learning_rate": -1.0}, "learning_rate must lie"),
    ({"train_list": "nowhere/2007_train.txt"}, "Run voc_annotation.py"),
    ({"input_shape": (300, 200)}, "input_shape must be square"),
    ({"anchors_size": (30, 60)}, "anchors_size needs 7 entries"),
    ({"classes_path": "model_data/voc_classes.txt"}, "different classes"),
    ({"backbone_weights": "nowhere.pth"}, "nowhere.pth: No such file"),
    ({"batch_size": 1}, "one image at a time"),
    ({"device": "cuda:99"}, "cannot be used here"),
])
def test_settings_that_cannot_work_are_refused(folder, changes, message):
    with pytest.raises(UserError, match=message):
        train.main(settings_for(folder, **{"run_name": "refused", **changes}))


def test_without_weights_two_lines_say_how_to_get_some(tmp_path):
    with pytest.raises(UserError, match="no weights yet") as caught:
        SSD(SSDSettings(save_dir=str(tmp_path)))
    assert len(str(caught.value).splitlines()) == 2


def test_partial_weights_are_refused_by_name(trained, tmp_path):
    values = torch.load(trained / "best.pth", weights_only=True)
    del values["state_dict"]["loc.3.bias"]
    torch.save(values, tmp_path / "partial.pth")
    with pytest.raises(UserError, match="loc.3.bias"):
        SSD(SSDSettings(model_path=str(tmp_path / "partial.pth")))


@pytest.mark.parametrize("script", ["train.py", "predict.py", "get_map.py", "voc_annotation.py"])
def test_a_mistyped_flag_stops_a_script_without_a_traceback(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--no_such_flag", "1"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and "Traceback" not in err and "no_such_flag" in err + out
