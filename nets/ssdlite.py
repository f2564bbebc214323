"""torchvision's SSDLite (Sandler et al., 2018, arXiv 1801.04381, 6.2) on MobileNetV3-Large."""

from functools import partial

from torch import nn

from utils.multibox.spec import SSDSpec

BATCH_NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
C4 = 13  # the block in which stride 16 becomes 32
EXTRA_CHANNELS = (512, 256, 256, 128)


def mobilenetv3_layers(spec: SSDSpec) -> nn.Sequential:
    """Return MobileNetV3-Large without classifier, in two parts that end where maps are taken.

    The first map is what block C4 expands its input to, in front of its stride (Howard et al.,
    2019, arXiv 1905.02244, section 6.3): (B, 672, H/16, W/16).
    """
    from torchvision.models import mobilenet_v3_large  # importing it takes a second or more
    features = mobilenet_v3_large(weights=None, norm_layer=BATCH_NORM,
                                  reduced_tail=spec.reduced_tail).features
    expansion, rest = features[C4].block[0], features[C4].block[1:]
    return nn.Sequential(features[:C4].append(expansion), nn.Sequential(rest, *features[C4 + 1:]))


def describe_tail(state_dict: dict) -> dict:
    """Return the fields of SSDSpec that weights decide: ImageNet's have the whole tail."""
    return {"reduced_tail": len(state_dict.get("mobilenetv3.1.0.3.0.weight", ())) != 160}


def ssdlite_extras(spec: SSDSpec) -> list[nn.Module]:
    """Return the blocks of the further maps: to half the channels, stride 2 in depth, and back."""
    blocks, channels = [], 480 if spec.reduced_tail else 960
    for out in EXTRA_CHANNELS:
        middle = out // 2
        blocks.append(nn.Sequential(_layer(channels, middle), _depthwise(middle, stride=2),
                                    _layer(middle, out)))
        channels = out
    return blocks


def ssdlite_head(channels: int, out: int) -> nn.Sequential:
    """Return a head on a map of so many channels: a depthwise layer, then a 1x1 convolution."""
    return nn.Sequential(_depthwise(channels, stride=1), nn.Conv2d(channels, out, 1))


def _depthwise(channels, stride):
    return _layer(channels, channels, 3, stride, padding=1, groups=channels)


def _layer(channels, out, kernel=1, stride=1, **options):
    return nn.Sequential(nn.Conv2d(channels, out, kernel, stride, bias=False, **options),
                         BATCH_NORM(out), nn.ReLU6(inplace=True))
