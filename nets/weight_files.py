"""Published detectors: weight files -> our state dict and the spec that their numbers need.

A family is one reader (file contents -> our tensor names), one line in SIGNATURES, and one preset
in utils.spec.FAMILIES.
"""

import re
import zipfile

import numpy as np
import torch
from torchvision.models.detection import SSD300_VGG16_Weights

from nets.download import download
from nets.ssd import build_spec
from utils.checkpoint import (
    Checkpoint,
    check_weights_file,
    is_checkpoint,
    parse_checkpoint,
    read_tensor_file,
)
from utils.cli import ROOT, UserError, shorten
from utils.spec import COCO_SCALES, FAMILIES, VOC_SCALES

# conv1_1 .. conv5_3, fc6, fc7 of Caffe by their place in our VGG16.
VGG_PLACES = {"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12,
              "conv3_3": 14, "conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 24,
              "conv5_2": 26, "conv5_3": 28, "fc6": 31, "fc7": 33}

# The layers with heads; SSD300 has no conv10_2.
KERAS_MAPS = ("conv4_3_norm", "fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2", "conv10_2")

# Where class names come from when a file has none: by count, without background.
NAMED_COUNTS = {20: "voc_classes.txt", 80: "coco_classes.txt"}


def read_detector(path, *, family="auto", class_names=None):
    """Read a detector from a checkpoint of this project or a published weight file.

    Args:
        path: the file, or "coco" for torchvision's SSD300 trained on COCO, downloaded once.
        family: "auto" tells by the contents. amdegroot and bubbliiiing name their VGG16 tensors
            alike; "auto" takes amdegroot, whose conventions are those of the paper's own code
            and of most files under these names.
        class_names: for files with other classes than VOC's 20 or COCO's; None: by their count.

    Returns:
        (Checkpoint, family); family is "this project" for checkpoints.

    Raises:
        UserError: an unreadable, unknown or unsafe file, or class names that do not fit it.
    """
    if path == "coco":
        path = download(SSD300_VGG16_Weights.COCO_V1.url)
    path = check_weights_file(path)
    values = read_weights(path)
    if is_checkpoint(values):
        return parse_checkpoint(values, path), "this project"
    values = unwrap(values, path)
    found = recognise(values, path)
    if family != "auto":
        if family != found and {family, found} != {"amdegroot", "bubbliiiing"}:
            raise UserError(f"{shorten(path)}: weights_family is {family!r}, but the tensors are "
                            f"those of {found}; leave it \"auto\".")
        found = family
    state = READERS[found](values)
    try:
        spec, num_classes = describe(state, found)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{shorten(path)}: looks like {found}, but is not a whole SSD "
                        f"({error} does not fit).") from None
    names = names_for(num_classes, class_names, path)
    return Checkpoint(spec, names, state, {}, {}), found


def read_weights(path):
    """Return the contents of a PyTorch, Keras .h5 or NumPy .npz file, told by the contents."""
    with open(path, "rb") as file:
        if file.read(8) == b"\x89HDF\r\n\x1a\n":
            return read_h5(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith(".npy") for name in archive.namelist()):
                return read_npz(path)
    return read_tensor_file(path)


def read_h5(path):
    """Return {layer/.../weight: tensor} of a Keras file."""
    try:
        import h5py
    except ImportError:
        raise UserError(f"{shorten(path)}: Keras files need h5py; run: pip install h5py") from None
    tensors = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            tensors[name.removeprefix("model_weights/")] = torch.from_numpy(
                item[()].astype(np.float32))
    try:
        with h5py.File(path, "r") as file:
            file.visititems(keep)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"{shorten(path)}: cannot be read ({error}); get the file again.") from None
    return tensors


def read_npz(path):
    """Return {name: tensor} of a NumPy archive; pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name].astype(np.float32))
                    for name in archive.files}
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        reason = ("loading it would run code that it holds" if "pickle" in str(error)
                  else f"cannot be read ({error})")
        raise UserError(f"{shorten(path)}: refused, {reason}; get the file again.") from None


def unwrap(values, path):
    """Take the state dict out of the usual wrappers and off the prefix of data-parallel training.

    Raises UserError where no tensors are found.
    """
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    if not isinstance(values, dict):
        raise UserError(f"{shorten(path)}: holds a {type(values).__name__}, not a state dict.")
    tensors = {str(name).removeprefix("module."): value for name, value in values.items()
               if torch.is_tensor(value)}
    if not tensors:
        raise UserError(f"{shorten(path)}: no tensors in it; is it a weights file?")
    return tensors


# A tensor name that only this family has.
SIGNATURES = {"lufficc": r"box_head\.predictor\.cls_headers\.0\.weight",
              "torchvision": r"head\.classification_head\.module_list\.0\.weight",
              "chainercv": r"multibox/conf/0/W",
              "ssd_keras": r"conv4_3_norm_mbox_conf\w*/.*",
              "bubbliiiing": r"(mobilenet\.0\.0|resnet\.0)\.weight",
              "amdegroot": r"vgg\.0\.weight"}


def recognise(tensors, path):
    """Return the family that a file belongs to.

    Raises UserError where it is none that can be read.
    """
    for family, pattern in SIGNATURES.items():
        if any(re.fullmatch(pattern, name) for name in tensors):
            if family in ("bubbliiiing", "amdegroot") and "conf.0.weight" not in tensors:
                continue
            return family
    if any(re.fullmatch(r"(features\.)?0\.weight|conv1\.weight", name) for name in tensors):
        raise UserError(f"{shorten(path)}: a classification network, not a detector; train.py "
                        "takes it as backbone_weights.")
    raise UserError(f"{shorten(path)}: not an SSD of a known family ({', '.join(FAMILIES)}); "
                    f"it begins with {next(iter(tensors))!r}.")


def _rename(tensors, rules):
    """Rename by (pattern, replacement) rules; names that no rule fits stay as they are."""
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in rules:
            if match := re.fullmatch(pattern, name):
                name = replacement(match) if callable(replacement) else match.expand(replacement)
                break
        renamed[name] = value
    return renamed


def read_amdegroot(tensors):
    """amdegroot/ssd.pytorch and bubbliiiing/ssd-pytorch: the names are ours."""
    return dict(tensors)


def read_lufficc(tensors):
    """lufficc/SSD: backbone.* and box_head.predictor.*."""
    return _rename(tensors, [(r"backbone\.((?:vgg|extras)\..*)", r"\1"),
                             (r"backbone\.l2_norm\.weight", "L2Norm.weight"),
                             (r"box_head\.predictor\.cls_headers\.(.*)", r"conf.\1"),
                             (r"box_head\.predictor\.reg_headers\.(.*)", r"loc.\1")])


def read_torchvision(tensors):
    """torchvision ssd300_vgg16: conv5, fc6 and fc7 are the first block of its extra layers."""
    conv5 = {"1": 24, "3": 26, "5": 28, "7.1": 31, "7.3": 33}
    return _rename(tensors, [
        (r"backbone\.features\.(.*)", r"vgg.\1"),
        (r"backbone\.scale_weight", "L2Norm.weight"),
        (r"backbone\.extra\.0\.(7\.1|7\.3|1|3|5)\.(\w+)", lambda m: f"vgg.{conv5[m[1]]}.{m[2]}"),
        (r"backbone\.extra\.(\d)\.([02])\.(\w+)",
         lambda m: f"extras.{2 * int(m[1]) - 2 + int(m[2]) // 2}.{m[3]}"),
        (r"head\.classification_head\.module_list\.(.*)", r"conf.\1"),
        (r"head\.regression_head\.module_list\.(.*)", r"loc.\1")])


def read_ssd_keras(tensors):
    """pierluigiferrari/ssd_keras: Caffe's layer names, HWIO kernels, a first layer for BGR."""
    state = {}
    for name, value in tensors.items():
        layer, kind = name.split("/")[0], name.split("/")[-1]
        place = _caffe_place(layer)
        if place is None:
            continue
        if value.ndim == 4:
            value = value.permute(3, 2, 0, 1)
            value = value.flip(1) if layer == "conv1_1" else value
        state[f"{place}.{'bias' if re.search(r'bias|_b:|_b$', kind) else 'weight'}"] = value
    return state


def _caffe_place(layer):
    """Return our module name of a layer with Caffe's name, None for a layer without weights."""
    if layer == "conv4_3_norm":
        return "L2Norm"
    if match := re.fullmatch(r"(.*)_mbox_(loc|conf).*", layer):
        return f"{match[2]}.{KERAS_MAPS.index(match[1])}" if match[1] in KERAS_MAPS else None
    if layer in VGG_PLACES:
        return f"vgg.{VGG_PLACES[layer]}"
    match = re.fullmatch(r"conv(\d+)_([12])", layer)
    return f"extras.{(int(match[1]) - 6) * 2 + int(match[2]) - 1}" if match else None


def read_chainercv(tensors):
    """ChainerCV SSD300 and SSD512: slashes, W and b, and loc as (dy, dx, dh, dw)."""
    state = {}
    for name, value in tensors.items():
        *_, layer, kind = name.split("/")
        kind = {"W": "weight", "b": "bias", "scale": "weight"}.get(kind)
        if kind is None:
            continue
        if match := re.search(r"multibox/(loc|conf)/(\d+)/", name):
            place = f"{match[1]}.{match[2]}"
            value = _swap_xy(value) if match[1] == "loc" else value
        elif layer == "norm4":
            place = "L2Norm"
        elif layer in ("conv6", "conv7"):
            place = f"vgg.{VGG_PLACES['fc' + layer[-1]]}"
        elif layer in VGG_PLACES:
            place = f"vgg.{VGG_PLACES[layer]}"
        else:
            number, half = re.fullmatch(r"conv(\d+)_([12])", layer).groups()
            place = f"extras.{(int(number) - 8) * 2 + int(half) - 1}"
        state[f"{place}.{kind}"] = value
    return state


def _swap_xy(value):
    """Exchange x and y in the output channels of a loc head, (4A, ...)."""
    return value.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


READERS = {"amdegroot": read_amdegroot, "bubbliiiing": read_amdegroot, "lufficc": read_lufficc,
           "torchvision": read_torchvision, "ssd_keras": read_ssd_keras,
           "chainercv": read_chainercv}


def describe(state, family):
    """Tell (SSDSpec, number of classes without background) from our state dict and the family."""
    backbone = next(ours for prefix, ours in (("vgg.", "vgg"), ("mobilenet.", "mobilenetv2"),
                                              ("resnet.", "resnet50"))
                    if any(name.startswith(prefix) for name in state))
    size = 512 if "conf.6.weight" in state else 300
    boxes = state["loc.0.weight"].shape[0] // 4
    num_classes = state["conf.0.weight"].shape[0] // boxes - 1
    # amdegroot's code takes its COCO sizes for any number of classes but VOC's.
    coco = {"torchvision": True, "bubbliiiing": False, "amdegroot": num_classes != 20}.get(
        family, num_classes == 80)
    changes = dict(FAMILIES[family])
    if family == "lufficc" and size == 512 and not coco:
        # Their configuration file says 537.65 where 1.05 x 512 is 537.6.
        changes["anchors_size"] = (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.65)
    return build_spec(backbone, size, scales=COCO_SCALES if coco else VOC_SCALES,
                      **changes), num_classes


def names_for(num_classes, class_names, path):
    """Return the class names for a file without names.

    Raises UserError where they are not known, or the given ones do not fit.
    """
    if class_names is not None:
        if len(class_names) == num_classes:
            return tuple(class_names)
        raise UserError(f"{shorten(path)}: has {num_classes} classes, classes_path has "
                        f"{len(class_names)}; name the list that it was trained with.")
    if num_classes == 90:
        return tuple(SSD300_VGG16_Weights.COCO_V1.meta["categories"][1:])
    if num_classes in NAMED_COUNTS:
        text = (ROOT / "model_data" / NAMED_COUNTS[num_classes]).read_text(encoding="utf-8")
        return tuple(text.split("\n")[:num_classes])
    raise UserError(f"{shorten(path)}: has {num_classes} classes and no names; set classes_path to "
                    "the list that it was trained with.")
