"""Devices and precisions: good and bad names, TF32 off, modes put back."""

import contextlib
import warnings

import pytest
import torch
from torch import nn

from utils.cli import UserError
from utils.device import evaluating, pick_device, run_in, set_precision

CPU = torch.device("cpu")


def test_good_devices(monkeypatch):
    assert pick_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="'cuda' cannot be used here"):  # too old for this PyTorch
        pick_device("auto")


@pytest.mark.parametrize("name", ["cuda:99", "cuda:x", "gpu", "", "CPU"])
def test_bad_devices_are_one_line(name):
    with pytest.raises(UserError) as error:
        pick_device(name)
    assert repr(name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("capability, expected", [
    ((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_follows_the_generation_of_gpus(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert set_precision("auto", torch.device("cuda")) == expected
    assert set_precision("fp16", torch.device("cuda")) == "fp16"
    with contextlib.nullcontext() if capability >= (8, 0) else pytest.raises(
            UserError, match='"bf16" is emulated on this GPU, and slow; take "auto"'):
        set_precision("bf16", torch.device("cuda"))


def test_fp16_needs_a_gpu():
    with pytest.raises(UserError, match='"fp16" is for NVIDIA GPUs, this is cpu'):
        set_precision("fp16", CPU)


def test_tf32_is_off_for_good_without_a_warning():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set_precision("fp32", CPU) == "fp32"
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_precision_holds_inside_the_context():
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)
    with run_in("bf16", CPU):
        assert layer(x).dtype == torch.bfloat16
        with run_in("fp32", CPU):
            assert layer(x).dtype == torch.float32
    assert layer(x).dtype == torch.float32


def test_every_submodule_gets_its_mode_back():
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.Dropout(), nn.BatchNorm2d(2)))
    network[1][1].eval()  # frozen
    modes = [module.training for module in network.modules()]
    with pytest.raises(KeyError), evaluating(network):
        assert not any(module.training for module in network.modules())
        raise KeyError
    assert [module.training for module in network.modules()] == modes == [1, 1, 1, 1, 0]
