"""A detector with random weights and images to look at, for tests of what stands around it."""

import numpy as np
import torch
from PIL import Image

from nets.ssd import SSDNet, build_spec
from ssd import SSD, SSDSettings

NAMES = ("cat", "dog")


def tiny_detector(**settings):
    """Return an SSD on MobileNetV2 at 260 pixels, the same numbers every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SSDNet(len(NAMES) + 1, build_spec("mobilenetv2", 260))
    return SSD(SSDSettings(device="cpu", **settings), network=network, class_names=NAMES)


def photo(path, seed=0, size=(96, 64)):
    """Write a noisy image; return its path."""
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(levels).save(path)
    return path
