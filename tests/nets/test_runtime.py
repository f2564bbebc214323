"""The copy that PyTorch runs: the outputs of the network itself, packed, in bf16, from threads."""


import numpy as np
import pytest
import torch
from torch import nn

from nets.runtimes.torch import TorchRuntime, inference_copy
from nets.ssd import SSDNet, build_spec
from utils.multibox.postprocess import decode_outputs


def make_network(backbone="mobilenetv2", size=260):
    """Return a network whose batch norms do something."""
    torch.manual_seed(0)
    network = SSDNet(4, build_spec(backbone, size))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.8, 1.2)
            for values in (module.bias, module.running_mean):
                nn.init.normal_(values, 0, 0.1)
    return network.eval()


def images_for(network, count=1, seed=0):
    size = network.spec.size
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def plain_outputs(network, images):
    """Return boxes and scores by the network as it is, in PyTorch's default layout."""
    with torch.no_grad():
        batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return decode_outputs(*network(batch), network.coder)


@pytest.mark.parametrize("backbone, size, counts", [
    ("vgg", 300, [1]), ("mobilenetv2", 260, [1, 2]), ("mobilenetv3", 260, [1]),
    ("resnet50", 260, [1])])
def test_the_copy_gives_the_networks_outputs(backbone, size, counts):
    network = make_network(backbone, size)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copy = inference_copy(network, "fp32")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    with torch.inference_mode():
        for count in counts:  # packed anew where the batch has another shape
            batch = torch.from_numpy(images_for(network, count, count)).permute(0, 3, 1, 2)
            for output, expected in zip(copy(batch), network(batch)):
                assert (output - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("owned", [True, False])
def test_bf16_is_near_fp32(owned):
    network = make_network()
    images = images_for(network, 2)
    boxes, scores = TorchRuntime(network, "abc", precision="bf16", owned=owned)(images)
    expected_boxes, expected_scores = plain_outputs(network, images)
    assert boxes.dtype == scores.dtype == torch.float32
    assert (boxes - expected_boxes).abs().max() < 0.02
    assert 0 < (scores - expected_scores).abs().max() < 0.02
