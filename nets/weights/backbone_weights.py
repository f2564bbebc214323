"""Classification weights for the backbones."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from nets.backbones import BACKBONES, rename
from nets.weights.download import download
from nets.ssd import SSDNet
from utils.checkpoint import COUNTER, check_tensors
from utils.cli import UserError, resolve, shorten
from utils.multibox.spec import CAFFE_MEAN, CAFFE_STD, IMAGENET_MEAN, IMAGENET_STD
from utils.tensor_files import read_tensor_file


class BackboneWeights(NamedTuple):
    """Classification weights under this project's names, and the input they expect."""

    state_dict: dict  # name in SSDNet -> tensor
    mean: tuple[float, float, float]  # RGB grey levels
    std: tuple[float, float, float]
    reason: str  # why that input, for the user


def read_backbone(source: str | Path, backbone: str) -> BackboneWeights:
    """Read classification weights for a backbone, a name in BACKBONES.

    `source` is a file with torchvision's names, or "imagenet" for torchvision's own, downloaded to
    model_data/ on first use. Raises UserError without internet, for an unreadable file, and for a
    file of another network.
    """
    entry = BACKBONES[backbone]
    path = download(entry.imagenet) if source == "imagenet" else resolve(source)
    values, place = read_tensor_file(path), shorten(path)
    if not isinstance(values, dict) or not all(
            isinstance(name, str) and torch.is_tensor(v) for name, v in values.items()):
        raise UserError(f"{place}: not a plain state dict; backbone_weights takes classification "
                        "weights, model_path takes detectors.")
    renamed = rename(values, entry.names)
    if not renamed:
        raise UserError(f"{place}: no tensors of {backbone} in it (it begins with "
                        f"{next(iter(values), 'nothing')[:60]!r}); check backbone and the file.")
    return BackboneWeights(renamed | entry.convert(values), *_normalisation(values, entry))


def _normalisation(values, entry):
    """Tell (mean, std, reason): Caffe's grey levels, or scaled to unit deviation.

    torchvision's own training of VGG16 comes with a classifier of real numbers; that of
    IMAGENET1K_FEATURES, which are Caffe's convolutions, is NaN. The size of the weights does not
    tell: both begin with numbers around 0.5.
    """
    classifier = values.get("classifier.0.weight")
    if not entry.is_caffe or (classifier is not None and classifier.ndim == 2
                              and classifier[0, :100].isfinite().all()):
        return IMAGENET_MEAN, IMAGENET_STD, "torchvision's own training"
    if classifier is not None:
        return CAFFE_MEAN, CAFFE_STD, "Caffe's VGG16, known by its empty classifier"
    return CAFFE_MEAN, CAFFE_STD, ("assumed: without a classifier the file cannot tell; if it was "
                                   "trained by torchvision, give the file that has one")


def load_backbone(network: SSDNet, weights: BackboneWeights) -> int:
    """Copy backbone weights into a network; return the number of tensors copied.

    Raises UserError where a tensor is missing that classification weights must have (counters of
    batch norm need not be there), has another shape, or holds no weights.
    """
    own, needed = network.state_dict(), backbone_names(network.pretrained_layers, network)
    fitting = {name: value for name, value in weights.state_dict.items() if name in own}
    check_tensors({name: own[name] for name in (*needed, *fitting)}, fitting, "backbone_weights")
    network.load_state_dict(fitting, strict=False)
    return len(fitting)


def backbone_names(layers: nn.Module, network: SSDNet) -> list[str]:
    """Return the network's names of these layers' tensors, counters of batch norm left out."""
    return [f"{network.backbone_spec.prefix}.{name}" for name in layers.state_dict()
            if not name.endswith(COUNTER)]
