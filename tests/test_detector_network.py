"""A detector around a network in memory: used as it is, left as it was found."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from nets.ssd import SSDNet, build_spec
from ssd import SSD, SSDSettings
from utils.data.annotations import Record

CPU = SSDSettings(device="cpu", confidence=0.3)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SSDNet(3, build_spec("mobilenetv2", 300))


def image():
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def state_of(network):
    """Return all that a detector might change: modes, strides, gradients, hooks, statistics."""
    return ([module.training for module in network.modules()],
            [(p.stride(), p.device, p.requires_grad, p.data_ptr()) for p in network.parameters()],
            [len(module._forward_hooks) for module in network.modules()],
            [value.clone() for name, value in network.named_buffers() if "running" in name])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_given_network_is_left_as_it_was_found(network, layout, tmp_path):
    network = network.to(memory_format=layout).train()
    network.backbone[:3].eval()  # frozen layers keep their mode
    network.extras.register_forward_hook(lambda *args: None)
    before = state_of(network)
    detector = SSD(CPU, network=network, class_names=("a", "b"))
    detector.detect(image())
    path = tmp_path / "a.png"
    Image.fromarray(image()).save(path)
    detector.evaluate([Record(path, np.zeros((0, 4), np.float32), np.zeros(0, np.int64),
                              np.zeros(0, bool))])
    after = state_of(network)
    assert before[:3] == after[:3] and detector.network is network
    assert all(torch.equal(one, other) for one, other in zip(before[3], after[3]))


def test_detections_are_those_of_eval_mode_and_follow_the_weights(network):
    detector = SSD(CPU, network=network.train(), class_names=("a", "b"))
    first = detector.detect(image())
    assert len(first.scores)
    in_eval = SSD(CPU, network=network.eval(), class_names="ab")
    for one, other in zip(first, in_eval.detect(image())):
        np.testing.assert_array_equal(one, other)
    with torch.no_grad():
        for head in network.conf:
            head.bias[::3].add_(1)  # background
    assert not np.array_equal(detector.detect(image()).scores, first.scores)


def test_threads_on_a_network_in_training_see_eval_mode(network):
    detector, found = SSD(CPU, network=network.train(), class_names="ab"), []
    threads = [threading.Thread(target=lambda: found.append(detector.detect(image())))
               for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and all(module.training for module in network.modules())
    for other in found[1:]:
        np.testing.assert_array_equal(other.scores, found[0].scores)


def test_a_network_that_does_not_fit_is_the_callers_mistake(network):
    with pytest.raises(ValueError, match="has 2 classes, class_names are"):
        SSD(CPU, network=network, class_names=("a",))
    with pytest.raises(ValueError, match="lies on meta, the settings say 'cpu'"):
        SSD(CPU, network=network.to("meta"), class_names="ab")
