"""The backbones: one table. An entry is all that the project knows of a backbone."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from nets.ssdlite import describe_tail, mobilenetv3_layers, ssdlite_extras, ssdlite_head
from nets.vgg import decimate_classifier, make_vgg16
from utils.multibox.spec import SSDSpec

# Output channels, middle channels, kernel, stride and padding of pairs of extra convolutions.
EXTRAS_300 = ((512, 256, 3, 2, 1), (256, 128, 3, 2, 1), (256, 128, 3, 1, 0), (256, 128, 3, 1, 0))
EXTRAS_512 = ((512, 256, 3, 2, 1), *((256, 128, 3, 2, 1),) * 3, (256, 128, 4, 1, 1))
# Input channels, output channels and expansion of MobileNetV2's extra inverted residuals.
EXTRAS_MOBILENET = ((1280, 512, 0.2), (512, 256, 0.25), (256, 256, 0.5), (256, 64, 0.25))
TORCHVISION_FILES = "https://download.pytorch.org/models"
NETWORK_FIELDS = ("resnet_pool_padding", "reduced_tail")  # of SSDSpec: what layers depend on
VGG_STEPS = {300: (8, 16, 32, 64, 100, 300), 512: (8, 16, 32, 64, 128, 256, 512)}


def _convolution_blocks(spec: SSDSpec, in_channels: int = 1024) -> list[nn.Module]:
    """conv8_1 and conv8_2, and so on (paper fig. 2; conv6_1 .. in Caffe)."""
    blocks = []
    for out, middle, kernel, stride, padding in EXTRAS_300 if spec.size < 512 else EXTRAS_512:
        blocks.append(nn.Sequential(
            nn.Conv2d(in_channels, middle, 1), nn.ReLU(inplace=True),
            nn.Conv2d(middle, out, kernel, stride, padding), nn.ReLU(inplace=True)))
        in_channels = out
    return blocks


def _inverted_residuals(spec: SSDSpec) -> list[nn.Module]:
    """MobileNetV2's own block, at stride 2."""
    from torchvision.models.mobilenetv2 import InvertedResidual
    return [nn.Sequential(InvertedResidual(channels, out, 2, expansion), nn.ReLU(inplace=True))
            for channels, out, expansion in EXTRAS_MOBILENET]


@dataclass(frozen=True)
class Backbone:
    """A chain of layers, the extra blocks behind it, its priors and its ImageNet weights.

    Of a spec, `make_layers` and `make_extras` may use the size and NETWORK_FIELDS.
    """

    prefix: str  # of its tensors in the state dict
    make_layers: Callable[[SSDSpec], nn.Sequential]
    taps: tuple[int, int]  # a source map is taken behind this many layers
    make_extras: Callable[[SSDSpec], list[nn.Module]]  # a block for each further map
    num_pretrained: int  # leading layers that classification weights fill, frozen on demand
    imagenet: str  # address of torchvision's classification weights
    names: tuple[tuple[str, str], ...]  # (pattern of a tensor name of theirs, ours); see `rename`
    steps: Mapping[int, tuple[float, ...]]  # by input size; others: input size / grid
    size: int = 300  # of the input of published detectors with six maps
    scales: Mapping[int, tuple[float, ...]] | None = None  # by number of maps; None: the paper's
    # Number of maps -> ratios of each: 2 alone on the first and the last two (paper section 3.1).
    aspect_ratios: Callable[[int], tuple] = lambda maps: ((2,), *((2, 3),) * (maps - 3), (2,), (2,))
    convert: Callable[[dict], dict] = lambda tensors: {}  # tensors that need more than a new name
    unfilled: str = ""  # layers that classification weights may lack, for the user
    is_caffe: bool = False  # the ImageNet file is Caffe's, without a usable classifier
    has_l2norm: bool = True  # on the first map
    make_head: Callable[..., nn.Module] = partial(nn.Conv2d, kernel_size=3, padding=1)
    spec: Mapping = field(default_factory=dict)  # fields of SSDSpec that differ from the paper's
    describe: Callable[[dict], dict] = lambda tensors: {}  # fields that weights decide


def _mobilenet_layers(spec):
    """All of MobileNetV2 but its classifier."""
    from torchvision.models import mobilenet_v2  # importing it takes a second or more
    return mobilenet_v2(weights=None).features


def _resnet50_layers(spec):
    """ResNet50 up to its third stage: stride 8 and 16, as conv4_3 and fc7 of VGG16."""
    from torchvision.models import resnet50
    net = resnet50(weights=None)
    padding = spec.resnet_pool_padding
    pool = nn.MaxPool2d(3, 2, padding, ceil_mode=padding == 0)
    return nn.Sequential(net.conv1, net.bn1, net.relu, pool, net.layer1, net.layer2, net.layer3)


def rename(tensors: dict, rules: Iterable[tuple[str, str]]) -> dict:
    """Rename by the first (pattern, replacement) that fits; what none fits is left out."""
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in rules:
            if match := re.fullmatch(pattern, name):
                renamed[match.expand(replacement)] = value
                break
    return renamed


# Name in the settings and in SSDSpec -> Backbone.
BACKBONES = {
    "vgg": Backbone(
        "vgg", lambda spec: make_vgg16(), taps=(23, 35), make_extras=_convolution_blocks,
        # FEATURES are Caffe's convolutions, those SSD was made with.
        num_pretrained=30, is_caffe=True, steps=VGG_STEPS,
        imagenet=f"{TORCHVISION_FILES}/vgg16_features-amdegroot-88682ab5.pth",
        names=((r"(?:features\.)?(\d+\.(?:weight|bias))", r"vgg.\1"),),  # vgg16_reducedfc's too
        convert=decimate_classifier, unfilled="fc6 and fc7"),
    "mobilenetv2": Backbone(
        "mobilenet", _mobilenet_layers, taps=(14, 19), make_extras=_inverted_residuals,
        num_pretrained=19, imagenet=f"{TORCHVISION_FILES}/mobilenet_v2-b0353104.pth",
        names=((r"features\.(.+)", r"mobilenet.\1"),),
        aspect_ratios=lambda num_maps: ((2, 3),) * num_maps,
        steps={300: (16, 32, 64, 100, 150, 300)}),  # the first map is layer 13's, at stride 16
    "mobilenetv3": Backbone(
        "mobilenetv3", mobilenetv3_layers, taps=(1, 2), make_extras=ssdlite_extras,
        make_head=ssdlite_head, has_l2norm=False, num_pretrained=2, describe=describe_tail,
        imagenet=f"{TORCHVISION_FILES}/mobilenet_v3_large-8738ca79.pth", names=(
            (r"features\.(\d|1[0-2])\.(.+)", r"mobilenetv3.0.\1.\2"),
            (r"features\.13\.block\.0\.(.+)", r"mobilenetv3.0.13.\1"),
            (r"features\.13\.block\.(.+)", r"mobilenetv3.1.0.\1"),
            (r"features\.14\.(.+)", r"mobilenetv3.1.1.\1"),
            (r"features\.15\.(.+)", r"mobilenetv3.1.2.\1"),
            (r"features\.16\.(.+)", r"mobilenetv3.1.3.\1")),
        aspect_ratios=lambda num_maps: ((2, 3),) * num_maps, steps={}, size=320,
        scales={6: (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)},
        spec={"mean": (127.5,) * 3, "std": (127.5,) * 3, "prior_clip": "size"}),
    "resnet50": Backbone(
        "resnet", _resnet50_layers, taps=(6, 7), make_extras=_convolution_blocks,
        num_pretrained=7, steps=VGG_STEPS,
        imagenet=f"{TORCHVISION_FILES}/resnet50-0676ba61.pth", names=(
            (r"conv1\.(.+)", r"resnet.0.\1"), (r"bn1\.(.+)", r"resnet.1.\1"),
            (r"layer1\.(.+)", r"resnet.4.\1"), (r"layer2\.(.+)", r"resnet.5.\1"),
            (r"layer3\.(.+)", r"resnet.6.\1"))),
}
