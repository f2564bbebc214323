"""New layers scaled on images: against a naive loop, and what must stay as it is."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nets.first_scale import scale_new_layers
from nets.ssd import Normalise
from utils.multibox.spec import SSDSpec

SIDE = 64
SPEC = SSDSpec(backbone="chain", input_shape=(SIDE, SIDE), grids=(8, 4, 2), steps=None,
               anchors_size=(14, 24, 36, 52), aspect_ratios=((2,),) * 3)


class Chain(nn.Module):
    """Layers with and without batch norm in front of two heads, for inputs of SPEC."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.spec = SPEC
        self.normalise = Normalise(SPEC.mean, SPEC.std)
        self.old = nn.Conv2d(3, 8, 3, padding=1)
        self.new = nn.ModuleList([nn.Conv2d(8, 16, 3, stride=2), nn.Conv2d(16, 16, 1)])
        self.normed = nn.Sequential(nn.Conv2d(16, 8, 3, bias=False), nn.BatchNorm2d(8))
        self.loc, self.conf = (nn.ModuleList([nn.Conv2d(8, out, 3)]) for out in (16, 20))

    def forward(self, x):
        x = self.old(self.normalise(x)).relu()
        for layer in (*self.new, self.normed):
            x = layer(x).relu()
        return self.loc[0](x), self.conf[0](x)


def as_images(paths):
    """Return (path, boxes) of images without objects."""
    return [(path, np.zeros((0, 4), np.float32)) for path in paths]


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(3):  # of the network's size: nothing is resized
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((SIDE, SIDE)).save(tmp_path / f"{k}.png")
    return sorted(tmp_path.glob("*.png"))


def network_input(path, spec):
    """Return the input that an image of the network's size makes."""
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


@torch.no_grad()
def scale_naively(network, batch, filled):
    """Run the whole network again for every layer, as the paper's algorithm 1 says."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None and name not in filled:
            seen = []
            hook = layer.register_forward_hook(lambda *call: seen.append(call[2]))
            network(batch)
            hook.remove()
            layer.weight *= (0.3 if name[:4] in ("loc.", "conf") else 1) / seen[0].std()
    return network


def test_one_pass_does_what_a_pass_a_layer_would(paths):
    network, naive = Chain(), Chain()
    factors = scale_new_layers(network, as_images(paths), {"old.weight"})
    assert list(factors) == ["new.0", "new.1", "loc.0", "conf.0"]
    scale_naively(naive, torch.stack([network_input(path, SPEC) for path in paths]), {"old"})
    for own, other in zip(network.parameters(), naive.parameters()):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-6)
    fresh = Chain()
    for name in ("old.weight", "old.bias", "normed.0.weight", "normed.1.weight"):
        assert torch.equal(network.get_parameter(name), fresh.get_parameter(name))
