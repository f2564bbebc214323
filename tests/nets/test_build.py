"""How scripts get networks: new ones, and checkpoints that are whole, crafted or damaged."""

import math

import pytest
import torch

from nets.build import continued_network, new_network, read_network
from nets.ssd import SSDNet, build_spec
from nets.vgg import make_vgg16
from utils.checkpoint import FORMAT
from utils.cli import UserError
from utils.multibox.spec import CAFFE_MEAN, IMAGENET_MEAN


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SSDNet(3, build_spec("mobilenetv2", 300))


@pytest.fixture
def write(network, tmp_path):
    """Return a function that writes a checkpoint with a state dict and gives its path."""
    def write(state):
        torch.save({"format": FORMAT, "spec": network.spec.to_dict(), "class_names": ["a", "b"],
                    "settings": {}, "progress": {}, "state_dict": state}, tmp_path / "c.pth")
        return tmp_path / "c.pth"
    return write


def test_a_whole_one_is_read(write, network, capsys):
    read, names = read_network(write(network.state_dict()))
    assert names == ("a", "b") and read.spec == network.spec
    assert all(torch.equal(value, network.state_dict()[name])
               for name, value in read.state_dict().items())
    assert "SSD300 with mobilenetv2" in capsys.readouterr().out


def test_other_classes_go_on_from_what_they_share(write, network, capsys):
    path = write(network.state_dict())
    more = continued_network(path, ("b", "c", "a"))
    rows = more.conf[0].weight.unflatten(0, (-1, 4))[:, [0, 3, 1]]
    assert torch.equal(rows, network.conf[0].weight.unflatten(0, (-1, 3)))
    assert "fresh: c" in capsys.readouterr().out
    assert continued_network(path, ("a", "b")).num_classes == 3


def vgg_file(path, classifier):
    """Write VGG16's convolutions with torchvision's names."""
    state = {f"features.{name}": value for name, value in make_vgg16()[:30].state_dict().items()}
    torch.save(state | classifier, path)
    return str(path)


@pytest.mark.parametrize("classifier", [
    {"classifier.0.weight": torch.full((4096, 4), math.nan)}, {}])
def test_caffes_vgg16_has_no_classifier_or_one_of_nan(tmp_path, capsys, classifier):
    network = new_network("vgg", 300, 2,
                          backbone_weights=vgg_file(tmp_path / "vgg.pth", classifier))
    printed = capsys.readouterr().out
    assert "random fc6 and fc7" in printed
    assert network.spec.mean == CAFFE_MEAN


def test_a_whole_vgg16_fills_fc6_and_fc7(tmp_path, capsys):
    shapes = {"classifier.0.weight": (4096, 25088), "classifier.0.bias": (4096,),
              "classifier.3.weight": (4096, 4096), "classifier.3.bias": (4096,)}
    zeros = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    network = new_network("vgg", 300, 2, backbone_weights=vgg_file(tmp_path / "vgg.pth", zeros))
    printed = capsys.readouterr().out
    assert "fc6 and fc7" not in printed
    assert not network.vgg[31].weight.any() and network.spec.mean == IMAGENET_MEAN


def test_backbone_files_without_counters_and_with_nan(tmp_path):
    from torchvision.models import resnet50
    state = {name: value for name, value in resnet50(weights=None).state_dict().items()
             if "num_batches_tracked" not in name}
    torch.save(state, tmp_path / "old.pth")
    network = new_network("resnet50", 300, 2, backbone_weights=str(tmp_path / "old.pth"))
    assert torch.equal(network.resnet[4][0].conv1.weight, state["layer1.0.conv1.weight"])
    state["layer1.0.conv1.weight"][0] = math.nan
    torch.save(state, tmp_path / "old.pth")
    with pytest.raises(UserError, match="resnet.4.0.conv1.weight holds nan"):
        new_network("resnet50", 300, 2, backbone_weights=str(tmp_path / "old.pth"))


@pytest.mark.parametrize("numbers", [
    {"anchors_size": (1, 2)}, {"aspect_ratios": (0,)}, {"size": 20}])
def test_settings_that_cannot_work_are_one_line(numbers):
    with pytest.raises(UserError, match="change it in the settings") as error:
        new_network("mobilenetv2", **({"size": 300} | numbers), num_classes=2, backbone_weights="")
    assert "\n" not in str(error.value)
