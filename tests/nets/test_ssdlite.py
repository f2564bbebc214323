"""SSDLite with MobileNetV3 beside torchvision's own code, and what users do with it."""

import pytest
import torch
from exported import unmatched
from parity import fixture_image
from torch import nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection import ssdlite, ssdlite320_mobilenet_v3_large

from nets.build import continued_network
from nets.weights import weight_files
from nets.weights.families import COCO_DETECTORS, PUBLISHED_NAMES
from ssd import SSD
from utils.image import resize_to_input
from utils.multibox.boxes import to_xyxy

LIMITS = {"confidence": 0.4, "nms_iou": 0.55, "max_per_class": 300, "max_per_image": 300}
NAMES = ("a", "b", "c")


def torchvisions(num_classes, reduced_tail=True):
    """Return torchvision's network in eval mode with random weights and outputs that differ."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # its tail is whole with ImageNet weights alone
        patch.setattr(ssdlite, "mobilenet_v3_large", lambda **options: mobilenet_v3_large(
            **options | {"reduced_tail": reduced_tail}))
        net = ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=num_classes,
            score_thresh=LIMITS["confidence"])
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:  # one batch sets the statistics, as at the end of a training
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.normal_(norm.bias, 0, 0.1)
    with torch.no_grad():
        images = nn.functional.interpolate(torch.rand(16, 3, 20, 20), size=320) * 2 - 1
        net.head(list(net.train().backbone(images).values()))
    return net.eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return (torchvision's network of COCO's 90 classes, the path of its file)."""
    net, path = torchvisions(91), tmp_path_factory.mktemp("lite") / "file.pth"
    torch.save(net.state_dict(), path)
    return net, path


@torch.no_grad()
def assert_the_same(net, detector):
    """Compare input, raw outputs, priors and detections of one image."""
    image = fixture_image()
    pixels = torch.from_numpy(image).permute(2, 0, 1) / 255
    batch, _ = net.transform([pixels])
    maps = list(net.backbone(batch.tensors).values())
    expected = net.head(maps)
    x = torch.from_numpy(resize_to_input(image, detector.spec)).permute(2, 0, 1)[None]
    torch.testing.assert_close(detector.network.normalise(x), batch.tensors)
    loc, conf = detector.network(x)
    assert expected["cls_logits"].std() > 0.5
    torch.testing.assert_close(loc, expected["bbox_regression"], atol=1e-4, rtol=0)
    torch.testing.assert_close(conf, expected["cls_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(to_xyxy(detector.network.coder.priors) * 320,
                               net.anchor_generator(batch, maps)[0])
    theirs, ours = net([pixels])[0], detector.detect_batch([image], **LIMITS)[0]
    assert len(ours) > 20
    assert not unmatched(ours, (theirs["boxes"], theirs["scores"], theirs["labels"] - 1))


def test_the_published_file_gives_torchvisions_numbers(published, monkeypatch):
    net, path = published
    monkeypatch.setattr(weight_files, "download",
                        {COCO_DETECTORS["coco-light"]: path}.__getitem__)
    detector = SSD("coco-light", device="cpu")
    assert detector.class_names == PUBLISHED_NAMES[90] and detector.network.family == "torchvision"
    assert_the_same(net, detector)


def test_a_file_that_was_trained_from_imagenet_has_the_whole_tail(tmp_path):
    net = torchvisions(4, reduced_tail=False)
    torch.save({"model": net.state_dict()}, tmp_path / "own.pth")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    detector = SSD(tmp_path / "own.pth", device="cpu", classes_path=str(tmp_path / "classes.txt"))
    assert not detector.spec.reduced_tail
    assert_the_same(net, detector)


def test_other_classes_keep_all_but_the_rows_of_new_ones(published):
    more = continued_network(published[1], ("Dog", "unicorn"))
    old = published[0].head.classification_head.module_list
    for head, old_head in zip(more.conf, old):
        assert torch.equal(head[0][0].weight, old_head[0][0].weight)
        rows = head[1].weight.unflatten(0, (-1, 3))
        old_rows = old_head[1].weight.unflatten(0, (-1, 91))  # COCO's dog is number 18
        assert torch.equal(rows[:, :2], old_rows[:, [0, 18]])
        assert not torch.equal(rows[:, 2], old_rows[:, 1])


def test_an_exported_file_gives_the_same(published, tmp_path):
    """Without the blocks that repeat others, which take most of the time."""
    pytest.importorskip("onnxruntime")
    network = SSD(published[1], device="cpu").network
    for part in network.mobilenetv3:
        for k in range(len(part) - 1, -1, -1):
            if getattr(part[k], "use_res_connect", False):
                del part[k]
    detector = SSD(network=network, class_names=PUBLISHED_NAMES[90])
    detector.export(tmp_path / "a.onnx", outputs="raw")
    expected = detector.detect_batch([fixture_image()], **LIMITS)[0]
    exported = SSD(tmp_path / "a.onnx")
    assert not unmatched(exported.detect_batch([fixture_image()], **LIMITS)[0], expected)
