"""VGG16 with its fully connected layers turned into convolutions."""

from torch import nn

# Output channels of the 3x3 convolutions; "M" halves the map, "C" halves it rounding up (75 -> 38).
LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512)


def make_vgg16():
    """Build VGG16 as SSD uses it (paper section 3, Caffe `VGGNetBody`).

    pool5 is 3x3 with stride 1, fc6 a 3x3 convolution with dilation 6, fc7 a 1x1 convolution.
    conv4_3 with its ReLU ends at layer 23, fc7 at layer 35.

    Returns:
        nn.Sequential of 35 layers, (B, 3, H, W) -> (B, 1024, H/16, W/16).
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
