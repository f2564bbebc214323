import os
import pickle
import zipfile

import h5py
import numpy as np
import pytest
import torch
from conftest import fill_state_dict

import nets.download as download_module
from nets.families import VGG_PLACES
from nets.ssd import SSDNet, build_spec
from nets.transfer import source_rows, transfer
from nets.weight_files import read_detector
from ssd import SSD, SSDSettings
from utils.cli import UserError

# Our module names and the names of the same layers in Caffe (and so in Keras files).
CAFFE = {f"vgg.{place}": name for name, place in VGG_PLACES.items()}
CAFFE |= {f"extras.{2 * k + half}": f"conv{6 + k}_{half + 1}" for k in range(5) for half in (0, 1)}
MAPS = ["conv4_3_norm", "fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2", "conv10_2"]
CAFFE |= {f"{head}.{k}": f"{name}_mbox_{head}" for head in ("loc", "conf")
          for k, name in enumerate(MAPS)}


def filled(size, classes=20):
    """Return a state dict of SSD300 or SSD512 with distinct numbers in every tensor."""
    with torch.device("meta"):
        shapes = SSDNet(classes + 1, build_spec("vgg", size)).state_dict()
    return fill_state_dict([(name, tuple(value.shape)) for name, value in shapes.items()], 3)


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
                    array = array[:, :, ::-1]  # the network sees BGR
            key = {"weight": "kernel", "bias": "bias"}[kind]
            key = "conv4_3_norm_gamma" if layer == "conv4_3_norm" else key
            file[f"{prefix}{layer}/{layer}/{key}:0"] = array


def write_chainer(path, state, size):
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
    write_chainer(tmp_path / "chainer.npz", state, size)
    for name, family, eps in (("keras.h5", "ssd_keras", 1e-12), ("chainer.npz", "chainercv", 1e-5)):
        found, recognised = read_detector(tmp_path / name)
        assert recognised == family
        assert found.state_dict.keys() == state.keys()
        for key, value in state.items():
            torch.testing.assert_close(found.state_dict[key], value, rtol=0, atol=0, msg=key)
        assert found.spec.size == size and found.spec.l2_eps == eps
        assert found.spec.prior_clip == "none" and found.class_names[0] == "aeroplane"


def test_a_vgg_file_is_amdegroots_unless_told_otherwise(tmp_path):
    torch.save({f"module.{k}": v for k, v in filled(300).items()}, tmp_path / "vgg.pth")
    auto, family = read_detector(tmp_path / "vgg.pth")
    assert family == "amdegroot" and auto.spec.prior_clip == "centre_size"
    told, family = read_detector(tmp_path / "vgg.pth", family="bubbliiiing")
    assert family == "bubbliiiing" and told.spec.mean == (104, 117, 123)
    with pytest.raises(UserError, match="weights_family is 'lufficc'"):
        read_detector(tmp_path / "vgg.pth", family="lufficc")


def test_class_names_come_from_the_count_or_the_user(tmp_path):
    torch.save(filled(300, 80), tmp_path / "coco.pth")
    found, _ = read_detector(tmp_path / "coco.pth")
    assert found.class_names[0] == "person" and found.class_names[-1] == "toothbrush"
    assert found.spec.anchors_size == (21, 45, 99, 153, 207, 261, 315)
    torch.save(filled(300, 3), tmp_path / "three.pth")
    with pytest.raises(UserError, match="3 classes and no names; set classes_path"):
        read_detector(tmp_path / "three.pth")
    with pytest.raises(UserError, match="3 classes, classes_path has 2"):
        read_detector(tmp_path / "three.pth", class_names=("a", "b"))
    assert read_detector(tmp_path / "three.pth", class_names=tuple("abc"))[0].class_names == \
        ("a", "b", "c")


def test_any_loaded_model_saves_as_a_checkpoint(tmp_path, capsys):
    torch.save(filled(300), tmp_path / "vgg.pth")
    first = SSD(SSDSettings(model_path=str(tmp_path / "vgg.pth"), device="cpu", confidence=0.99))
    first.save(tmp_path / "ours.pth")
    again = SSD(SSDSettings(model_path=str(tmp_path / "ours.pth"), device="cpu", confidence=0.99))
    assert again.spec == first.spec and again.class_names == first.class_names
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for one, other in zip(first.detect(image), again.detect(image)):
        np.testing.assert_array_equal(one, other)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "taken for amdegroot's, because" in lines[0]
    assert "amdegroot" in lines[1] and "this project" in lines[2]
    assert all("input 300" in line and "20 classes" in line for line in lines[1:])


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def broken_files(folder):
    """Yield (name, contents, words that the message must hold)."""
    torch.save(filled(300), folder / "good.pth")
    good = (folder / "good.pth").read_bytes()
    yield "empty.pth", b"", "empty"
    yield "page.pth", b"<!DOCTYPE html><html>404</html>", "web page"
    yield "page.h5", b"\n<html><body>sign in</body></html>", "web page"
    yield "cut.pth", good[:len(good) // 2], "cannot be read"
    yield "text.pth", b"hello, I am no weights file at all", "cannot be read"
    yield "keras.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "cannot be read"
    yield "old.pth", pickle.dumps({"weights": Payload(folder / "marker")}), "run code"


def test_broken_files_give_one_line_and_run_no_code(tmp_path):
    for name, contents, words in broken_files(tmp_path):
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(UserError) as caught:
            read_detector(tmp_path / name)
        message = str(caught.value)
        assert name in message and words in message and len(message.splitlines()) == 1, message
    torch.save({"state_dict": Payload(tmp_path / "marker")}, tmp_path / "new.pth")
    with pytest.raises(UserError, match="run code"):
        read_detector(tmp_path / "new.pth")
    np.savez(tmp_path / "objects.npz", **{"multibox/conf/0/W": np.array([Payload(
        tmp_path / "marker")], dtype=object)})
    with pytest.raises(UserError, match="run code"):
        read_detector(tmp_path / "objects.npz")
    assert not (tmp_path / "marker").exists()


def test_damaged_archives_give_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("a.npy", b"not an array")
    for name in ("zip.pth", "zip.npz"):
        with pytest.raises(UserError, match=name):
            read_detector(tmp_path / name)


@pytest.mark.parametrize("tensors, words", [
    ({"features.0.weight": torch.zeros(64, 3, 3, 3)}, "classification network"),
    ({"head.up.weight": torch.zeros(64, 3, 7, 7)}, "not an SSD of a known family"),
    ({"vgg.0.weight": torch.zeros(64, 3, 3, 3), "conf.0.weight": torch.zeros(84, 512, 3, 3)},
     "not a whole SSD"),
    ({"epoch": 3}, "no tensors"),
    ([1, 2], "holds a list"),
])
def test_files_of_other_networks_are_named(tensors, words, tmp_path):
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(UserError, match=words):
        read_detector(tmp_path / "other.pth")


def test_a_file_without_one_tensor_is_refused_by_name(tmp_path):
    state = filled(300)
    del state["extras.5.bias"]
    torch.save(state | {"extras.9.bias": torch.zeros(1)}, tmp_path / "part.pth")
    with pytest.raises(UserError, match="extras.5.bias"):
        SSD(SSDSettings(model_path=str(tmp_path / "part.pth"), device="cpu"))


def test_rows_of_common_classes_follow_their_names():
    rows = source_rows(("tvmonitor", "unicorn", "Person"), ("person", "dog", "tv"))
    assert rows == {0: 0, 1: 3, 3: 1}


def test_transfer_keeps_everything_but_unknown_classes():
    spec = build_spec("vgg", 300)
    old_names, new_names = ("person", "tv", "dog"), ("dog", "unicorn", "tvmonitor")
    state = filled(300, 3)
    network = SSDNet(4, spec)
    random = {name: value.clone() for name, value in network.state_dict().items()}
    text = transfer(network, state, new_names, old_names)
    after = network.state_dict()
    assert torch.equal(after["loc.2.weight"], state["loc.2.weight"])
    assert torch.equal(after["vgg.31.weight"], state["vgg.31.weight"])
    # Rows of prior 1 on map 1: background, dog, unicorn, tvmonitor.
    old, new = (values["conf.1.weight"][4:8] for values in (state, after))
    assert torch.equal(new[[0, 1, 3]], old[[0, 3, 2]])
    assert torch.equal(new[2], random["conf.1.weight"][4:8][2])
    assert "tvmonitor (from tv)" in text and "fresh: unicorn" in text and "left out: 1" in text


def test_the_same_classes_in_another_order_give_the_same_scores():
    spec = build_spec("mobilenetv2", 300)
    old = SSDNet(4, spec).eval()
    new = SSDNet(4, spec).eval()
    transfer(new, old.state_dict(), ("c", "a", "b"), ("a", "b", "c"))
    x = torch.randn(1, 3, 300, 300)
    with torch.no_grad():
        torch.testing.assert_close(new(x)[1][..., [0, 2, 3, 1]], old(x)[1])


def test_a_broken_download_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "make_folder", lambda name: tmp_path)

    def fetch(url, target, hash_prefix):
        assert hash_prefix == "0123abcd"
        open(target, "wb").write(b"half")
        raise RuntimeError("invalid hash value")
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(UserError, match=r"invalid hash value.*\n.*put it at"):
        download_module.download("https://example.org/ssd-0123abcd.pth")
    assert not list(tmp_path.iterdir())


def test_sizes_are_built_like_the_papers():
    spec = build_spec("vgg", 512)
    assert len(SSDNet(2, spec).priors) == 24564
    assert spec.grids == (64, 32, 16, 8, 4, 2, 1) and spec.steps[-1] == 512
    assert spec.anchors_size == (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6)
    other = build_spec("vgg", 384)
    assert other.steps is None and len(other.grids) == 6 and other.anchors_size[0] == 38.4
    with pytest.raises(ValueError, match="too small for vgg"):
        build_spec("vgg", 200)
    with pytest.raises(ValueError, match="backbone must be one of"):
        build_spec("alexnet", 300)
