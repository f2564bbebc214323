"""The SSD network: backbone, extra layers, and the multibox heads on its feature maps."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from nets.backbones import BACKBONES, NETWORK_FIELDS, Backbone
from utils.multibox.coder import BoxCoder
from utils.multibox.spec import VOC_SCALES, SSDSpec


class Normalise(nn.Module):
    """RGB pixel values to what the backbone was trained with: subtract the mean, divide by std."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) of any number type -> (B, 3, H, W) float32."""
        return (images.float() - self.mean) / self.std


class L2Norm(nn.Module):
    """Normalise the features of a position, then scale each channel (ParseNet, section 3.1)."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 20.0))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W) in float32: bf16 is too coarse for sums of squares."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()  # unlike sqrt, vector_norm has a finite gradient at 0
            norm = torch.linalg.vector_norm(x, dim=1, keepdim=True) + self.eps
            return x / norm * self.weight[:, None, None]


class SSDNet(nn.Module):
    """SSD for a spec; `num_classes` is C, background included.

    State-dict names: `vgg.N` (or the prefix of another backbone), `L2Norm.weight`, `extras.K.*`,
    `loc.k`, `conf.k` (in SSDLite `loc.k.0.*` and `loc.k.1`). Raises ValueError where the grids of
    the spec are not the network's.
    """

    family = "this project"  # whose weights it has
    about = {}  # what their training stored with them, in plain types

    def __init__(self, num_classes: int, spec: SSDSpec):
        super().__init__()
        backbone = BACKBONES[spec.backbone]
        self.num_classes, self.spec = num_classes, spec
        self.normalise = Normalise(spec.mean, spec.std)
        layers = backbone.make_layers(spec)
        extras = nn.ModuleList(backbone.make_extras(spec))
        sources = dummy_maps(layers, backbone.taps, extras, spec.size)
        grids = tuple(source.shape[-1] for source in sources)
        if grids != spec.grids:
            raise ValueError(f"the feature maps are {grids}, the spec says {spec.grids}")
        self.add_module(backbone.prefix, layers)
        self.L2Norm = (L2Norm(sources[0].shape[1], spec.l2_eps) if backbone.has_l2norm
                       else nn.Identity())
        self.extras = extras
        heads = [(source.shape[1], priors) for source, priors in zip(sources, spec.priors_per_cell)]
        self.loc = nn.ModuleList(backbone.make_head(c, a * 4) for c, a in heads)
        self.conf = nn.ModuleList(backbone.make_head(c, a * num_classes) for c, a in heads)
        self.coder = BoxCoder(spec)
        for module in self.modules():
            _initialise(module)

    @property
    def backbone_entry(self) -> Backbone:
        """The backbone's entry in the table."""
        return BACKBONES[self.spec.backbone]

    @property
    def backbone(self) -> nn.Sequential:
        """The backbone's layers."""
        return getattr(self, self.backbone_entry.prefix)

    @property
    def pretrained_layers(self) -> nn.Sequential:
        """The part of the backbone that classification weights fill."""
        return self.backbone[:self.backbone_entry.num_pretrained]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return raw loc (B, P, 4) and conf (B, P, C), float32, in the order of `make_priors`.

        `images` are (B, 3, S, S) RGB pixel values 0 to 255, uint8 or float.
        """
        x = self.normalise(images)
        sources = feature_maps(x, self.backbone, self.backbone_entry.taps, self.extras)
        sources[0] = self.L2Norm(sources[0])
        return _predict(self.loc, sources, 4), _predict(self.conf, sources, self.num_classes)


def _initialise(module):
    """Caffe's Xavier, uniform up to sqrt(3 / fan_in); He weights in front of batch norm."""
    if isinstance(module, nn.Conv2d) and module.bias is None:
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
        nn.init.zeros_(module.bias)


def feature_maps(x: torch.Tensor, layers: nn.Sequential, taps: Sequence[int],
                 extras: Iterable[nn.Module]) -> list[torch.Tensor]:
    """Return the maps after `taps` layers of the backbone, and after each extra block."""
    maps = []
    for start, end in zip((0, *taps), taps):
        x = layers[start:end](x)
        maps.append(x)
    for block in extras:
        x = block(x)
        maps.append(x)
    return maps


def _predict(heads, sources, num_outputs):
    """Return (B, P, num_outputs) of heads whose maps are (B, A * num_outputs, H, W)."""
    maps = [head(source).permute(0, 2, 3, 1) for head, source in zip(heads, sources)]
    return torch.cat([x.reshape(x.shape[0], -1, num_outputs) for x in maps], 1).float()


@torch.no_grad()
def dummy_maps(layers: nn.Sequential, taps: Sequence[int], extras: nn.ModuleList, size: int
               ) -> list[torch.Tensor]:
    """Return the feature maps of an empty batch, (0, C, H, W); leaves new layers in train mode."""
    maps = feature_maps(torch.empty(0, 3, size, size), layers.eval(), taps, extras.eval())
    layers.train()
    extras.train()
    return maps


def build_spec(backbone: str, size: int, *, scales: Mapping = VOC_SCALES,
               anchors_size: Sequence[float] = (), aspect_ratios: Sequence[float] = (),
               **changes: Any) -> SSDSpec:
    """Return the spec of a backbone for any square input, with grids from the network itself.

    SSD512's extra layers come from 512 pixels on. `anchors_size` (pixels) and `aspect_ratios` (on
    every map) are of the priors, () the paper's; `scales` are those of priors where the backbone
    has none of its own, by number of maps; `changes` are fields of SSDSpec. Raises ValueError for
    an unknown backbone or a size that leaves a layer without input.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone must be one of {tuple(BACKBONES)}, got {backbone!r}")
    entry, grids = BACKBONES[backbone], ()
    changes = {**entry.spec, **changes}
    draft = SSDSpec(backbone, (size, size), **{name: changes[name] for name in NETWORK_FIELDS
                                               if name in changes})
    with torch.random.fork_rng(devices=[]):  # the weights of this network are not used
        layers = entry.make_layers(draft)
        extras = nn.ModuleList(entry.make_extras(draft))
    with suppress(RuntimeError):  # a kernel is larger than its input
        grids = tuple(x.shape[-1] for x in dummy_maps(layers, entry.taps, extras, size))
    if not grids or len(set(grids)) < len(grids):
        raise ValueError(f"input_shape {size} is too small for {backbone}; 300 always works")
    scales = (entry.scales or scales)[len(grids)]
    ratios = (tuple(aspect_ratios),) * len(grids) if aspect_ratios else entry.aspect_ratios(
        len(grids))
    values = {"aspect_ratios": ratios, "steps": entry.steps.get(size), "anchors_size":
              tuple(anchors_size) or tuple(round(scale * size, 2) for scale in scales)}
    return SSDSpec(backbone, (size, size), grids, **(values | changes))
