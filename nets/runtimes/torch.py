"""What runs the network: images in, boxes and scores out."""

import copy
import threading
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nets.runtimes.cpu_packing import can_pack, pack_convolutions
from nets.ssd import SSDNet
from utils.device import Precision, evaluating, run_in
from utils.multibox.postprocess import decode_outputs


class TorchRuntime:
    """Runs an SSDNet by PyTorch, from several threads too.

    With `owned` a faster `copy` of the network runs, as long as nobody changes the network and sets
    `copy` to None. Otherwise the network itself runs, and is left as it is. `class_names` have no
    background; ValueError where their number is not the network's.
    """

    name = "PyTorch"

    def __init__(self, network: SSDNet, class_names: Sequence[str], *, precision: Precision,
                 owned: bool):
        if len(class_names) != network.num_classes - 1:
            raise ValueError(f"{network.num_classes - 1} classes, class_names are {class_names}")
        self.network, self.spec, self.class_names = network, network.spec, tuple(class_names)
        self.device, self.precision = network.coder.priors.device, precision
        self.copy = inference_copy(network, precision) if owned else None
        self._lock = threading.Lock()  # while the caller's network is in eval mode

    def __reduce__(self):
        """Pickle and copy the network alone: neither packed weights nor locks can be pickled."""
        make = partial(TorchRuntime, precision=self.precision, owned=self.copy is not None)
        return make, (self.network, self.class_names)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return boxes (B, P, 4) and scores (B, P, K), float32, as `decode_outputs` makes them.

        `images` are (B, S, S, 3) RGB pixel values, of the dtype that `resize_to_input` gives.
        """
        images = torch.as_tensor(images).to(self.device).permute(0, 3, 1, 2)  # channels last
        with run_in(self.precision, self.device):
            if (faster := self.copy) is not None:
                return decode_outputs(*faster(images), self.network.coder)
            with self._lock, evaluating(self.network):
                return decode_outputs(*self.network(images), self.network.coder)


def folded_copy(network: SSDNet) -> SSDNet:
    """Return a copy in eval mode that has batch norm folded into the convolutions before it."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(network.modules()):
        for (name, child), (next_name, following) in pairwise(list(module.named_children())):
            if isinstance(child, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(child, following))
                setattr(module, next_name, nn.Identity())
    return network


def inference_copy(network: SSDNet, precision: Precision) -> SSDNet:
    """Return a copy with the same outputs, to rounding, that is faster and cannot be trained."""
    network = folded_copy(network).to(memory_format=torch.channels_last)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if can_pack(network.coder.priors.device, dtype):
        pack_convolutions(network, dtype)
    return network
