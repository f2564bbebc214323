"""What runs the network: the same outputs as the network itself, packed, in bf16, from threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from nets.runtimes.torch import TorchRuntime, inference_copy
from nets.ssd import SSDNet, build_spec
from utils.image import normalise, stack_inputs
from utils.multibox.postprocess import decode_scores


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
        batch = normalise(stack_inputs(list(images)).contiguous(), network.spec)
        return decode_scores(*network(batch), network.priors, network.spec)


@pytest.mark.parametrize("backbone, size", [("vgg", 300), ("mobilenetv2", 260), ("resnet50", 260)])
def test_the_copy_gives_the_networks_outputs(backbone, size):
    network = make_network(backbone, size)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copy = inference_copy(network, "fp32")
    with torch.inference_mode():
        for count in (1, 2, 1, 2, 2, 1):  # packed for the first, for 2 from its second in a row
            batch = normalise(stack_inputs(list(images_for(network, count, count))), network.spec)
            for found, expected in zip(copy(batch), network(batch)):
                assert (found - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("backbone", ["mobilenetv2", "resnet50"])
def test_nothing_of_batch_norm_is_left(backbone):
    copy = inference_copy(make_network(backbone, 300), "fp32")
    kinds = {type(module).__name__ for module in copy.modules()}
    assert not kinds & {"BatchNorm2d"} and not any(p.requires_grad for p in copy.parameters())


def test_bf16_is_near_fp32():
    network = make_network()
    images = images_for(network, 2)
    boxes, scores = TorchRuntime(network, "abc", precision="bf16", owned=True)(images)
    expected = plain_outputs(network, images)
    assert boxes.dtype == scores.dtype == torch.float32
    assert (boxes - expected[0]).abs().max() < 0.02 and (scores - expected[1]).abs().max() < 0.02
    assert not torch.equal(scores, expected[1])


def test_images_in_float32_and_tensors():
    network = make_network()
    runtime, images = TorchRuntime(network, "abc", precision="fp32", owned=True), images_for(
        network)
    for same in (images.astype(np.float32), torch.from_numpy(images)):
        assert all(map(torch.equal, runtime(same), runtime(images)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_six_threads_get_what_one_gets(precision):
    """Also where the first call, which prepares the copy, is one of them."""
    network = make_network()
    several = [images_for(network, seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(TorchRuntime(network, "abc", precision=precision, owned=True),
                                 several))
    runtime = TorchRuntime(network, "abc", precision=precision, owned=True)
    for images, found in zip(several, together):
        assert all(map(torch.equal, runtime(images), found))


def test_a_given_network_is_used_as_it_is():
    network = make_network().train()
    runtime, images = TorchRuntime(network, "abc", precision="fp32", owned=False), images_for(
        network)
    boxes, scores = runtime(images)
    assert network.training
    with torch.no_grad():
        network.conf[0].bias += 1
    assert not torch.equal(runtime(images)[1], scores)
