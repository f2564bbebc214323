"""Weight files of other code bases: recognised, renamed, refused; weights of other classes."""

import functools
import pickle

import h5py
import numpy as np
import pytest
import torch
from payload import Payload

from nets.build import read_network
from nets.ssd import SSDNet, build_spec
from nets.weights.families import PUBLISHED_NAMES, VGG_LAYERS
from nets.weights.transfer import transfer
from nets.weights.weight_files import read_detector
from utils.cli import ROOT, UserError

# Our module names and the names of the same layers in Caffe (and so in Keras files).
CAFFE = {f"vgg.{index}": name for name, index in VGG_LAYERS.items()}
CAFFE |= {f"extras.{k}.{2 * half}": f"conv{6 + k}_{half + 1}" for k in range(5) for half in (0, 1)}
MAPS = ["conv4_3_norm", "fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2", "conv10_2"]
CAFFE |= {f"{head}.{k}": f"{name}_mbox_{head}" for head in ("loc", "conf")
          for k, name in enumerate(MAPS)}


@functools.cache
def shapes(size, classes=20):
    """Return {name: shape} of the state dict of SSD300 or SSD512."""
    with torch.device("meta"):
        state = SSDNet(classes + 1, build_spec("vgg", size)).state_dict()
    return {name: value.shape for name, value in state.items()}


@functools.lru_cache(maxsize=2)
def filled(size, classes=20):
    """Return a state dict with distinct numbers in every tensor."""
    rng = torch.Generator().manual_seed(3)
    return {name: torch.rand(shape, generator=rng).mul_(0.02)
            for name, shape in shapes(size, classes).items()}


def small(size=300, classes=20):
    """Return a state dict for a small file: every tensor is one number of its own, repeated."""
    return {name: torch.tensor(number / 1000).expand(shape)
            for number, (name, shape) in enumerate(shapes(size, classes).items())}


def write_keras(path, state, prefix=""):
    """Write a state dict in ssd_keras's layout, built from the layer's own definition."""
    with h5py.File(path, "w") as file:
        for name, value in state.items():
            module, kind = name.rsplit(".", 1)
            layer = CAFFE.get(module, "conv4_3_norm")
            array = value.numpy()
            if array.ndim == 4:
                array = np.transpose(array, (2, 3, 1, 0))  # OIHW -> HWIO
                if layer == "conv1_1":
                    array = array[:, :, ::-1]  # the network takes BGR
            key = {"weight": "kernel", "bias": "bias"}[kind]
            key = "conv4_3_norm_gamma" if layer == "conv4_3_norm" else key
            file[f"{prefix}{layer}/{layer}/{key}:0"] = array


def write_chainer(path, state):
    """Write a state dict in ChainerCV's layout."""
    arrays = {}
    for name, value in state.items():
        module, kind = name.rsplit(".", 1)
        array, layer = value.numpy(), CAFFE.get(module, "norm4")
        if module.startswith("loc"):
            array = np.concatenate([array[k:k + 4][[1, 0, 3, 2]] for k in range(0, len(array), 4)])
        if module.startswith(("loc", "conf")):
            key = f"multibox/{module.replace('.', '/')}"
        elif module.startswith("extras"):
            number, half = layer[4:].split("_")
            key = f"extractor/conv{int(number) + 2}_{half}"
        else:
            key = "extractor/" + {"fc6": "conv6", "fc7": "conv7"}.get(layer, layer)
        suffix = "scale" if layer == "norm4" else {"weight": "W", "bias": "b"}[kind]
        arrays[f"{key}/{suffix}"] = array
    np.savez(path, **arrays)


@pytest.mark.parametrize("size", [300, 512])
def test_keras_and_chainer_layouts_come_back_equal(size, tmp_path):
    state = filled(size)
    write_keras(tmp_path / "keras.h5", state, prefix="" if size == 300 else "model_weights/")
    write_chainer(tmp_path / "chainer.npz", state)
    for name, family, eps in (("keras.h5", "ssd_keras", 1e-12), ("chainer.npz", "chainercv", 1e-5)):
        checkpoint, recognised = read_detector(tmp_path / name)
        tensors = checkpoint.state_dict
        assert recognised == family and tensors.keys() == state.keys()
        assert all(torch.equal(tensors[key], value) for key, value in state.items())
        assert checkpoint.spec.size == size and checkpoint.spec.l2_eps == eps
        assert checkpoint.spec.prior_clip == "none" and checkpoint.class_names[0] == "aeroplane"


# The order in which the modules of both code bases register, read from their sources.
AMDEGROOT = ("vgg", "L2Norm", "extras", "loc", "conf")
BUBBLIIIING = ("vgg", "extras", "L2Norm", "loc", "conf")


@pytest.mark.parametrize("classes", [20, 3])
@pytest.mark.parametrize("order, family, other", [
    (AMDEGROOT, "amdegroot", "bubbliiiing"), (BUBBLIIIING, "bubbliiiing", "amdegroot")])
def test_the_order_tells_two_families_apart(tmp_path, capsys, classes, order, family, other):
    torch.save({f"module.{name}": value for group in order
                for name, value in small(classes=classes).items() if name.startswith(f"{group}.")},
               tmp_path / "vgg.pth")
    names = ("a", "b", "c") if classes == 3 else None
    checkpoint, recognised = read_detector(tmp_path / "vgg.pth", class_names=names)
    assert recognised == family
    # Only amdegroot's code takes COCO's sizes for other classes than VOC's.
    smallest = 21 if (family, classes) == ("amdegroot", 3) else 30
    assert checkpoint.spec.anchors_size[0] == smallest
    assert checkpoint.spec.mean[0] == (104 if family == "bubbliiiing" else 123)
    out = capsys.readouterr().out
    assert f"taken for {family}'s" in out and f'set weights_family to "{other}"' in out


@pytest.mark.parametrize("wrap", [
    lambda state: {f"model.module._orig_mod.{name}": value for name, value in state.items()},
    lambda state: {"n_averaged": torch.tensor(7)} | {
        f"module.{name}": value for name, value in state.items()},
    lambda state: {"epoch": 3, "model": without("vgg.2.bias"), "model_ema": state},
    lambda state: {"net": {"state_dict": state}}])
def test_wrappers_and_prefixes_come_off(tmp_path, wrap):
    state = small()
    torch.save(wrap(state), tmp_path / "vgg.pth")
    checkpoint, _ = read_detector(tmp_path / "vgg.pth", family="amdegroot")
    assert checkpoint.state_dict.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in checkpoint.state_dict.items())


def test_a_family_that_is_named_is_taken_silently(tmp_path, capsys):
    torch.save(small(), tmp_path / "vgg.pth")
    checkpoint, family = read_detector(tmp_path / "vgg.pth", family="bubbliiiing")
    assert family == "bubbliiiing" and checkpoint.spec.mean == (104, 117, 123)
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="those of amdegroot or bubbliiiing.*is 'lufficc'"):
        read_detector(tmp_path / "vgg.pth", family="lufficc")


def zeros(**shapes):
    """Return {name: zeros} for {name with _ for .: shape}."""
    return {name.replace("_", "."): torch.zeros(shape) for name, shape in shapes.items()}


def without(name):
    """Return a whole state dict but for one tensor."""
    return {key: value for key, value in small().items() if key != name}


VGG = (64, 3, 3, 3)


@pytest.mark.parametrize("tensors, words", [
    (zeros(features_0_weight=VGG), "no known family.*A classification network goes into"),
    ({"epoch": 3}, "no tensors"), ([1, 2], "no tensors"),
    ({"model": {"backbone.vgg.0.weight": torch.zeros(1)}}, "looks like lufficc's, but is not a"),
    (zeros(vgg_0_weight=VGG, conf_0_weight=(84, 512, 3, 3)), "not a whole SSD .'loc.0.weight'"),
    (zeros(vgg_0_weight=VGG, loc_0_weight=(16, 4), conf_0_weight=(85, 4)), "heads do not fit"),
    ({"multibox/conf/0/W": torch.zeros(84, 4), "multibox/loc/0/W": torch.zeros(15)},
     "looks like chainercv's, but is not a whole SSD"),
    (without("vgg.2.bias"), "vgg.2.bias is missing"),
    (small() | {"loc.9.bias": torch.zeros(1)}, "loc.9.bias does not belong"),
    (small() | {"loc.1.bias": torch.full((24,), torch.nan)}, "loc.1.bias holds nan"),
    (small(classes=3), "has 3 classes, and 0 names are known; set classes_path")])
def test_files_of_other_networks_are_refused(tensors, words, tmp_path):
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(UserError, match=words) as error:
        read_network(tmp_path / "other.pth")
    assert "\n" not in str(error.value) and "other.pth" in str(error.value)


def test_broken_files_give_one_line_and_run_no_code(tmp_path):
    payload = Payload(tmp_path / "marker")
    np.savez(tmp_path / "objects.npz", **{"multibox/conf/0/W": np.array([payload], dtype=object)})
    for name, contents in (("empty.h5", b""), ("page.h5", b"<html><body>sign in</body></html>"),
                           ("keras.h5", b"\x89HDF\r\n\x1a\n" + bytes(40)), ("page.npz", b"<html>"),
                           ("cut.npz", (tmp_path / "objects.npz").read_bytes()[:200]),
                           ("objects.npz", None), ("old.npz", pickle.dumps(payload))):
        if contents is not None:
            (tmp_path / name).write_bytes(contents)
        with pytest.raises(UserError, match=f"{name}: cannot be read") as error:
            read_detector(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not payload.marker.exists()


def test_class_names_come_from_the_count_or_the_user(tmp_path):
    # The lists in model_data/ are for users to edit.
    for count, name in ((20, "voc"), (80, "coco")):
        assert "\n".join(PUBLISHED_NAMES[count]) == (
            ROOT / f"model_data/{name}_classes.txt").read_text(encoding="utf-8").strip()
    torch.save(small(classes=80), tmp_path / "coco.pth")
    checkpoint, _ = read_detector(tmp_path / "coco.pth")
    assert checkpoint.class_names == PUBLISHED_NAMES[80]
    assert checkpoint.spec.anchors_size == (21, 45, 99, 153, 207, 261, 315)
    torch.save(small(classes=3), tmp_path / "three.pth")
    with pytest.raises(UserError, match="3 classes, and 2 names"):
        read_detector(tmp_path / "three.pth", class_names=("a", "b"))


def test_transfer_keeps_everything_but_unknown_classes():
    old_names, new_names = ("person", "tv", "dog"), ("Dog", "unicorn", "tvmonitor")
    state, network = filled(300, 3), SSDNet(4, build_spec("vgg", 300))
    random = {name: value.clone() for name, value in network.state_dict().items()}
    text = transfer(network, state, new_names, old_names)
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in state.items()
               if not name.startswith("conf."))
    # Rows of prior 1 on map 1: background, dog, unicorn, tvmonitor.
    old, new = (values["conf.1.weight"][4:8] for values in (state, after))
    assert torch.equal(new[[0, 1, 3]], old[[0, 3, 2]])
    assert torch.equal(new[2], random["conf.1.weight"][4:8][2])
    assert "tvmonitor" in text and "fresh: unicorn" in text
