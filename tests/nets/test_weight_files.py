import functools
import http.client
import io
import os
import pickle
import random
import re
import zipfile

import h5py
import numpy as np
import pytest
import torch

import nets.weights.download as download_module
from nets.build import read_network
from nets.weights.families import FAMILIES, PUBLISHED_NAMES, VGG_PLACES
from nets.ssd import SSDNet, build_spec
from nets.weights.transfer import source_rows, transfer
from nets.weights.weight_files import read_detector
from ssd import SSD, SSDSettings
from utils.checkpoint import FORMAT
from utils.cli import ROOT, UserError
from utils.multibox.spec import SSDSpec
from utils.tensor_files import read_tensor_file

# Our module names and the names of the same layers in Caffe (and so in Keras files).
CAFFE = {f"vgg.{place}": name for name, place in VGG_PLACES.items()}
CAFFE |= {f"extras.{2 * k + half}": f"conv{6 + k}_{half + 1}" for k in range(5) for half in (0, 1)}
MAPS = ["conv4_3_norm", "fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2", "conv10_2"]
CAFFE |= {f"{head}.{k}": f"{name}_mbox_{head}" for head in ("loc", "conf")
          for k, name in enumerate(MAPS)}


@functools.lru_cache(maxsize=2)
def _filled(size, classes):
    rng = torch.Generator().manual_seed(3)
    with torch.device("meta"):
        shapes = SSDNet(classes + 1, build_spec("vgg", size)).state_dict()
    return {name: torch.rand(value.shape, generator=rng, device="cpu").mul_(0.02)
            for name, value in shapes.items()}


def filled(size, classes=20):
    """Return a state dict of SSD300 or SSD512 with distinct numbers in every tensor."""
    return dict(_filled(size, classes))


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


# The order in which the modules of both code bases register, read from their sources.
AMDEGROOT = ("vgg", "L2Norm", "extras", "loc", "conf")
BUBBLIIIING = ("vgg", "extras", "L2Norm", "loc", "conf")


def in_order(state, groups):
    return {name: value for group in groups for name, value in state.items()
            if name.split(".")[0] == group}


@pytest.mark.parametrize("classes", [20, 3])
@pytest.mark.parametrize("order, expected, words", [
    (AMDEGROOT, "amdegroot", 'in the order vgg, L2Norm, .*set weights_family to "bubbliiiing"'),
    (BUBBLIIIING, "bubbliiiing", 'in the order vgg, extras, .*set weights_family to "amdegroot"'),
    (tuple(sorted(AMDEGROOT)), "amdegroot", "order of the tensors is lost; set weights_family")])
def test_the_order_tells_two_families_apart(tmp_path, capsys, classes, order, expected, words):
    torch.save({f"module.{k}": v for k, v in in_order(filled(300, classes), order).items()},
               tmp_path / "vgg.pth")
    names = tuple("abc") if classes == 3 else None
    found, family = read_detector(tmp_path / "vgg.pth", class_names=names)
    assert family == expected
    # Only amdegroot's code takes COCO's sizes for other classes than VOC's.
    smallest = 21 if (expected, classes) == ("amdegroot", 3) else 30
    assert found.spec.anchors_size[0] == smallest
    assert found.spec.mean[0] == (104 if expected == "bubbliiiing" else 123)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and f"taken for {expected}'s, because" in said[0]
    assert re.search(words, said[0])


def test_a_family_that_is_named_is_taken_without_a_word(tmp_path, capsys):
    torch.save(filled(300), tmp_path / "vgg.pth")
    told, family = read_detector(tmp_path / "vgg.pth", family="bubbliiiing")
    assert family == "bubbliiiing" and told.spec.mean == (104, 117, 123)
    assert capsys.readouterr().out == ""
    for wrong, words in (("lufficc", "the tensors are those of amdegroot or bubbliiiing"),
                         ("junk", "weights_family must be auto, amdegroot, .*got 'junk'")):
        with pytest.raises(UserError, match=words):
            read_detector(tmp_path / "vgg.pth", family=wrong)


@pytest.mark.parametrize("name", [
    "backbone._conv_stem.weight", "backbone.features.0.0.0.weight", "box_head.predictor.x.weight",
    "base_net.0.weight", "rescale_factors", "pool6_mbox_loc_flat/pool6/kernel:0"])
def test_files_of_other_detectors_are_refused_by_their_first_tensor(name, tmp_path):
    torch.save({name: torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not an SSD of a known family.*begins with") as error:
        read_network(tmp_path / "other.pth")
    assert repr(name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("tensors, words", [
    ({"backbone.vgg.0.weight": 1}, "looks like lufficc's, but is not a whole SSD"),
    ({"head.classification_head.module_list.0.weight": 1}, "looks like torchvision's"),
    ({"multibox/conf/0/W": (84, 4, 3, 3), "multibox/loc/0/W": (15,), "x": 1, "a/W": 1},
     "looks like chainercv's"),
    ({"conv4_3_norm_mbox_conf/k": (3, 3, 4, 84), "conv1_1/k": 3}, "looks like ssd_keras's"),
    ({"vgg.0.weight": 1, "loc.0.weight": (), "conf.0.weight": ()}, "looks like amdegroot's"),
    ({"vgg.0.weight": 1, "loc.0.weight": (2, 4, 3, 3), "conf.0.weight": (84, 4, 3, 3)},
     "its heads have 2 and 84 channels"),
    ({"vgg.0.weight": 1, "loc.0.weight": (16, 4, 3, 3), "conf.0.weight": (4, 4, 3, 3)},
     "its heads have 16 and 4 channels"),
    ({"vgg.0.weight": 1, "loc.0.weight": (4, 1, 1, 1), "conf.0.weight": (10 ** 5, 1, 1, 1)},
     "its heads have 4 and 100000 channels"),
    ({"vgg.0.weight": 1, "loc.0.weight": (16, 4, 3, 3), "conf.0.weight": (84, 4, 3, 3)},
     "tensors are missing, vgg.0.bias"),
])
def test_partial_and_foreign_files_say_what_they_are(tensors, words, tmp_path):
    torch.save({"model": {name: torch.zeros(shape) for name, shape in tensors.items()}},
               tmp_path / "part.pth")
    with pytest.raises(UserError, match=words) as error:
        read_network(tmp_path / "part.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["multibox/loc/0/W", "vgg.0.weight", "conv1_1/k"])
def test_one_number_stretched_to_any_size_is_refused(tmp_path, name):
    torch.save({name: torch.zeros(1).expand(10 ** 6, 10 ** 6)}, tmp_path / "wide.pth")
    with pytest.raises(UserError, match="would unpack to 3725"):
        read_detector(tmp_path / "wide.pth")


def write_h5(path, **kinds):
    with h5py.File(path, "w") as file:
        file.create_dataset("conv4_3_norm_mbox_conf/x/kernel:0", dtype="f4", **kinds)


@pytest.mark.parametrize("kinds, words", [
    ({"shape": (10 ** 12,), "chunks": (10 ** 3,)}, "would unpack to 3725"),
    ({"shape": (10 ** 6,), "compression": "gzip"}, "is compressed or lies in another file"),
    ({"shape": (10,), "external": [("/dev/zero", 0, 40)]}, "is compressed or lies in another")])
def test_h5_files_that_unpack_to_more(tmp_path, kinds, words):
    write_h5(tmp_path / "a.h5", **kinds)
    with pytest.raises(UserError, match=words) as error:
        read_detector(tmp_path / "a.h5")
    assert "\n" not in str(error.value)


def npy_claiming(shape):
    """Return the bytes of a .npy whose header claims a shape and which holds ten numbers."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False,
                                                  "shape": shape})
    return stream.getvalue() + bytes(40)


def test_npz_files_that_unpack_to_more(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    for shape in ((11,), (10 ** 12,), (-5,), (2 ** 40, 2 ** 40)):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("multibox/conf/0/W.npy", npy_claiming(shape))
        with pytest.raises(UserError, match="cannot be read") as error:
            read_detector(path)
        assert "\n" not in str(error.value)
    np.savez_compressed(path, **{"multibox/conf/0/W": np.zeros(10 ** 6, np.float32)})
    assert path.stat().st_size < 10 ** 4
    monkeypatch.setattr("utils.tensor_files.MAX_UNPACKED", 10 ** 6)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *args: pytest.fail("unpacked"))
    with pytest.raises(UserError, match="would unpack to"):
        read_detector(path)


def test_compressed_npz_and_other_floats_are_read(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.asfortranarray(
        np.arange(6.0).reshape(2, 3)), "c": np.arange(3, dtype=">f4"), "n": np.arange(3)}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    read = read_tensor_file(tmp_path / "a.npz")
    assert read.keys() == {"a", "b", "c"}  # whole numbers are no weights
    for name, value in read.items():
        assert value.dtype == torch.float32 and value.tolist() == arrays[name].tolist()


def small_files(folder):
    """Yield the bytes of one small file of each format."""
    spec = build_spec("vgg", 300).to_dict()
    own = {"format": FORMAT, "spec": spec, "class_names": ["cat"], "settings": {},
           "progress": {}, "state_dict": {"vgg.0.weight": torch.randn(4, 3, 3, 3)}}
    vgg = {"vgg.0.weight": torch.randn(4, 3, 3, 3), "loc.0.weight": torch.randn(16, 4, 3, 3),
           "conf.0.weight": torch.randn(84, 4, 3, 3)}
    for values in (own, vgg):
        for zipped in (True, False):
            torch.save(values, folder / "s", _use_new_zipfile_serialization=zipped)
            yield (folder / "s").read_bytes()
    arrays = {"multibox/conf/0/W": np.ones((84, 4, 3, 3), np.float32)}
    for save in (np.savez, np.savez_compressed):
        save(folder / "s.npz", **arrays)
        yield (folder / "s.npz").read_bytes()
    for compression in (None, "gzip"):
        write_h5(folder / "s.h5", data=np.ones((3, 3, 4, 84)), compression=compression)
        yield (folder / "s.h5").read_bytes()


def mutate(data, rng):
    """Return a copy with bits flipped, numbers blown up, parts cut out and put in."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 16))):
        # Headers are at the ends, and short beside the numbers.
        k = rng.randrange(len(data)) if rng.random() < 0.4 else rng.randrange(-600, 600)
        k = max(-len(data), min(k, len(data) - 1)) % len(data)
        kind = rng.randrange(5)
        if kind == 0:
            data[k] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[k:k + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4)))
        elif kind == 2:
            del data[k:k + rng.randrange(1, 40)]
        elif kind == 3:
            data[k:k] = rng.randbytes(rng.randrange(1, 20))
        elif rng.random() < 0.2:
            del data[k + 1:]
    return bytes(data)


def test_mutated_files_of_every_format_end_in_one_line(tmp_path):
    rng, files = random.Random(5), list(small_files(tmp_path))
    for k in range(240):
        (tmp_path / "m.pth").write_bytes(mutate(files[k % len(files)], rng))
        with pytest.raises(UserError) as error:
            read_network(tmp_path / "m.pth")
        assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_class_names_come_from_the_count_or_the_user(tmp_path):
    # The lists in model_data/ are for users to edit.
    for count, name in ((20, "voc"), (80, "coco")):
        assert "\n".join(PUBLISHED_NAMES[count]) == (
            ROOT / f"model_data/{name}_classes.txt").read_text(encoding="utf-8").strip()
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
    ({"features.0.weight": torch.zeros(64, 3, 3, 3)}, "A classification network goes into"),
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

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "ssd-0123abcd.pth").write_bytes(b"half")
    with pytest.raises(UserError, match=r"invalid hash value.*\n.*put it at"):
        download_module.download((tmp_path / "there" / "ssd-0123abcd.pth").as_uri())
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("error", [http.client.InvalidURL("port"), ValueError("no URL")])
def test_a_download_that_fails_leaves_what_another_process_fetched(tmp_path, monkeypatch, error):
    def fetch(url, target, hash_prefix):
        open(target, "wb").write(b"whole")
        raise error

    monkeypatch.setattr(download_module, "make_folder", lambda name: tmp_path)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(UserError, match="could not be downloaded"):
        download_module.download("https://example.org/ssd.pth")
    assert (tmp_path / "ssd.pth").read_bytes() == b"whole"


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


def test_what_is_trained_now_is_antialiased_and_what_was_published_is_not():
    assert SSDSpec().resize == "area_linear_uint8"
    assert all("resize" in family.preset for family in FAMILIES.values())
