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
    channels: tuple[int, ...]  # of the source maps
    extras: nn.ModuleList
    extras_per_source: int  # a source map is taken after every so many extra layers
    num_pretrained: int  # leading layers that classification weights fill, frozen on demand


# Middle and output channels, kernel, stride and padding of each pair of extra convolutions.
EXTRAS_300 = ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0))
EXTRAS_512 = ((256, 512, 3, 2, 1), *((128, 256, 3, 2, 1),) * 3, (128, 256, 4, 1, 1))


def vgg_extras(in_channels, shapes):
    """Return conv8_1, conv8_2 and so on (paper fig. 2; conv6_1 .. in Caffe)."""
    layers = []
    for middle, out, kernel, stride, padding in shapes:
        layers += [nn.Conv2d(in_channels, middle, 1),
                   nn.Conv2d(middle, out, kernel, stride=stride, padding=padding)]
        in_channels = out
    return nn.ModuleList(layers)


def mobilenet_extras():
    """Return the four stride-2 inverted residuals that follow MobileNetV2's last layer."""
    shapes = ((1280, 512, 0.2), (512, 256, 0.25), (256, 256, 0.5), (256, 64, 0.25))
    return nn.ModuleList(InvertedResidual(inp, out, 2, ratio) for inp, out, ratio in shapes)


def _with_vgg_extras(size, name, layers, taps, num_pretrained):
    """Return a Backbone whose maps of 512 and 1024 channels are followed by VGG16's extras."""
    shapes = EXTRAS_300 if size < 512 else EXTRAS_512
    channels = (512, 1024, *(out for _, out, *_ in shapes))
    return Backbone(name, layers, taps, channels, vgg_extras(1024, shapes),
                    extras_per_source=2, num_pretrained=num_pretrained)


def _vgg(size, pool_padding):
    return _with_vgg_extras(size, "vgg", make_vgg16(), (23, 35), num_pretrained=30)


def _mobilenetv2(size, pool_padding):
    return Backbone("mobilenet", mobilenet_v2(weights=None).features, (14, 19),
                    (96, 1280, 512, 256, 256, 64), mobilenet_extras(),
                    extras_per_source=1, num_pretrained=19)


def _resnet50(size, pool_padding):
    """ResNet50 up to its third stage: stride 8 and 16, as conv4_3 and fc7 of VGG16."""
    net = resnet50(weights=None)
    pool = nn.MaxPool2d(3, 2, pool_padding, ceil_mode=pool_padding == 0)
    layers = nn.Sequential(net.conv1, net.bn1, net.relu, pool,
                           net.layer1, net.layer2, net.layer3)
    return _with_vgg_extras(size, "resnet", layers, (6, 7), num_pretrained=7)


# Name in the settings -> builder taking the input's side and ResNet's pool padding.
BACKBONES = {"vgg": _vgg, "mobilenetv2": _mobilenetv2, "resnet50": _resnet50}
