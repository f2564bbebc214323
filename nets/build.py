"""How a script gets a network: a new one, one from a detector, or one that goes on from it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nets.first_scale import scale_new_layers
from nets.ssd import SSDNet, build_spec, nest_extras
from nets.weights.transfer import load_backbone, transfer
from nets.weights.weight_files import read_backbone, read_detector
from utils.checkpoint import Checkpoint, check_tensors
from utils.cli import UserError, shorten


def new_network(backbone: str, size: int, num_classes: int, *, backbone_weights: str = "imagenet",
                anchors_size: Sequence[float] = (), aspect_ratios: Sequence[float] = (),
                letterbox: bool = False, tile: int = 0,
                images: Sequence[tuple[str | Path, np.ndarray]] = ()) -> SSDNet:
    """Return a network to train, its backbone filled; print where its weights come from.

    Args:
        backbone: a name in BACKBONES.
        size: side of the input in pixels.
        num_classes: without background.
        backbone_weights: as in read_backbone, or "" for random numbers.
        anchors_size, aspect_ratios: of the priors, in pixels and on every map; () is the paper's.
        letterbox: keep the aspect ratio of images with grey bars.
        tile: side of the tiles of an image in pixels; 0 takes images as a whole.
        images: (path, (G, 4) boxes in pixels) to train on, by which new layers are rescaled; ()
            leaves them as they are.

    Raises UserError for numbers that do not fit together, or a file that cannot be used.
    """
    changes = {"anchors_size": tuple(anchors_size)} if anchors_size else {}
    weights = read_backbone(backbone_weights, backbone) if backbone_weights else None
    if weights:
        changes |= {"mean": weights.mean, "std": weights.std}
    try:
        spec = build_spec(backbone, size, letterbox=letterbox, tile=tile, **changes)
        if aspect_ratios:
            spec = replace(spec, aspect_ratios=(tuple(aspect_ratios),) * len(spec.grids))
        network = SSDNet(num_classes + 1, spec)
    except ValueError as error:
        raise UserError(f"{error}; change it in the settings.") from None
    if weights is None:
        print(f"weights: none, {backbone} starts from random numbers")
    else:
        count = load_backbone(network, weights)
        filled = all(name in weights.state_dict for name, _ in
                     network.backbone.named_parameters(network.backbone_spec.prefix))
        fresh = "" if filled else f"{network.backbone_spec.unfilled}, "
        print(f"weights: {count} tensors of {backbone} from {backbone_weights}; {fresh}extra "
              f"layers and heads start from random numbers\n"
              f"pixel values: minus {spec.mean}, divided by {spec.std}")
    if images:
        factors = scale_new_layers(network, images, weights.state_dict if weights else ())
        print(f"start: {len(factors)} new layers rescaled")
    return network


def read_network(path: str | Path, *, family: str = "auto",
                 class_names: tuple[str, ...] | None = None) -> tuple[SSDNet, tuple[str, ...]]:
    """Return (network, class names) of a detector file; print what it is.

    The arguments are those of weight_files.read_detector. Raises UserError for a file that cannot
    be read or is not whole.
    """
    checkpoint, family = read_detector(path, family=family, class_names=class_names)
    network = network_of(checkpoint, family, shorten(path))
    return network, checkpoint.class_names


def network_of(checkpoint: Checkpoint, family: str, path: str) -> SSDNet:
    """Return the network of what `read_detector` returned for a file; print what it is.

    Raises UserError for a file that is not whole.
    """
    spec, names = checkpoint.spec, checkpoint.class_names
    try:
        network = SSDNet(len(names) + 1, spec)
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"{path}: {error}; the file is damaged.") from None
    state_dict = nest_extras(checkpoint.state_dict)
    check_tensors(network.state_dict(), state_dict, path)
    network.load_state_dict(state_dict)  # a plain dict may lack the counters of batch norm
    network.family = family
    print(f"weights: {path}: {family}, {spec.summary()}, {len(names)} classes")
    return network


def continued_network(path: str | Path, class_names: tuple[str, ...], *, family: str = "auto",
                      old_names: tuple[str, ...] | None = None, tile: int = 0) -> SSDNet:
    """Return the network of a detector file for other classes; its spec wins over all settings.

    But no weight depends on `tile`: the file's counts only where it is 0. The conf rows of classes
    in common are taken over where the class lists differ. `old_names` are those of a published file
    with other classes than VOC's or COCO's. Raises as `read_network`.
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
