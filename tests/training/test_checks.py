"""What is found before the first step, and the words when memory runs out."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import train
from utils.cli import UserError
from utils.device import pick_device
from utils.memory import is_out_of_memory
from utils.training.checks import check_batch_norm, check_images, read_lists
from utils.training.optim import Schedule, make_optimizer

NUMBERS = ("learning_rate", "min_lr_ratio", "momentum", "weight_decay", "clip_grad_norm",
           "match_iou", "negatives_per_positive")


@pytest.mark.parametrize("name, value", [
    *((name, value) for name in NUMBERS for value in (float("nan"), float("inf"), -1.0)),
    ("anchors_size", (30, 60, float("nan"), 162, 213, 264, 315)), ("anchors_size", (1e-30, 1.0)),
    ("anchors_size", (0.0, 1.0)), ("aspect_ratios", (float("nan"),)), ("aspect_ratios", (2, 0)),
    ("aspect_ratios", (-2.0,)), ("momentum", 1.0), ("seed", -1), ("seed", 2 ** 32),
    ("background_negatives", 10 ** 30), ("negatives_per_positive", 1e30), ("epochs", 10 ** 400),
    ("epochs", -5), ("batch_size", 10 ** 9), ("freeze_batch_size", 0), ("accumulate", 10 ** 9),
    ("num_workers", 10 ** 6), ("num_workers", -1), ("input_shape", (10 ** 6, 10 ** 6)),
    ("input_shape", (300, 200)), ("optimizer", "adagrad"), ("schedule", "linear"),
    ("precision", "fp16"), ("augmentation", "heavy"), ("backbone", "vgg19"), ("run_name", "a/b")])
def test_settings_out_of_bounds_are_refused_before_anything_is_read(name, value, monkeypatch):
    monkeypatch.setattr(train, "read_lists", lambda *args, **kwargs: pytest.fail("data was read"))
    settings = train.TrainSettings(freeze_epochs=1, device="cpu")
    with pytest.raises(UserError, match=name) as caught:
        train.main(replace(settings, **{name: value}))
    assert len(str(caught.value).splitlines()) == 1


def test_the_defaults_and_the_former_name_of_adamw_pass():
    train.check_settings(train.TrainSettings())
    train.check_settings(train.TrainSettings(optimizer="adam", seed=2 ** 32 - 1, momentum=0.0))
    network = nn.Linear(2, 2)
    for name, kind in (("adam", torch.optim.AdamW), ("adamw", torch.optim.AdamW),
                       ("sgd", torch.optim.SGD)):
        assert isinstance(make_optimizer(network, name=name, momentum=0.9, weight_decay=0.1), kind)


@pytest.mark.parametrize("name", ["meta", "hpu", "cuda:-1", "", "gpu", "cpu:x", "vulkan", "fpga"])
def test_devices_that_cannot_train_are_one_line(name):
    with pytest.raises(UserError, match="cannot be used here") as caught:
        pick_device(name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("num_images, size, frozen, words", [
    (1, 8, (0, 1), "add images, or take backbone"), (9, 1, (0, 8), "set batch_size.* to 2"),
    (9, 1, (1, 8), "set batch_size.* to 2"), (9, 8, (1, 1), "freeze_batch_size"),
    (2, 8, (0, 1), None), (9, 2, (1, 2), None), (9, 1, (3, 8), None)])
def test_batch_norm_needs_two_images(num_images, size, frozen, words):
    schedule = Schedule(num_images=num_images, epochs=3, batch_size=size, freeze_epochs=frozen[0],
                        freeze_batch_size=frozen[1], accumulate=1, learning_rate=1.0, kind="step",
                        warmup_steps=0, min_lr_ratio=0.1)
    network = nn.Module()
    network.extras = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    if words is None:
        check_batch_norm(network, schedule)
    else:
        with pytest.raises(UserError, match=words):
            check_batch_norm(network, schedule)
    network.extras = nn.Sequential(nn.Conv2d(2, 2, 1))
    check_batch_norm(network, schedule)


def too_large():
    return np.zeros((1 << 50,), dtype=np.float64)


def system_says(number):
    raise OSError(number, "Cannot allocate memory")


def raises(error):
    raise error


@pytest.mark.parametrize("cause", [
    too_large, lambda: torch.empty(1 << 55), lambda: bytearray(1 << 60), lambda: system_says(12),
    lambda: raises(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
    lambda: raises(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")),
    lambda: raises(cv2.error("(-4:Insufficient memory) Failed to allocate 9 bytes"))])
def test_a_lack_of_memory_is_told_by_what_each_library_says(cause):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        cause()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), UserError("out of memory?"),
                                   KeyboardInterrupt(), ValueError("batch")])
def test_other_errors_are_no_lack_of_memory(error):
    assert not is_out_of_memory(error)


@pytest.fixture
def lists(tmp_path):
    """Return a function that writes my_train.txt and my_val.txt of given objects and reads them."""
    Image.new("RGB", (50, 40)).save(tmp_path / "a.jpg")
    (tmp_path / "my_classes.txt").write_text("cat\n")

    def read(train_objects, val_objects, **changes):
        for name, objects in (("train", train_objects), ("val", val_objects)):
            (tmp_path / f"my_{name}.txt").write_text(f"{tmp_path / 'a.jpg'}{objects}\n")
        return read_lists(**{"train_list": str(tmp_path / "my_train.txt"),
                             "val_list": str(tmp_path / "my_val.txt"), "classes_path": "",
                             "train_on_difficult": True} | changes)
    return read


EASY, HARD = " 1,1,20,20,0", " 1,1,20,20,0,1"


@pytest.mark.parametrize("val_objects, changes, words", [
    (HARD, {}, "my_val.txt has no object that is not difficult"), ("", {}, "has no object"),
    (EASY, {"val_list": ""}, "no val list")])
def test_nothing_to_choose_the_best_epoch_by_is_said(lists, capsys, val_objects, changes, words):
    assert lists(EASY, val_objects, **changes)[1] == []
    out = capsys.readouterr().out
    assert words in out and "best.pth is the last epoch" in out
    assert len(lists(EASY, HARD + EASY.replace("20", "30"))[1]) == 1


def test_only_difficult_objects_are_nothing_where_they_are_left_out(lists):
    assert len(lists(HARD, EASY)[0]) == 1
    with pytest.raises(UserError, match="no objects in any image but difficult ones"):
        lists(HARD, EASY, train_on_difficult=False)


def test_a_missing_list_is_named_with_the_place_looked_at(lists, tmp_path):
    with pytest.raises(UserError, match=f"train_list: there is no {tmp_path}/none.txt"):
        lists(EASY, EASY, train_list=str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match='val_list: there is no .*val_list = ""'):
        lists(EASY, EASY, val_list="nowhere/2007_val.txt")


def test_val_images_are_read_before_training(lists, tmp_path):
    records = lists(EASY, EASY)[1]
    check_images(records, "my_val.txt")
    (tmp_path / "a.jpg").write_bytes(b"broken")
    with pytest.raises(UserError, match="my_val.txt: .*a.jpg.*\n.*voc_annotation.py"):
        check_images(records, "my_val.txt")
