"""The SSD network: backbone, extra layers, and the multibox heads on its feature maps."""

import torch
import torch.nn.functional as F
from torch import nn

from nets.backbones import BACKBONES, Backbone
from utils.multibox.priors import make_priors
from utils.multibox.spec import MAX_INPUT, VOC_SCALES, SSDSpec

L2NORM_SCALE = 20.0  # initial value (paper section 3.1)


class L2Norm(nn.Module):
    """Scale each position's feature vector to a learned length (ParseNet, paper section 3.1)."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), L2NORM_SCALE))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W) in float32: squares of bf16 features lose their sum."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            # Unlike sqrt, vector_norm has a finite gradient where all features are zero.
            norm = torch.linalg.vector_norm(x, dim=1, keepdim=True) + self.eps
            return x / norm * self.weight[:, None, None]


class SSDNet(nn.Module):
    """SSD for a spec.

    State-dict names are the field's usual ones: `vgg.N` (or `mobilenet.*`, `resnet.*`),
    `L2Norm.weight`, `extras.N`, `loc.k`, `conf.k`. `num_classes` is C, background included; the
    grids of `spec` must be those of the network. `family` says whose weights it got.
    """

    family = "this project"

    def __init__(self, num_classes: int, spec: SSDSpec):
        super().__init__()
        parts = BACKBONES[spec.backbone]
        self.num_classes, self.spec = num_classes, spec
        self.add_module(parts.prefix, parts.layers(spec.resnet_pool_padding))
        self.L2Norm = L2Norm(parts.channels[0], spec.l2_eps)
        self.extras, self.extras_per_source = parts.make_extras(spec.size)
        heads = list(zip(parts.source_channels(spec.size), spec.priors_per_cell))
        self.loc = nn.ModuleList(nn.Conv2d(c, a * 4, 3, padding=1) for c, a in heads)
        self.conf = nn.ModuleList(nn.Conv2d(c, a * num_classes, 3, padding=1) for c, a in heads)
        # On the meta device names and shapes are asked for alone; priors would take its compiler.
        priors = torch.empty(0, 4) if self.loc[0].weight.is_meta else make_priors(spec)
        self.register_buffer("priors", priors, persistent=False)  # (P, 4) cxcywh
        for module in self.modules():
            _initialise(module)

    @property
    def parts(self) -> Backbone:
        """The table's entry for the backbone."""
        return BACKBONES[self.spec.backbone]

    @property
    def backbone(self) -> nn.Sequential:
        """The backbone's layers."""
        return getattr(self, self.parts.prefix)

    @property
    def pretrained_layers(self) -> nn.Sequential:
        """The part of the backbone that classification weights fill."""
        return self.backbone[:self.parts.num_pretrained]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the raw outputs, in train and eval mode alike.

        `x` is (B, 3, S, S), normalised by the spec; loc (B, P, 4) and conf (B, P, C) are float32,
        priors in the order of `make_priors`.
        """
        sources = _feature_maps(x, self.backbone, self.parts.taps, self.extras,
                                self.extras_per_source)
        grids = tuple(source.shape[-1] for source in sources)
        if grids != self.spec.grids:
            raise ValueError(f"the feature maps are {grids}, the spec says {self.spec.grids}")
        sources[0] = self.L2Norm(sources[0])
        return _predict(self.loc, sources, 4), _predict(self.conf, sources, self.num_classes)


def _feature_maps(x, layers, taps, extras, extras_per_source):
    """Return the maps at the taps of the backbone and after its extra layers."""
    maps = []
    for start, end in zip((0, *taps), taps):
        x = layers[start:end](x)
        maps.append(x)
    for k, layer in enumerate(extras, start=1):
        x = F.relu(layer(x))
        if k % extras_per_source == 0:
            maps.append(x)
    return maps


def _predict(heads, sources, numbers):
    """Return (B, P, numbers) of heads whose maps are (B, A * numbers, H, W)."""
    maps = [head(source).permute(0, 2, 3, 1) for head, source in zip(heads, sources)]
    return torch.cat([x.reshape(x.shape[0], -1, numbers) for x in maps], 1).float()


def feature_grids(backbone: str, size: int, resnet_pool_padding: int = 1) -> tuple[int, ...]:
    """Return the sides of the feature maps, by arithmetic; () for too small an input.

    PyTorch's meta device would tell them too, and bring SymPy, Triton and its compiler along.
    """
    parts = BACKBONES[backbone]
    with torch.device("meta"):
        layers = parts.layers(resnet_pool_padding)
        extras, extras_per_source = parts.make_extras(size)
    chunks = [layers[start:end] for start, end in zip((0, *parts.taps), parts.taps)]
    chunks += [extras[k:k + extras_per_source] for k in range(0, len(extras), extras_per_source)]
    grids = []
    for chunk in chunks:
        size = _side_after(chunk, size)
        grids.append(size)
    return tuple(grids) if min(grids) > 0 else ()


def _side_after(layers, side):
    """Return the side of a square map behind layers, below 1 where nothing is left of it."""
    for name, layer in layers.named_modules():
        # What runs beside other layers ends at their size.
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)) and "downsample" not in name:
            kernel, stride, padding, dilation = (
                value[0] if isinstance(value, tuple) else value for value in
                (layer.kernel_size, layer.stride, layer.padding, layer.dilation))
            room = side + 2 * padding - dilation * (kernel - 1) - 1
            rounds_up = getattr(layer, "ceil_mode", False)
            side = (-(-room // stride) if rounds_up else room // stride) + 1
            if rounds_up and (side - 1) * stride >= room + dilation * (kernel - 1) + 1 - padding:
                side -= 1  # PyTorch drops a window that begins beyond the map
    return side


def build_spec(backbone: str, size: int, *, scales: dict = VOC_SCALES, **changes) -> SSDSpec:
    """Return the paper's spec for any square input, with grids taken from the network itself.

    `size` is in pixels: SSD512's extra layers from 512 on, SSD300's below. `scales` are VOC_SCALES
    or COCO_SCALES, `changes` fields of SSDSpec that differ. Raises ValueError for an unknown
    backbone, a size that leaves a layer without input, or changes that contradict each other.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone must be one of {tuple(BACKBONES)}, got {backbone!r}")
    if not 0 < size <= MAX_INPUT:
        raise ValueError(f"input_shape must lie in 1..{MAX_INPUT}, got ({size}, {size})")
    grids = feature_grids(backbone, size, changes.get("resnet_pool_padding", 1))
    if not grids or len(set(grids)) < len(grids):
        raise ValueError(f"input_shape ({size}, {size}) is too small for {backbone}: the last "
                         "feature maps vanish or repeat; 300 always works")
    parts = BACKBONES[backbone]
    values = {"backbone": backbone, "input_shape": (size, size), "grids": grids,
              "steps": parts.steps.get(size), "aspect_ratios": parts.aspect_ratios(len(grids)),
              "anchors_size": tuple(round(scale * size, 2) for scale in scales[len(grids)])}
    return SSDSpec(**(values | changes))


def _initialise(module):
    """Xavier weights for plain convolutions, as in Caffe's SSD; batch norm keeps its 1 and 0.

    Depthwise and bias-free convolutions belong to batch-norm networks and get He weights.
    """
    if isinstance(module, nn.Conv2d):
        if module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
