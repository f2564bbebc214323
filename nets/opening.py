"""From what a user names to something that runs: a file of weights, or a network in memory."""

import os
from collections.abc import Sequence

from nets.build import read_network
from nets.runtimes.onnx import RuntimeName, open_exported
from nets.runtimes.torch import Runtime, TorchRuntime
from nets.ssd import SSDNet
from utils.checkpoint import newest_checkpoint
from utils.cli import UserError
from utils.device import pick_device, set_precision


def open_detector(path: str | os.PathLike, *, save_dir: str, class_names: tuple[str, ...] | None,
                  family: str, device: str, precision: str, runtime: RuntimeName) -> Runtime:
    """Return the Runtime of a file with weights, and print which it is.

    Args:
        path: as `read_network` and `open_exported` take it, looked for where one stands, then in
            the repo; "" takes the newest best.pth under `save_dir`.
        class_names: for files that do not know theirs.
        family: whose conventions a published file needs, or "auto".
        device, precision: names as `pick_device` and `set_precision` take them.
        runtime: what runs an .onnx.

    Raises UserError for a file that is missing, unreadable, or of another kind.
    """
    path = path or newest_checkpoint(save_dir)
    if not path:
        raise UserError(f"no weights yet: there is no best.pth under {save_dir}.\nTrain "
                        "with voc_annotation.py and train.py, or set model_path = \"coco\" or to "
                        "a file.")
    if os.path.isfile(path):  # where one stands; else in the repo
        path = os.path.abspath(path)
    if str(path).lower().endswith(".onnx"):
        return open_exported(path, device=device, precision=precision, runtime=runtime)
    place = pick_device(device)
    exact = set_precision(precision, place)
    network, names = read_network(path, family=family, class_names=class_names)
    return TorchRuntime(network.to(place).eval(), names, precision=exact, owned=True)


def hold_network(network: SSDNet, class_names: Sequence[str] | None, *, device: str,
                 precision: str) -> TorchRuntime:
    """Return the Runtime of a network that stays the caller's, on its own device.

    Raises ValueError where it lies on another device than asked for, or has other classes.
    """
    own, wanted = network.coder.priors.device, pick_device(device)
    if device != "auto" and (own.type != wanted.type or wanted.index not in (None, own.index)):
        raise ValueError(f"the network lies on {own}, the settings say {device!r}")
    if class_names is None or len(class_names) != network.num_classes - 1:
        raise ValueError(f"the network has {network.num_classes - 1} classes, "
                         f"class_names are {class_names}")
    return TorchRuntime(network, class_names, owned=False,
                        precision=set_precision(precision, own))
