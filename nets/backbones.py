"""The backbones: one table, an entry of which is all that the project knows of one of them.

torchvision is imported by those that are made of its layers alone: it takes a second or more.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

from torch import nn

from nets.vgg import decimate_classifier, make_vgg16

# Output channels, middle channels, kernel, stride and padding of pairs of extra convolutions.
EXTRAS_300 = ((512, 256, 3, 2, 1), (256, 128, 3, 2, 1), (256, 128, 3, 1, 0), (256, 128, 3, 1, 0))
EXTRAS_512 = ((512, 256, 3, 2, 1), *((256, 128, 3, 2, 1),) * 3, (256, 128, 4, 1, 1))
# Output channels and expansion of MobileNetV2's extra inverted residuals.
EXTRAS_MOBILENET = ((512, 0.2), (256, 0.25), (256, 0.5), (64, 0.25))

TORCHVISION_FILES = "https://download.pytorch.org/models"
VGG_STEPS = {300: (8, 16, 32, 64, 100, 300), 512: (8, 16, 32, 64, 128, 256, 512)}


def _two_convolutions(in_channels, out, middle, kernel, stride, padding):
    """conv8_1 and conv8_2, and so on (paper fig. 2; conv6_1 .. in Caffe)."""
    return [nn.Conv2d(in_channels, middle, 1),
            nn.Conv2d(middle, out, kernel, stride=stride, padding=padding)]


@dataclass(frozen=True)
class Backbone:
    """A chain of layers, the extra layers behind it, its priors and its ImageNet weights."""

    prefix: str  # of its tensors in the state dict
    layers: Callable[[int], nn.Sequential]  # takes the spec's resnet_pool_padding
    taps: tuple[int, int]  # a source map is taken after this many layers; the first is normalised
    channels: tuple[int, int]  # of the maps at the taps
    num_pretrained: int  # leading layers that classification weights fill, frozen on demand
    imagenet: str  # where torchvision's classification weights are
    names: tuple[tuple[str, str], ...]  # (pattern of a tensor name of theirs, ours); see `rename`
    # Input size -> one entry a map. The defaults here and below are the paper's for VGG16.
    extra_shapes: Callable[[int], tuple] = lambda size: EXTRAS_300 if size < 512 else EXTRAS_512
    # (input channels, *shape) -> layers of a map; a shape begins with the output channels
    extra_layers: Callable[..., list[nn.Module]] = _two_convolutions
    # Number of maps -> the ratios of each: 2 only on the first and the last two (section 3.1).
    aspect_ratios: Callable[[int], tuple] = lambda maps: ((2,), *((2, 3),) * (maps - 3), (2,), (2,))
    # Input size -> nominal steps; others: input size / grid.
    steps: Mapping[int, tuple[float, ...]] = field(default_factory=lambda: VGG_STEPS)
    convert: Callable[[dict], dict] = lambda values: {}  # tensors that take more than a new name
    unfilled: str = ""  # layers that classification weights may lack, for the user
    is_caffe: bool = False  # the ImageNet file is Caffe's, without a classifier of numbers

    def source_channels(self, size: int) -> tuple[int, ...]:
        """Return the channels of all source maps."""
        return (*self.channels, *(shape[0] for shape in self.extra_shapes(size)))

    def make_extras(self, size: int) -> tuple[nn.ModuleList, int]:
        """Return the extra layers, and how many of them make one map."""
        groups = [self.extra_layers(channels, *shape) for channels, shape
                  in zip(self.source_channels(size)[1:], self.extra_shapes(size))]
        return nn.ModuleList(chain(*groups)), len(groups[0])


def _mobilenet_layers(pool_padding):
    """All of MobileNetV2 but its classifier."""
    from torchvision.models import mobilenet_v2
    return mobilenet_v2(weights=None).features


def _inverted_residual(in_channels, out, expansion):
    """MobileNetV2's own block, at stride 2."""
    from torchvision.models.mobilenetv2 import InvertedResidual
    return [InvertedResidual(in_channels, out, 2, expansion)]


def _resnet50_layers(pool_padding):
    """ResNet50 up to its third stage: stride 8 and 16, as conv4_3 and fc7 of VGG16."""
    from torchvision.models import resnet50
    net = resnet50(weights=None)
    pool = nn.MaxPool2d(3, 2, pool_padding, ceil_mode=pool_padding == 0)
    return nn.Sequential(net.conv1, net.bn1, net.relu, pool, net.layer1, net.layer2, net.layer3)


def rename(tensors: dict, rules: Iterable[tuple[str, str]]) -> dict:
    """Rename by the first (pattern, replacement) that fits; what none fits is left out."""
    renamed = {}
    for name, value in tensors.items():
        found = next((m.expand(new) for old, new in rules if (m := re.fullmatch(old, name))), None)
        if found:
            renamed[found] = value
    return renamed


# Name in the settings and in SSDSpec -> Backbone.
BACKBONES = {
    "vgg": Backbone(
        "vgg", lambda pool_padding: make_vgg16(), taps=(23, 35), channels=(512, 1024),
        # FEATURES are Caffe's convolutions, those SSD was made with.
        num_pretrained=30, is_caffe=True,
        imagenet=f"{TORCHVISION_FILES}/vgg16_features-amdegroot-88682ab5.pth",
        names=((r"(?:features\.)?(\d+\.(?:weight|bias))", r"vgg.\1"),),  # vgg16_reducedfc's too
        convert=decimate_classifier, unfilled="fc6 and fc7"),
    "mobilenetv2": Backbone(
        "mobilenet", _mobilenet_layers, taps=(14, 19), channels=(96, 1280), num_pretrained=19,
        imagenet=f"{TORCHVISION_FILES}/mobilenet_v2-b0353104.pth",
        names=((r"features\.(.+)", r"mobilenet.\1"),),
        extra_shapes=lambda size: EXTRAS_MOBILENET,
        extra_layers=_inverted_residual,
        aspect_ratios=lambda maps: ((2, 3),) * maps,
        steps={300: (16, 32, 64, 100, 150, 300)}),  # the first map is layer 13's, at stride 16
    "resnet50": Backbone(
        "resnet", _resnet50_layers, taps=(6, 7), channels=(512, 1024), num_pretrained=7,
        imagenet=f"{TORCHVISION_FILES}/resnet50-0676ba61.pth", names=(
            (r"conv1\.(.+)", r"resnet.0.\1"), (r"bn1\.(.+)", r"resnet.1.\1"),
            (r"layer1\.(.+)", r"resnet.4.\1"), (r"layer2\.(.+)", r"resnet.5.\1"),
            (r"layer3\.(.+)", r"resnet.6.\1"))),
}
