"""The backbones and the extra layers that follow each of them."""

from typing import NamedTuple

from torch import nn
from torchvision.models import mobilenet_v2, resnet50
from torchvision.models.mobilenetv2 import InvertedResidual

from nets.vgg import make_vgg16


class Backbone(NamedTuple):
    """A backbone cut into a chain of layers, and what SSD adds behind it."""

    name: str  # prefix of its tensors in the state dict
    layers: nn.Sequential
    taps: tuple[int, int]  # a source map is taken after this many layers; the first is normalised
    channels: tuple[int, ...]  # of the six source maps
    extras: nn.ModuleList
    extras_per_source: int  # a source map is taken after every so many extra layers
    num_pretrained: int  # leading layers that classification weights fill, frozen on demand


def vgg_extras(in_channels):
    """Return conv8_1 .. conv11_2 of SSD300 (paper fig. 2; conv6_1 .. conv9_2 in Caffe)."""
    shapes = ((256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 1, 0), (128, 256, 1, 0))
    layers = []
    for middle, out, stride, padding in shapes:
        layers += [nn.Conv2d(in_channels, middle, 1),
                   nn.Conv2d(middle, out, 3, stride=stride, padding=padding)]
        in_channels = out
    return nn.ModuleList(layers)


def mobilenet_extras():
    """Return the four stride-2 inverted residuals that follow MobileNetV2's last layer."""
    shapes = ((1280, 512, 0.2), (512, 256, 0.25), (256, 256, 0.5), (256, 64, 0.25))
    return nn.ModuleList(InvertedResidual(inp, out, 2, ratio) for inp, out, ratio in shapes)


def _vgg(spec):
    return Backbone("vgg", make_vgg16(), (23, 35), (512, 1024, 512, 256, 256, 256),
                    vgg_extras(1024), extras_per_source=2, num_pretrained=30)


def _mobilenetv2(spec):
    return Backbone("mobilenet", mobilenet_v2(weights=None).features, (14, 19),
                    (96, 1280, 512, 256, 256, 64), mobilenet_extras(),
                    extras_per_source=1, num_pretrained=19)


def _resnet50(spec):
    """ResNet50 up to its third stage: stride 8 and 16, as conv4_3 and fc7 of VGG16."""
    net = resnet50(weights=None)
    pool = nn.MaxPool2d(3, 2, spec.resnet_pool_padding, ceil_mode=spec.resnet_pool_padding == 0)
    layers = nn.Sequential(net.conv1, net.bn1, net.relu, pool,
                           net.layer1, net.layer2, net.layer3)
    return Backbone("resnet", layers, (6, 7), (512, 1024, 512, 256, 256, 256),
                    vgg_extras(1024), extras_per_source=2, num_pretrained=7)


# Name in the settings -> builder taking a spec.
BACKBONES = {"vgg": _vgg, "mobilenetv2": _mobilenetv2, "resnet50": _resnet50}
