"""Kinds of the fuzzer: weight files, the detector, and settings. See fuzz.py.

Weights that are taken must be of a float type and finite. A zip file (.pth, .npz) holds a checksum
of every entry, so one whose bytes were spoilt must be refused or give exactly what it gave before;
for files without checksums (the older .pth format, .h5) only the numbers themselves can tell.
"""

import contextlib
import dataclasses
import io
import math
import sys
import traceback
import typing
from pathlib import Path
from unittest.mock import patch

import fuzz_files as files
import h5py
import numpy as np
import torch
from fuzz_data import Case, Silent, Voc, annotate, polite
from PIL import Image

import get_map
import predict
import train
import voc_annotation
from nets.weights.backbone_weights import load_backbone, read_backbone
from nets.ssd import SSDNet, build_spec
from nets.weights.weight_files import read_detector
from ssd import SSD, SSDSettings
from utils.cli import ROOT, UserError, run
from utils.training.trainer import Trainer

CLASSES = ("cat", "dog")
LARGE = 1 << 16  # bytes at the start and end of a file that hold its structure


def small_network():
    """Return the smallest network that the project builds, for two classes, always the same."""
    torch.manual_seed(0)
    return SSDNet(len(CLASSES) + 1, build_spec("mobilenetv2", 260))


def saved(values, legacy=False):
    """Return what torch.save writes, in its zip format or the one before."""
    buffer = io.BytesIO()
    torch.save(values, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def spoil_large(rng, data):
    """Return (spoilt bytes, what was done); the structure of a file is hit as often as its data."""
    part = rng.choice(("start", "end", "all"))
    if part == "all" or len(data) < 2 * LARGE:
        return files.spoil_bytes(rng, data)
    cut = LARGE if part == "start" else len(data) - LARGE
    first, second = data[:cut], data[cut:]
    if part == "start":
        first, note = files.spoil_bytes(rng, first)
    else:
        second, note = files.spoil_bytes(rng, second)
    return first + second, f"{part}: {note}"


def spoil_tensor(rng, tensor):
    """Return (spoilt tensor, what was done)."""
    how = rng.choice(("nan", "inf", "int64", "complex64", "float16", "float64", "bool", "empty",
                      "scalar", "transposed", "longer", "expanded", "sparse"))
    if how in ("nan", "inf"):
        tensor = tensor.float().reshape(-1).clone() if not tensor.ndim else tensor.clone().float()
        tensor.view(-1)[rng.randrange(tensor.numel())] = float(how)
    elif how == "empty":
        tensor = tensor.new_zeros((0, *tensor.shape[1:]))
    elif how == "scalar":
        tensor = tensor.reshape(-1)[0]
    elif how == "transposed":
        tensor = tensor.reshape(-1).flip(0).reshape(tensor.shape[::-1])
    elif how == "longer":
        tensor = torch.cat([tensor.reshape(-1)] * 2)
    elif how == "expanded":
        shape = rng.choice(((1 << 40,), tuple(tensor.shape) or (3,)))
        tensor = tensor.reshape(-1)[:1].expand(shape)
    elif how == "sparse":
        tensor = tensor.to_sparse()
    else:
        tensor = tensor.to(getattr(torch, how))
    return tensor, how


def check_tensors(state):
    """Raise Silent for tensors that no network should be given; counters are whole numbers."""
    for name, value in state.items():
        if not torch.is_tensor(value):
            raise Silent("weights that are no tensor", f"{name}: {type(value).__name__}")
        if str(name).endswith("num_batches_tracked"):
            continue
        if not value.is_floating_point():
            raise Silent("weights of another type than float", f"{name}: {value.dtype}")
        if value.layout != torch.strided or value.numel() > 1e9:
            raise Silent("weights that are sparse, or far larger than their file", name)
        if not value.isfinite().all():
            raise Silent("weights that are not finite", name)


def check_numbers(values):
    """Raise Silent where a spec holds numbers that are not finite."""
    for path in files.places(values):
        value = values
        for key in path:
            value = value[key]
        if isinstance(value, float) and not math.isfinite(value):
            raise Silent("a spec with a number that is not finite", str(path[0]))


def fault_of(state, numbers):
    """Return the Silent of tensors or numbers that no detector should have, or None."""
    try:
        check_tensors(state)
        check_numbers(numbers)
    except Silent as fault:
        return fault
    return None


def check_detector(path):
    """Build the detector of a file and look at an image; its detections must be numbers."""
    detector = SSD(SSDSettings(model_path=str(path), device="cpu", confidence=0.01))
    check_detections(detector.detect(files.photo(1)), files.SIZE)


def check_detections(found, size):
    """Raise Silent for boxes outside the image and scores that are none."""
    boxes, scores, _ = found
    if not (np.isfinite(boxes).all() and ((scores >= 0) & (scores <= 1)).all()):
        raise Silent("detections that are not finite")


def demand_same(before, after):
    """Raise Silent unless two results are the same: spec, names, tensors."""
    for part, one, two in zip(before._fields, before, after):
        if isinstance(one, dict) and any(map(torch.is_tensor, one.values())):
            same = one.keys() == two.keys() and all(map(torch.equal, one.values(), two.values()))
        else:
            same = one == two
        if not same:
            raise Silent("contents changed although the file has checksums", part)


class Checkpoints:
    """Checkpoints of this project: refused, or a detector whose detections are numbers."""

    name = "checkpoints"
    file = "a.pth"

    def prepare(self, folder):
        detector = SSD(SSDSettings(device="cpu"), network=small_network(), class_names=CLASSES)
        detector.save(folder / self.file)
        self.data = (folder / self.file).read_bytes()
        self.values = torch.load(io.BytesIO(self.data), weights_only=True)
        self.before = {"": read_detector(folder / self.file)[0]}

    def sound(self):
        return Case({self.file: self.data}, "sound", {"zip": True, "base": "", "whole": True})

    def make(self, rng):
        how = rng.choice(("zip", "zip", "legacy", "all", "spec", "names", "tensor", "tensor"))
        facts = {"zip": how == "zip", "base": "", "whole": how not in ("zip", "legacy")}
        if how in ("zip", "legacy"):
            data, note = spoil_large(rng, self.data if how == "zip" else
                                     saved(self.values, legacy=True))
            return Case({self.file: data}, f"{how}, {note}", facts)
        values = dict(self.values)
        if how == "tensor":
            values["state_dict"], note = self._spoil_state(rng, values["state_dict"])
        elif how == "all":
            values, note = files.spoil_value(rng, values)
        else:
            part = {"names": "class_names"}.get(how, how)
            values[part], note = files.spoil_value(rng, values[part])
        return Case({self.file: saved(values)}, f"{how}: {note}", facts)

    def _spoil_state(self, rng, state):
        name = rng.choice(list(state))
        how = rng.choice(("spoil", "spoil", "spoil", "delete", "rename", "some", "few"))
        if how == "spoil":
            changed, note = spoil_tensor(rng, state[name])
            return state | {name: changed}, f"{name}: {note}"
        if how == "rename":
            odd = rng.choice((*files.ODD_TEXTS, 5, None, "vgg.0.weight", "conf.0.weight"))
            return state | {odd: state[name]}, f"{odd!r:.40} added"
        keep = {"delete": 1.0, "some": 0.5, "few": 0.05}[how]
        drop = {name} | {key for key in state if rng.random() > keep}
        return {key: value for key, value in state.items() if key not in drop}, f"{how} {name}"

    def check(self, folder, case):
        path = folder / self.file
        try:
            found, _ = read_detector(path)
            if case.facts["zip"]:
                demand_same(self.before[case.facts["base"]], found)
            fault = fault_of(found.state_dict, found.spec.to_dict())
            if fault or case.facts["whole"]:
                check_detector(path)  # reading may leave the last word to the network
            if fault:
                raise fault
        except UserError as error:
            return polite(error)
        return "accepted"


def shapes_of(backbone):
    """Return {our tensor name: (shape, dtype)} of SSD300 for VOC's 20 classes."""
    with torch.device("meta"):
        network = SSDNet(21, build_spec(backbone, 300))
    return {name: (tuple(value.shape), value.dtype) for name, value in network.state_dict().items()}


def lufficc_name(name):
    """Return our tensor name as lufficc/SSD has it."""
    part, _, rest = name.partition(".")
    return {"conf": f"box_head.predictor.cls_headers.{rest}", "L2Norm": "backbone.l2_norm.weight",
            "loc": f"box_head.predictor.reg_headers.{rest}"}.get(part, f"backbone.{name}")


def torchvision_name(name):
    """Return our tensor name as torchvision's ssd300_vgg16 has it."""
    part, _, rest = name.partition(".")
    number, _, kind = rest.partition(".")
    late = {"24": "1", "26": "3", "28": "5", "31": "7.1", "33": "7.3"}
    if part == "vgg":
        return (f"backbone.extra.0.{late[number]}.{kind}" if number in late
                else f"backbone.features.{rest}")
    if part == "extras":
        return f"backbone.extra.{int(number) // 2 + 1}.{int(number) % 2 * 2}.{kind}"
    return {"conf": f"head.classification_head.module_list.{rest}", "L2Norm":
            "backbone.scale_weight", "loc": f"head.regression_head.module_list.{rest}"}[part]


def constant_tensors(shapes, whole):
    """Return {name: tensor}; unless whole, one number stands for all of a tensor's."""
    made = {}
    for k, (name, (shape, dtype)) in enumerate(shapes.items()):
        number = torch.full((1,) if shape else (), 0.001 * (k + 1)).to(dtype)
        made[name] = number.expand(shape).contiguous() if whole else number.expand(shape)
    return made


class Families(Checkpoints):
    """Published state dicts under five families' names, zip and older format, and wrappers."""

    name = "families"
    bases = {"amdegroot": ("vgg", str), "lufficc": ("vgg", lufficc_name),
             "torchvision": ("vgg", torchvision_name), "mobilenet": ("mobilenetv2", str),
             "resnet": ("resnet50", str)}

    def prepare(self, folder):
        for whole in (False, True):
            names = ("mobilenet",) if whole else self.bases
            self.states = {base: constant_tensors(
                {self.bases[base][1](name): value for name, value in
                 shapes_of(self.bases[base][0]).items()}, whole) for base in names}
            try:
                self.before = {base: self._read(folder, state)
                               for base, state in self.states.items()}
                return
            except UserError as error:
                print(error, file=sys.stderr)  # one number for a tensor is refused: take them all

    def _read(self, folder, state):
        (folder / self.file).write_bytes(saved(state))
        return read_detector(folder / self.file)[0]

    def sound(self):
        return Case({self.file: saved(self.states["mobilenet"])}, "sound",
                    {"zip": True, "base": "mobilenet", "whole": False})

    def make(self, rng):
        base = rng.choice(list(self.states))
        state, how = self.states[base], rng.choice(("zip", "zip", "legacy", "tensor", "tensor"))
        facts = {"zip": how == "zip", "base": base, "whole": False}
        if how != "tensor":
            data, note = files.spoil_bytes(rng, saved(state, legacy=how == "legacy"))
        else:
            values, note = self._spoil_state(rng, state)
            if rng.random() < 0.3:
                values = {rng.choice(("model", "state_dict", "module")): values}
            data, facts["whole"] = saved(values, legacy=rng.random() < 0.3), rng.random() < 0.1
        return Case({self.file: data}, f"{base}, {how}: {note}", facts)


class Backbones(Checkpoints):
    """Classification weights of MobileNetV2: refused, or loaded into the network as they are."""

    name = "backbones"

    def prepare(self, folder):
        self.network = small_network()
        own = {name.replace("mobilenet.", "features."): (tuple(value.shape), value.dtype)
               for name, value in self.network.state_dict().items() if name[:4] == "mobi"}
        for whole in (False, True):
            self.state = constant_tensors(own | {"classifier.1.bias": ((9,), torch.float32)}, whole)
            (folder / self.file).write_bytes(saved(self.state))
            try:
                self.before = read_backbone(str(folder / self.file), "mobilenetv2")
                return
            except UserError as error:
                print(error, file=sys.stderr)

    def sound(self):
        return Case({self.file: saved(self.state)}, "sound", {"zip": True})

    def make(self, rng):
        how = rng.choice(("zip", "legacy", "tensor", "all"))
        if how == "tensor":
            values, note = self._spoil_state(rng, self.state)
        elif how == "all":
            values, note = files.spoil_value(rng, self.state)
        else:
            data, note = spoil_large(rng, saved(self.state, legacy=how == "legacy"))
            return Case({self.file: data}, f"{how}: {note}", {"zip": how == "zip"})
        return Case({self.file: saved(values)}, f"{how}: {note}", {"zip": False})

    def check(self, folder, case):
        try:
            found = read_backbone(str(folder / self.file), "mobilenetv2")
            if case.facts["zip"]:
                demand_same(self.before, found)
            load_backbone(self.network, found)
            check_tensors(found.state_dict)
        except UserError as error:
            return polite(error)
        return "accepted"


VGG_NAMES = ("conv1_1 conv1_2 conv2_1 conv2_2 conv3_1 conv3_2 conv3_3 conv4_1 conv4_2 conv4_3 "
             "conv5_1 conv5_2 conv5_3 fc6 fc7").split()
VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33)
CAFFE = {f"vgg.{place}": name for place, name in zip(VGG_PLACES, VGG_NAMES)}
CAFFE |= {f"extras.{2 * k + half}": f"conv{6 + k}_{half + 1}" for k in range(4) for half in (0, 1)}
MAPS = ("conv4_3_norm", "fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2")


def chainer_name(module, kind):
    """Return our tensor name as ChainerCV's SSD300 has it."""
    suffix = {"weight": "W", "bias": "b"}[kind]
    if module == "L2Norm":
        return "extractor/norm4/scale"
    if module.startswith(("loc", "conf")):
        return f"multibox/{module.replace('.', '/')}/{suffix}"
    layer = {"fc6": "conv6", "fc7": "conv7"}.get(CAFFE[module], CAFFE[module])
    if module.startswith("extras"):
        layer = f"conv{int(layer[4]) + 2}_{layer[-1]}"
    return f"extractor/{layer}/{suffix}"


def keras_name(module, kind):
    """Return our tensor name as ssd_keras has it."""
    layer = CAFFE.get(module, "conv4_3_norm")
    if module.startswith(("loc", "conf")):
        layer = f"{MAPS[int(module[-1])]}_mbox_{module[:-2]}"
    kind = "conv4_3_norm_gamma" if module == "L2Norm" else {"weight": "kernel"}.get(kind, kind)
    return f"{layer}/{layer}/{kind}:0"


class Arrays(Checkpoints):
    """What .npz and .h5 have in common: named arrays, stored or packed.

    Most cases have thin kernels, for speed; whether numbers are finite shows in the whole ones.
    """

    def prepare(self, folder):
        # Kernels of one input channel and pixel, where reading takes them: small files.
        for self.thin in (True, False):
            self.arrays = self._arrays(self.thin)
            self.data = {packed: self.pack(self.arrays, packed) for packed in (False, True)}
            (folder / self.file).write_bytes(self.data[False])
            try:
                self.before = {"": read_detector(folder / self.file)[0]}
                return
            except UserError as error:
                print(error, file=sys.stderr)

    def _arrays(self, thin):
        arrays = {}
        for k, (name, (shape, _)) in enumerate(shapes_of("vgg").items()):
            shape = shape[:1] + (1,) * len(shape[1:]) if thin else shape
            array = np.full(shape, 0.001 * (k + 1), np.float32)
            arrays[self.rename(*name.rsplit(".", 1))] = self.turn(array)
        return arrays

    def turn(self, array):
        return array

    def sound(self):
        return Case({self.file: self.pack(self._arrays(thin=False), False)}, "sound",
                    {"zip": self.thin is False and self.file == "a.npz", "base": "", "whole": True})

    def make(self, rng):
        facts = {"zip": False, "base": "", "whole": False}
        if rng.random() < 0.6:
            facts["zip"] = self.file == "a.npz"
            data, note = spoil_large(rng, self.data[rng.random() < 0.5])
            return Case({self.file: data}, note, facts)
        facts["whole"] = rng.random() < 0.05
        arrays = self._arrays(thin=False) if facts["whole"] else dict(self.arrays)
        name = rng.choice(list(arrays))
        how = rng.choice(("nan", "inf", "int64", "complex64", "bool", "float16", "U5", "S3",
                          "empty", "scalar", "delete", "few", "flat", "object"))
        if how in ("nan", "inf"):
            arrays[name] = arrays[name] * np.float32(how)
        elif how in ("delete", "few"):
            arrays = {key: value for key, value in arrays.items()
                      if key != name and (how == "delete" or rng.random() < 0.1)}
        elif how == "empty":
            arrays[name] = arrays[name][:0]
        elif how == "scalar":
            arrays[name] = np.float32(1)
        elif how == "flat":
            arrays[name] = arrays[name].reshape(-1)[:3]
        elif how == "object":
            arrays[name] = np.array([None] if self.file == "a.npz" else [b"x"], dtype=object)
        else:
            arrays[name] = arrays[name].astype(how)
        return Case({self.file: self.pack(arrays, rng.random() < 0.5)}, f"{name}: {how}", facts)


class Npz(Arrays):
    """ChainerCV's .npz: a zip file, so its checksums must be looked at."""

    name, file = "npz", "a.npz"
    rename = staticmethod(chainer_name)

    def pack(self, arrays, packed):
        buffer = io.BytesIO()
        (np.savez_compressed if packed else np.savez)(buffer, **arrays)
        return buffer.getvalue()


class H5(Arrays):
    """ssd_keras's .h5."""

    name, file = "h5", "a.h5"
    rename = staticmethod(keras_name)

    def turn(self, array):
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array

    def pack(self, arrays, packed):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            for name, array in arrays.items():
                array = array.astype("S5") if array.dtype.kind == "U" else array
                if packed and array.ndim and array.size and array.dtype.kind != "O":
                    file.create_dataset(name, data=array, compression="gzip", fletcher32=True)
                elif array.dtype.kind == "O":
                    file.create_dataset(name, data=array, dtype=h5py.string_dtype())
                else:
                    file[name] = array
        return buffer.getvalue()


def raised_on_purpose(error):
    """Tell whether an exception comes from a line of the project itself, not from below it."""
    file = traceback.extract_tb(error.__traceback__)[-1].filename
    return Path(file).is_relative_to(ROOT) and ".venv" not in Path(file).parts


class Detect:
    """SSD.detect on spoilt image files and odd arguments: detections that are numbers, or refused.

    A file is refused with a UserError; for what is no image in memory ValueError and TypeError,
    raised by the project itself, will do.
    """

    name = "detect"
    sizes = ((0, 0), (1, 1), (1, 3000), (3000, 1), (5, 5), (64, 48))
    others = (None, 5, b"", b"x.jpg", [], [1], {}, 1.5, "", ".", "/", "\0", "~nobody", "a" * 5000)

    def prepare(self, folder):
        self.detector = SSD(SSDSettings(device="cpu", confidence=0.01), network=small_network(),
                            class_names=CLASSES)

    def sound(self):
        return self.make(files.generator(0, "sound", 0), how="sound")

    def make(self, rng, how=None):
        how = how or rng.choice(("file", "file", "image", "array", "other", "batch"))
        if how in ("file", "sound"):
            kind, data, suffix = files.random_image(rng)
            data, note = files.spoil_bytes(rng, data) if how == "file" else (data, "sound")
            facts = {"how": "file", "path": f"a{suffix}"}
            return Case({f"a{suffix}": data}, f"{kind}: {note}", facts)
        size = rng.choice(self.sizes)
        if how == "image":
            mode = rng.choice(("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr",
                               "LAB", "HSV", "I", "F", "I;16", "I;16B"))
            value = Image.new(mode, size)
        elif how == "array":
            shape = rng.choice(((*size, 3), size, (*size, 4), (3, *size), (1, *size, 3), (3,), ()))
            dtype = rng.choice(("uint8", "uint8", "int64", "float32", "bool", "uint16", "O"))
            value = np.zeros(shape, dtype)
            value = value[::-1, ::-1] if value.ndim > 1 and rng.random() < 0.3 else value
            value = torch.zeros(3, 5, 5) if rng.random() < 0.05 else value
        else:
            value = rng.choice(self.others) if how == "other" else []
        note = f"{how} {getattr(value, 'shape', size)} {getattr(value, 'dtype', value)!r:.60}"
        return Case({}, note, {"how": how, "value": value})

    def check(self, folder, case):
        how = case.facts["how"]
        value = folder / case.facts["path"] if how == "file" else case.facts["value"]
        try:
            if how == "batch":
                if self.detector.detect_batch(value) != []:
                    raise Silent("no images give detections")
                return "accepted"
            check_detections(self.detector.detect(value), None)
        except UserError as error:
            return polite(error)
        except (ValueError, TypeError) as error:
            if how == "file" or not raised_on_purpose(error):
                raise
            return "refused"
        return "accepted"


# ---- Settings ----


class Stop(Exception):
    """Ends a training where its first epoch would begin."""


INTS = (-1, 0, 1, 2, 3, 7, 33, 300, 512, 1000, 2**31, 2**32, 10**10, 2**63, 10**30)
FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-30, 1e-3, 0.1, 0.5, 0.9, 1.0,
          2.0, 30.0, 1e6, 1e30, 1e308)
# Where scripts write: kept inside the folder of the case. Weights by name would be downloaded.
OUTPUTS = ("lists_dir", "save_dir", "map_out_path", "dir_save_path", "run_name")
DEVICES = ("cpu", "cuda", "cuda:9", "meta", "hpu", "mps", "cpu:1", "tpu", "gpu")
SCRIPTS = {"train": (train.main, train.TrainSettings),
           "predict": (predict.main, predict.PredictSettings),
           "get_map": (get_map.main, get_map.MapSettings),
           "voc_annotation": (voc_annotation.main, voc_annotation.AnnotationSettings)}


class Settings:
    """Settings of the right types, as flags or as objects: refused, or the script works.

    Training is stopped where its first epoch would begin. NaN must be refused everywhere, infinity
    for priors.
    """

    name = "settings"
    junk = False

    def prepare(self, folder):
        voc = Voc().sound()
        for path, data in voc.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        annotate(folder, VOCdevkit_path=str(folder / "VOCdevkit"))
        SSD(SSDSettings(device="cpu"), network=small_network(), class_names=CLASSES).save(
            folder / "best.pth")
        self.folder = folder

    def sound(self):
        return Case({}, "sound", {"script": "train", "changes": {}, "typed": False})

    def base(self, script, folder):
        """Return the settings with which a script works on the prepared files."""
        lists = {f"{name}_list": str(self.folder / f"2007_{name}.txt")
                 for name in ("train", "val", "test")}
        model, data = str(self.folder / "best.pth"), str(self.folder / "VOCdevkit")
        return {"train": {"train_list": lists["train_list"], "val_list": lists["val_list"],
                          "backbone": "mobilenetv2", "backbone_weights": "", "device": "cpu",
                          "input_shape": (260, 260), "save_dir": str(folder / "logs")},
                "predict": {"model_path": model, "device": "cpu", "mode": "dir_predict",
                            "dir_origin_path": f"{data}/VOC2007/JPEGImages", "show": False,
                            "dir_save_path": str(folder / "out")},
                "get_map": {"model_path": model, "device": "cpu", "test_list": lists["test_list"],
                            "map_out_path": str(folder / "map")},
                "voc_annotation": {"VOCdevkit_path": data, "lists_dir": str(folder),
                                   "classes_path": str(self.folder / "mine.txt")}}[script]

    def make(self, rng):
        script = rng.choice(("train",) * 4 + tuple(SCRIPTS))
        hints = typing.get_type_hints(SCRIPTS[script][1])
        changes, typed = {}, not self.junk and rng.random() < 0.3
        for name in rng.sample(list(hints), rng.choice((1, 1, 2, 3))):
            value = self._value(rng, name, hints[name])
            if typed and rng.random() < 0.5 and name not in OUTPUTS:
                value = rng.choice(files.ODD_NUMBERS + files.ODD_TEXTS)
            changes[name] = value
        changes.pop("show", None)
        facts = {"script": script, "changes": changes, "typed": typed}
        shown = repr(facts)[:9000]
        return Case({"settings.txt": shown.encode("utf-8", "replace")}, shown, facts)

    def _value(self, rng, name, hint):
        """Return a value of a field's type; in an edited file sometimes of another."""
        if self.junk and rng.random() < 0.5:
            return rng.choice((None, "junk", "300", 300, 0.5, (), (300,), ("2", 3), True, ["x"]))
        if name == "device":
            return rng.choice(DEVICES)
        if typing.get_origin(hint) is typing.Literal:
            return rng.choice(typing.get_args(hint))
        if typing.get_origin(hint) is tuple:
            kinds = [kind for kind in typing.get_args(hint) if kind is not ...]
            if len(kinds) > 1:
                values = [self._value(rng, "", kind) for kind in kinds]
                return tuple(values[:1] * len(kinds) if rng.random() < 0.7 else values)
            return tuple(self._value(rng, "", kinds[0]) for _ in range(rng.choice((0, 1, 2, 7))))
        if hint is bool:
            return rng.random() < 0.5
        return rng.choice({int: INTS, float: FLOATS}.get(hint, files.ODD_TEXTS))

    def check(self, folder, case):
        main, kind = SCRIPTS[case.facts["script"]]
        changes = dict(case.facts["changes"])
        for name in set(changes) & set(OUTPUTS):
            if isinstance(changes[name], str) and ".." not in changes[name]:
                changes[name] = f"{folder}/{changes[name]}" if name != "run_name" else changes[name]
            else:
                del changes[name]
        values = self.base(case.facts["script"], folder) | changes
        try:
            settings = (self._typed(kind, values) if case.facts["typed"] else kind(**values))
            with patch.object(Trainer, "train_epoch", side_effect=Stop):
                main(settings)
        except UserError as error:
            return polite(error)
        except SystemExit:
            return "refused"
        except Stop:
            pass
        self._demand_sense(settings, kind)
        return "accepted"

    def _typed(self, kind, values):
        """Return the settings that a command line gives; SystemExit where it is refused."""
        words = [Path(sys.modules[kind.__module__].__file__).name]
        for name, value in values.items():
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no_{name}")
                continue
            parts = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", *map(str, parts)]
        taken = []
        with patch.object(sys, "argv", words), contextlib.redirect_stderr(io.StringIO()):
            run(taken.append, kind)
        return taken[0]

    def _demand_sense(self, settings, kind):
        hints = typing.get_type_hints(kind)
        for name, value in dataclasses.asdict(settings).items():
            values = value if isinstance(value, (tuple, list)) else (value,)
            numbers = [number for number in values if isinstance(number, float)]
            if any(map(math.isnan, numbers)):
                raise Silent(f"nan was taken for {name} of {kind.__name__}")
            if name in ("anchors_size", "aspect_ratios") and any(map(math.isinf, numbers)):
                raise Silent(f"infinity was taken for {name} of {kind.__name__}")
            choices = typing.get_args(hints[name])
            if typing.get_origin(hints[name]) is typing.Literal and value not in choices:
                raise Silent(f"no choice, and taken for {name} of {kind.__name__}", repr(value))


class Edits(Settings):
    """Settings as someone leaves them who edits the file: also other types and unknown choices."""

    name = "edits"
    junk = True


KINDS = (Detect, Checkpoints, Families, Backbones, Npz, H5, Settings, Edits)
