"""Classification weights for the backbones."""

import re
from typing import NamedTuple

import torch
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights, VGG16_Weights

from nets.download import download
from utils.checkpoint import read_tensor_file
from utils.cli import UserError, resolve, shorten
from utils.spec import CAFFE_MEAN, CAFFE_STD, IMAGENET_MEAN, IMAGENET_STD

# torchvision's ImageNet weights; FEATURES are VGG16's Caffe convolutions, those SSD was made with.
IMAGENET = {"vgg": VGG16_Weights.IMAGENET1K_FEATURES,
            "mobilenetv2": MobileNet_V2_Weights.IMAGENET1K_V1,
            "resnet50": ResNet50_Weights.IMAGENET1K_V1}

RESNET_STAGES = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6"}


class BackboneWeights(NamedTuple):
    """Classification weights under this project's names, and the input they expect."""

    state_dict: dict  # name in SSDNet -> tensor
    mean: tuple[float, float, float]  # RGB grey levels
    std: tuple[float, float, float]


def read_backbone(source, backbone):
    """Read classification weights for a backbone.

    Args:
        source: a file with torchvision's names, or "imagenet" for torchvision's own, downloaded
            to model_data/ on first use.
        backbone: "vgg", "mobilenetv2" or "resnet50".

    Returns:
        BackboneWeights.

    Raises:
        UserError: no internet, an unreadable file, or a file of another network.
    """
    path = download(IMAGENET[backbone].url) if source == "imagenet" else resolve(source)
    values, place = read_tensor_file(path), shorten(path)
    if not isinstance(values, dict) or not all(torch.is_tensor(v) for v in values.values()):
        raise UserError(f"{place}: not a plain state dict; backbone_weights takes classification "
                        "weights, model_path takes detectors.")
    renamed = {_rename(name, backbone): value for name, value in values.items()}
    renamed.pop(None, None)
    if backbone == "vgg":
        renamed |= decimate_classifier(values)
    if not renamed:
        raise UserError(f"{place}: no tensors of {backbone} in it (it begins with "
                        f"{next(iter(values), 'nothing')!r}); check backbone and the file.")
    return BackboneWeights(renamed, *_normalisation(values, backbone))


def _rename(name, backbone):
    """Return torchvision's (or vgg16_reducedfc's) tensor name as ours, None for what SSD drops."""
    if backbone == "vgg":
        found = re.fullmatch(r"(?:features\.)?(\d+)\.(weight|bias)", name)
        return f"vgg.{found[1]}.{found[2]}" if found else None
    if backbone == "mobilenetv2":
        return name.replace("features.", "mobilenet.", 1) if name.startswith("features.") else None
    stage, _, rest = name.partition(".")
    return f"resnet.{RESNET_STAGES[stage]}.{rest}" if stage in RESNET_STAGES else None


def decimate_classifier(values):
    """Turn the fully connected layers of a whole VGG16 into conv6 and conv7 (paper section 3).

    Of fc6's 7x7 window every third row and column is kept, of all outputs every fourth.

    Args:
        values: torchvision's state dict.

    Returns:
        dict of our names; empty where there is no classifier, or one of NaN as in FEATURES.
    """
    names = ("classifier.0.weight", "classifier.0.bias", "classifier.3.weight", "classifier.3.bias")
    if not all(name in values and values[name].isfinite().all() for name in names):
        return {}
    fc6, fc6_bias, fc7, fc7_bias = (values[name] for name in names)
    fc6 = fc6.unflatten(1, (512, 7, 7))[::4, :, ::3, ::3]  # (1024, 512, 3, 3)
    fc7 = fc7[::4, ::4, None, None]  # (1024, 1024, 1, 1)
    return {"vgg.31.weight": fc6, "vgg.31.bias": fc6_bias[::4],
            "vgg.33.weight": fc7, "vgg.33.bias": fc7_bias[::4]}


def _normalisation(values, backbone):
    """Tell (mean, std) from the contents.

    VGG16 convolutions alone are Caffe's, in grey levels; torchvision's own training of VGG16,
    scaled to unit deviation, comes with a classifier of real numbers (that of FEATURES is NaN).
    """
    classifier = values.get("classifier.0.weight")
    if backbone == "vgg" and (classifier is None or not classifier[0].isfinite().all()):
        return CAFFE_MEAN, CAFFE_STD
    return IMAGENET_MEAN, IMAGENET_STD


def load_backbone(network, weights):
    """Copy backbone weights into a network.

    Returns:
        number of tensors copied.

    Raises:
        UserError: a tensor is missing that classification weights must have, or a shape differs.
    """
    own = network.state_dict()
    fitting = {name: value for name, value in weights.state_dict.items() if name in own}
    for name, value in fitting.items():
        if own[name].shape != value.shape:
            raise UserError(f"backbone_weights: {name} is {tuple(value.shape)}, the network needs "
                            f"{tuple(own[name].shape)}; the file is of another network.")
    needed = [f"{network.backbone_name}.{name}" for name in network.pretrained_layers.state_dict()]
    missing = [name for name in needed if name not in fitting]
    if missing:
        raise UserError(f"backbone_weights: {len(missing)} of {len(needed)} tensors are missing, "
                        f"{missing[0]} among them; the file is of another network.")
    network.load_state_dict(fitting, strict=False)
    return len(fitting)
