"""How a script gets a network: a new one, one from a detector, or one that goes on from it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nets.first_scale import scale_new_layers
from nets.ssd import SSDNet, build_spec
from nets.weights.transfer import load_backbone, transfer
from nets.weights.weight_files import read_backbone, read_detector
from utils.checkpoint import Checkpoint, check_tensors
from utils.cli import UserError, shorten


def new_network(backbone: str, size: int, num_classes: int, *, backbone_weights: str = "imagenet",
                anchors_size: Sequence[float] = (), aspect_ratios: Sequence[float] = (),
                letterbox: bool = False, tile: int = 0,
                images: Sequence[tuple[str | Path, np.ndarray]] = ()) -> SSDNet:
    """Return a network to train, its backbone filled; print where its weights come from.

    `size` is the side of the input in pixels, `num_classes` is without background,
    `backbone_weights` as in read_backbone or "" for random numbers, the priors as in build_spec.
    New layers are rescaled on `images`, (path, (G, 4) boxes in pixels). UserError for numbers that
    do not fit together.
    """
    state, changes = read_backbone(backbone_weights, backbone) if backbone_weights else ({}, {})
    try:
        spec = build_spec(backbone, size, anchors_size=anchors_size, aspect_ratios=aspect_ratios,
                          letterbox=letterbox, tile=tile, **changes)
        network = SSDNet(num_classes + 1, spec)
    except ValueError as error:
        raise UserError(f"{error}; change it in the settings.") from None
    text = "random numbers"
    if state:
        text = f"{load_backbone(network, state)} tensors of {backbone_weights}"
        names = dict(network.backbone.named_parameters(network.backbone_entry.prefix))
        if not names.keys() <= state.keys():
            text += f", but random {network.backbone_entry.unfilled}"
    print(f"weights: {backbone} from {text}")
    if images:
        scale_new_layers(network, images, state)
    return network


def read_network(path: str | Path, *, family: str = "auto",
                 class_names: tuple[str, ...] | None = None) -> tuple[SSDNet, tuple[str, ...]]:
    """Return (network, class names) of a file, by `read_detector`'s arguments; print what it is."""
    checkpoint, family = read_detector(path, family=family, class_names=class_names)
    return network_of(checkpoint, family, shorten(path)), checkpoint.class_names


def network_of(checkpoint: Checkpoint, family: str, path: str) -> SSDNet:
    """Return the network of what `read_detector` returned; UserError for a file not whole."""
    spec, names = checkpoint.spec, checkpoint.class_names
    network = SSDNet(len(names) + 1, spec)
    check_tensors(network.state_dict(), checkpoint.state_dict, path)
    # A plain dict may lack the counters of batch norm.
    network.load_state_dict(checkpoint.state_dict)
    network.family, network.about = family, checkpoint.progress
    val_map = network.about.get("val_map")
    print(f"weights: {path}: {family}, {spec.summary()}, {len(names)} classes"
          + ("" if val_map is None else f", val mAP@0.5 {val_map:.3f}"))
    return network


def continued_network(path: str | Path, class_names: tuple[str, ...], *, family: str = "auto",
                      old_names: tuple[str, ...] | None = None, tile: int = 0) -> SSDNet:
    """Return the network of a detector file, with its spec, for other classes.

    A `tile` other than 0 wins over the file's. The conf rows of classes in common are taken over.
    `old_names` are those of a published file with other classes than VOC's or COCO's.
    """
    complete, old_names = read_network(path, family=family, class_names=old_names)
    try:
        complete.spec = replace(complete.spec, tile=tile or complete.spec.tile)
    except ValueError as error:
        raise UserError(f"{error}; change it in the settings.") from None
    if old_names == tuple(class_names):
        return complete
    network = SSDNet(len(class_names) + 1, complete.spec)
    print(transfer(network, complete.state_dict(), class_names, old_names))
    return network
