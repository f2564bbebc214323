"""VGG16 with its fully connected layers turned into convolutions."""

from torch import nn

# Output channels of the 3x3 convolutions; "M" halves the map, "C" halves it rounding up (75 -> 38).
LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512)


def make_vgg16() -> nn.Sequential:
    """Build VGG16 as SSD uses it (paper section 3, Caffe `VGGNetBody`).

    pool5 is 3x3 with stride 1, fc6 a 3x3 convolution with dilation 6, fc7 a 1x1 convolution.
    Of the 35 layers conv4_3 with its ReLU ends at layer 23, fc7 at 35: (B, 1024, H/16, W/16).
    """
    layers, channels = [], 3
    for item in LAYERS:
        if item in ("M", "C"):
            layers.append(nn.MaxPool2d(2, ceil_mode=item == "C"))
        else:
            layers += [nn.Conv2d(channels, item, 3, padding=1), nn.ReLU(inplace=True)]
            channels = item
    layers += [nn.MaxPool2d(3, stride=1, padding=1),
               nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(inplace=True),
               nn.Conv2d(1024, 1024, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def decimate_classifier(values: dict) -> dict:
    """Turn the fully connected layers of a whole VGG16 into conv6 and conv7 (paper section 3).

    Of fc6's 7x7 window every third row and column is kept, of all outputs every fourth. `values`
    has torchvision's names, the result ours; it is empty without such a classifier, or for one of
    NaN as in torchvision's IMAGENET1K_FEATURES.
    """
    shapes = {"classifier.0.weight": (4096, 25088), "classifier.0.bias": (4096,),
              "classifier.3.weight": (4096, 4096), "classifier.3.bias": (4096,)}
    if not all(name in values and values[name].shape == shape
               and values[name].isfinite().all() for name, shape in shapes.items()):
        return {}
    fc6, fc6_bias, fc7, fc7_bias = (values[name] for name in shapes)
    fc6 = fc6.unflatten(1, (512, 7, 7))[::4, :, ::3, ::3]  # (1024, 512, 3, 3)
    fc7 = fc7[::4, ::4, None, None]  # (1024, 1024, 1, 1)
    return {"vgg.31.weight": fc6, "vgg.31.bias": fc6_bias[::4],
            "vgg.33.weight": fc7, "vgg.33.bias": fc7_bias[::4]}
