from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, mobilenet_v3_large, resnet50, vgg

from nets.backbones import BACKBONES
from nets.build import new_network
from nets.ssd import L2Norm, SSDNet, build_spec
from nets.vgg import decimate_classifier
from nets.weights.transfer import load_backbone
from nets.weights.weight_files import read_backbone
from utils.cli import UserError


@pytest.mark.parametrize("backbone, priors", [("vgg", 8732), ("mobilenetv2", 3000),
                                              ("mobilenetv3", 3000), ("resnet50", 8732)])
def test_outputs_have_one_row_a_prior(backbone, priors):
    net = SSDNet(3, build_spec(backbone, 300)).eval()
    with torch.no_grad():
        loc, conf = net(torch.randint(0, 256, (1, 3, 300, 300), dtype=torch.uint8))
    assert loc.shape == (1, priors, 4) and conf.shape == (1, priors, 3)
    assert len(net.coder.priors) == priors


def test_l2norm_stays_finite_at_zero_and_fp32_under_autocast():
    layer = L2Norm(4, 1e-10)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 4, 2, 2).bfloat16()).dtype == torch.float32
    dead = torch.zeros(1, 4, 2, 2, requires_grad=True)  # what ReLU may leave at a position
    layer(dead).sum().backward()
    assert layer(dead).isfinite().all() and dead.grad.isfinite().all()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_torchvision_files_fill_the_backbone(backbone, tmp_path):
    if backbone == "vgg":  # without its classifier, which is large and does not matter here
        net = nn.Module()
        net.features = vgg.make_layers(vgg.cfgs["D"])
    else:
        net = {"mobilenetv2": mobilenet_v2, "mobilenetv3": mobilenet_v3_large,
               "resnet50": resnet50}[backbone](weights=None)
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("classifier")}
    torch.save(state, tmp_path / "weights.pth")
    weights, _ = read_backbone(tmp_path / "weights.pth", backbone)
    ours = new_network(backbone, 300, 2, backbone_weights=str(tmp_path / "weights.pth"))
    assert load_backbone(ours, weights) == len(weights) or backbone == "resnet50"
    x = torch.randn(1, 3, 96, 96)
    ours.eval(), net.eval()
    with torch.no_grad():
        if backbone == "resnet50":
            theirs = net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x))))))
        else:
            # pool3 rounds up in SSD: only what comes before it is the same in VGG16.
            theirs = net.features[:{"vgg": 16, "mobilenetv2": 14, "mobilenetv3": 17}[backbone]](x)
        depth = {"vgg": 16, "mobilenetv2": 14, "mobilenetv3": 2, "resnet50": 6}[backbone]
        torch.testing.assert_close(ours.backbone[:depth](x), theirs)


def test_fc6_and_fc7_are_decimated(tmp_path):
    shapes = {"classifier.0.weight": (4096, 25088), "classifier.0.bias": (4096,),
              "classifier.3.weight": (4096, 4096), "classifier.3.bias": (4096,)}
    full = {name: torch.rand(shape[-1:]) + torch.rand(shape[:-1])[..., None]
            for name, shape in shapes.items()}
    ours = decimate_classifier(full)
    window = full["classifier.0.weight"].view(4096, 512, 7, 7)
    assert ours["vgg.31.weight"].shape == (1024, 512, 3, 3)
    assert ours["vgg.31.weight"][5, 7, 2, 1] == window[20, 7, 6, 3]
    assert ours["vgg.33.weight"].shape == (1024, 1024, 1, 1)
    assert ours["vgg.33.weight"][3, 9, 0, 0] == full["classifier.3.weight"][12, 36]
    assert ours["vgg.33.bias"][1023] == full["classifier.3.bias"][4092]
    assert decimate_classifier(full | {"classifier.0.bias": torch.full((4096,), torch.nan)}) == {}


def test_no_internet_names_address_and_place(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no route")
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    message = r"https://\S+vgg16_features\S*\.pth could.*\n.*model_data/"
    with pytest.raises(UserError, match=message):
        read_backbone("imagenet", "vgg")


def test_a_spec_with_other_grids_is_refused():
    with pytest.raises(ValueError, match="feature maps"):
        SSDNet(3, replace(build_spec("mobilenetv2", 300), grids=(19, 10, 5, 3, 2, 2)))
