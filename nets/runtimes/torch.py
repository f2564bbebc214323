"""What runs the network: images in, boxes and scores out, whatever is behind it."""

import copy
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nets.ssd import SSDNet
from utils.device import Precision, evaluating, run_in
from utils.multibox.postprocess import decode_outputs
from utils.multibox.spec import SSDSpec


class Runtime(Protocol):
    """A network ready to look at images, from several threads too.

    Attributes:
        spec: everything that its weights depend on.
        class_names: K names, without background.
        device: where its outputs lie.
        precision: in which it computes, for people: "fp32", "bf16", "fp16", "int8".
        name: what runs it, for people: "PyTorch", "ONNX Runtime".
    """

    spec: SSDSpec
    class_names: tuple[str, ...]
    device: torch.device
    precision: str
    name: str

    def __call__(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return boxes (B, P, 4) and scores (B, P, K), float32, as `decode_outputs` makes them.

        `images` is a NumPy array or tensor (B, S, S, 3), RGB grey levels not normalised, uint8;
        float32 where the spec resizes in float32, as `read_input` gives it.
        """
        ...


class TorchRuntime:
    """Runs an SSDNet by PyTorch; a Runtime.

    Args:
        network: on its device.
        class_names: its classes, without background.
        precision: as set_precision returns it.
        owned: nobody else uses the network. Then a copy of it is made at the first call that has
            batch norm folded in, its weights channels last and in the precision; changes to the
            network after that are not seen. Else the network is used as it is, and left so.
    """

    name = "PyTorch"

    def __init__(self, network: SSDNet, class_names: Sequence[str], *, precision: Precision,
                 owned: bool):
        self.network, self.spec, self.class_names = network, network.spec, tuple(class_names)
        self.device, self.precision, self.owned = network.coder.priors.device, precision, owned
        self._copy, self._lock = None, threading.Lock()

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """As Runtime."""
        return decode_outputs(*self.raw(images), self.network.coder)

    @torch.inference_mode()
    def raw(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return loc (B, P, 4) and conf (B, P, C) of the images."""
        images = torch.as_tensor(images).to(self.device).permute(0, 3, 1, 2)  # channels last
        if self.owned:
            return self._run_copy(images)
        with evaluating(self.network), run_in(self.precision, self.device):
            return self.network(images)

    def _run_copy(self, batch):
        """Run the copy, which the first call makes and packs."""
        with self._lock:
            if self._copy is None:
                network = inference_copy(self.network, self.precision)
                outputs = network(batch)
                self._copy = network
                return outputs
        return self._copy(batch)


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _Cast(nn.Module):
    """Runs a module in float32 and gives back another dtype."""

    def __init__(self, module, dtype):
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, x):
        return self.module(x.float()).to(self.dtype)


class _PackedConv(nn.Module):
    """A convolution and the ReLU or ReLU6 after it, in one step.

    For inputs of one shape oneDNN lays the weights out once, not at each call: by the operators
    that PyTorch's compiler makes of such layers, without a compiler. That is the shape of the first
    input, then of whatever comes twice in a row.
    """

    def __init__(self, conv, activation):
        super().__init__()
        self.plain = nn.Sequential(conv, activation)
        self.numbers = conv.padding, conv.stride, conv.dilation, conv.groups
        self.after = {nn.ReLU: ("relu", []), nn.ReLU6: ("hardtanh", [0.0, 6.0])}.get(
            type(activation), ("none", []))
        self.packed, self.other = None, None  # (shape, weight); another shape that came last

    def forward(self, x):
        conv, packed = self.plain[0], self.packed  # read once: other threads may change it
        if packed is None or x.shape == self.other:
            weight = torch.ops.mkldnn._reorder_convolution_weight(
                conv.weight, *self.numbers, x.shape)
            packed = self.packed = x.shape, weight
        if x.shape != packed[0]:
            self.other = x.shape
            return self.plain(x)
        self.other = None
        return torch.ops.mkldnn._convolution_pointwise(x, packed[1], conv.bias, *self.numbers,
                                                       *self.after, "")


def folded_copy(network: SSDNet) -> SSDNet:
    """Return a copy in eval mode that has batch norm folded into the convolutions before it."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(network.modules()):
        _fold_batch_norm(module)
    return network


def inference_copy(network: SSDNet, precision: Precision) -> nn.Module:
    """Return a copy that gives the same outputs, to rounding, and cannot be trained.

    Batch norm is folded into the convolutions before it, weights lie channels last, in the
    precision; L2Norm stays in float32.
    """
    network = folded_copy(network)
    modules, dtype = list(network.modules()), _DTYPES[precision]
    normalise = copy.deepcopy(network.normalise)
    network.to(dtype=dtype, memory_format=torch.channels_last)
    network.normalise = _Cast(normalise, dtype)
    network.L2Norm = _Cast(network.L2Norm.float(), dtype)
    if _can_pack(network.coder.priors.device, dtype):
        for module in modules:
            _pack(module)
    return network


def _fold_batch_norm(module):
    """Fold each batch norm that directly follows a convolution among a module's children."""
    for (name, child), (next_name, following) in pairwise(list(module.named_children())):
        if isinstance(child, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(child, following))
            setattr(module, next_name, nn.Identity())


def _can_pack(device, dtype):
    """Tell whether this PyTorch has `_PackedConv`'s calls for the device and dtype."""
    ops = torch.ops.mkldnn
    return (device.type == "cpu" and torch.backends.mkldnn.is_available()
            and hasattr(ops, "_convolution_pointwise") and (
                dtype == torch.float32 or ops._is_mkldnn_bf16_supported()))


def _pack(module):
    """Pack the convolutions among a module's children, with what follows them in a chain."""
    children = [(name, child) for name, child in module.named_children()
                if not isinstance(child, nn.Identity)]
    for (name, child), (next_name, following) in pairwise([*children, ("", None)]):
        if isinstance(child, nn.Conv2d):
            merges = isinstance(module, nn.Sequential) and type(following) in (nn.ReLU, nn.ReLU6)
            setattr(module, name, _PackedConv(child, following if merges else nn.Identity()))
            if merges:
                setattr(module, next_name, nn.Identity())
