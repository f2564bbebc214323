"""A small network that exports in a second, and a comparison of detections, for several tests."""

import cv2
import numpy as np
import torch
from torch import nn

from nets.ssd import Normalise
from utils.multibox.coder import BoxCoder
from utils.multibox.spec import SSDSpec

NAMES = ("cat", "dog", "owl")


class TinyNet(nn.Module):
    """Looks like an SSDNet from outside; exports in a second."""

    family, num_classes = "this project", len(NAMES) + 1

    def __init__(self, **changes):
        super().__init__()
        self.spec = SSDSpec(**{"input_shape": (64, 64), "grids": (8, 4), "steps": None,
                               "anchors_size": (10, 20, 40), "aspect_ratios": ((2,), (2, 3))}
                            | changes)
        self.normalise = Normalise(self.spec.mean, self.spec.std)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.loc = nn.ModuleList(nn.Conv2d(8, 4 * n, 1) for n in self.spec.priors_per_cell)
        self.conf = nn.ModuleList(nn.Conv2d(8, 4 * n, 1) for n in self.spec.priors_per_cell)
        self.coder = BoxCoder(self.spec)

    def forward(self, images):
        first = self.stem(self.normalise(images))
        return tuple(torch.cat([head(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))
                                for head, x in zip(heads, (first, self.pool(first)))], 1)
                     for heads in (self.loc, self.conf))


def images(count, spec, seed=0):
    """Return (B, S, S, 3) blurred noise as `prepare` would give it."""
    rng, size = np.random.default_rng(seed), (spec.size, spec.size)
    made = [cv2.resize(rng.uniform(0, 255, (12, 12, 3)), size) for _ in range(count)]
    return np.stack(made).astype("float32" if spec.resize.endswith("float32") else "uint8")


@torch.no_grad()
def unsaturated(network, *, offsets=1.0, scores=2.0):
    """Scale an untrained network's heads so that few scores or boxes are alike; return it.

    Most of its priors are background.
    """
    network.eval()
    x = torch.from_numpy(images(2, network.spec, seed=9)).permute(0, 3, 1, 2)
    for heads, output, wanted in zip((network.loc, network.conf), network(x), (offsets, scores)):
        sizes = [grid * grid * number for grid, number in zip(network.spec.grids,
                                                              network.spec.priors_per_cell)]
        for head, part in zip(heads, output.split(sizes, 1)):  # by map: their ranges differ
            head.weight.mul_(wanted / part.std())
    for head in network.conf:
        head.bias[::network.num_classes] += 2
    return network


def unmatched(one, other, size=1, *, pixels=0.1):
    """Return how many detections (boxes, scores, labels) of one lack their partner in the other.

    Boxes are fractions of `size` pixels.
    """
    one, other = ([torch.as_tensor(part) for part in parts] for parts in (one, other))
    apart = (one[0][:, None] - other[0]).abs().amax(-1) * size
    same = (apart < pixels) & (one[2][:, None] == other[2]) & (
        (one[1][:, None] - other[1]).abs() < 1e-3)
    return int((~same.any(1)).sum() + (~same.any(0)).sum()) + abs(len(one[1]) - len(other[1]))
