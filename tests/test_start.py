"""What is imported between the start of a script and the first box: nothing slow but PyTorch."""

import subprocess
import sys

from tiny_detector import photo
from torchvision.models import (MobileNet_V2_Weights, MobileNet_V3_Large_Weights, ResNet50_Weights,
                                VGG16_Weights, detection)

from nets.backbones import BACKBONES
from nets.weights.families import COCO_DETECTORS, PUBLISHED_NAMES
from nets.ssd import SSDNet, build_spec
from ssd import SSD, SSDSettings
from utils.cli import ROOT

HEAVY = {"matplotlib", "scipy", "tensorboard", "jinja2", "torchvision", "pandas", "onnx",
         "onnxruntime", "openvino", "sympy", "triton", "torch._dynamo", "torch._inductor",
         "torch.onnx", "pycocotools", "h5py", "yaml"}


def test_a_plain_prediction_imports_nothing_that_it_does_not_need(tmp_path):
    SSD(SSDSettings(device="cpu"), network=SSDNet(3, build_spec("vgg", 300)),
        class_names=("cat", "dog")).save(tmp_path / "best.pth")
    photo(tmp_path / "a.png")
    code = """if True:
        import sys
        import predict
        predict.main(predict.PredictSettings(
            model_path=sys.argv[1], images=(sys.argv[2],), dir_save_path=sys.argv[3], show=False,
            confidence=0.2, save_json=True))
        before = set(sys.modules)
        import torch, torchvision  # later on it still is whole
        torchvision.ops.nms(torch.rand(3, 4), torch.rand(3), 0.5)
        print("imported:", *before)"""
    done = subprocess.run([sys.executable, "-c", code, *(str(tmp_path / name) for name in (
        "best.pth", "a.png", "out"))], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (tmp_path / "out" / "a.jpg").exists()
    assert not HEAVY & set(done.stdout.rpartition("imported:")[2].split())


def test_what_is_written_here_of_torchvision_is_what_it_says():
    files = {"vgg": VGG16_Weights.IMAGENET1K_FEATURES, "resnet50": ResNet50_Weights.IMAGENET1K_V1,
             "mobilenetv2": MobileNet_V2_Weights.IMAGENET1K_V1,
             "mobilenetv3": MobileNet_V3_Large_Weights.IMAGENET1K_V1}
    assert {name: BACKBONES[name].imagenet for name in files} == {
        name: weights.url for name, weights in files.items()}
    coco = detection.SSD300_VGG16_Weights.COCO_V1
    assert COCO_DETECTORS == {
        "coco": coco.url,
        "coco-light": detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.url}
    assert [name.partition(" ")[0] if name.startswith("N/A") else name for name in
            PUBLISHED_NAMES[90]] == coco.meta["categories"][1:]
