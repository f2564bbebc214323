"""What runs a detector fastest on this processor, and what it costs in mAP.

    python -m benchmarks.runtimes --model_path logs/run/best.pth --image img/demo.jpg

torchvision's ssd300_vgg16 with the detector's weights, in fp32 as its users run it, is what the
others are compared with, from a JPEG file to boxes. The two resize differently, so that scores
are close and not the same.
"""

import tempfile
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from benchmarks.inference import detect_ours, detect_theirs, weights_path
from benchmarks.machine import operations, peak
from benchmarks.race import race
from benchmarks.table import report, rows_of
from benchmarks.torchvision_ssd import as_torchvision
from nets.ssd import SSDNet, build_spec
from ssd import SCORING, SSD, SSDSettings
from utils.multibox.boxes import pairwise_iou
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.cli import make_folder, resolve, run
from utils.data.annotations import read_list
from utils.evaluation.voc_ap import mean_ap
from utils.image import prepare

KINDS = {"PyTorch fp32": ("", "", "fp32"), "PyTorch bf16": ("", "", "bf16"),
         "ONNX Runtime fp32": ("fp32", "onnxruntime", "fp32"),
         "OpenVINO fp32": ("fp32", "openvino", "fp32"),
         "OpenVINO bf16": ("fp32", "openvino", "bf16"),
         "ONNX Runtime int8": ("int8", "onnxruntime", "fp32"),
         "OpenVINO int8": ("int8", "openvino", "fp32")}


@dataclass(frozen=True)
class RuntimesSettings:
    """What is timed."""

    # A detector of VGG16 at 300 pixels; "" takes the newest best.pth under logs.
    model_path: str = ""
    # A JPEG file.
    image: str = "img/demo.jpg"
    turns: int = 10
    # The exported files are written here.
    folder: str = "exported"
    # For int8; and a list to measure mAP on, "" for none.
    train_list: str = "2007_train.txt"
    val_list: str = "2007_val.txt"
    test_list: str = "2007_test.txt"
    # File for the figures; "" for none.
    json_path: str = ""


def main(settings: RuntimesSettings) -> None:
    """Export; race from file to boxes, then the network alone; mAP of each."""
    path = weights_path(settings.model_path)
    detectors = open_all(path, settings)
    spec, image = detectors["PyTorch fp32"].spec, str(resolve(settings.image))
    theirs = as_torchvision(detectors["PyTorch fp32"].network, same_priors=True)
    print(f"\nfrom {settings.image} to boxes")
    tasks = {"torchvision fp32": partial(detect_theirs, theirs, image)}
    tasks |= {name: partial(detect_ours, detector, image) for name, detector in detectors.items()}
    figures = race(tasks, settings.turns, alike)
    work = operations(detectors["PyTorch fp32"].network, spec.size)
    # PyTorch's own are rows of benchmarks.inference, with torchvision's resizing.
    rows = [row for row in rows_of("file to boxes, SSD300 VGG16", figures, {
        name: work / figures[name]["median"] / peak(detector.precision)
        for name, detector in detectors.items()}) if "PyTorch" not in row.way]
    print("\nnetwork and decoding alone")
    inputs = prepare(image, spec)[0][None]
    race({name: partial(detector.runtime, inputs) for name, detector in detectors.items()},
         settings.turns, same_scores)
    print("\nsmall networks, on noise in which neither finds anything: not the same network")
    tasks, work = small_networks()
    figures = race(tasks, settings.turns, lambda one, other: one == other == 0)
    rows += rows_of("image to boxes, small networks", figures, {
        name: work / figures[name]["median"] / peak(name[-4:]) for name in list(tasks)[1:]})
    if settings.test_list:
        records, _ = read_list(settings.test_list)
        for name, detector in detectors.items():
            print(f"{name:<24} mAP@0.5 {100 * mean_ap(detector.evaluate(records)[0]):.2f}")
    report(rows, settings.json_path)


def open_all(path, settings):
    """Return {name: SSD} of all KINDS, exported anew: files of that name may be of another."""
    files, folder = {"": path}, make_folder(settings.folder)
    for precision in ("fp32", "int8"):
        files[precision] = str(folder / f"{precision}.onnx")
        SSD(path).export(
            files[precision], outputs="boxes", precision=precision, force=True,
            train_list=settings.train_list, val_list=settings.val_list)
    return {name: SSD(SSDSettings(model_path=files[file], device="cpu", precision=precision,
                                  runtime=runtime or "auto"))
            for name, (file, runtime, precision) in KINDS.items()}


def small_networks():
    """Return ({name: call that counts boxes}, operations of the calls but the first).

    Of torchvision's SSDLite, and of this project's smallest network, whose names end in the
    precision. Both have random weights, 20 classes and a background that wins everywhere.
    """
    lite = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21).eval()
    ours = SSDNet(21, build_spec("mobilenetv2", 300)).eval()
    for heads in (lite.head.classification_head.module_list, ours.conf):
        for head in heads:
            last = head[-1] if isinstance(head, torch.nn.Sequential) else head
            with torch.no_grad():
                last.weight.zero_()
                last.bias.view(-1, 21)[:, 0] = 20
    names = tuple(str(label) for label in range(20))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/small.pth"
        save_checkpoint(path, Checkpoint(ours.spec, names, ours.state_dict(), {}, {}))
        detectors = {f"MobileNetV2 300, {precision}": SSD(path, device="cpu", precision=precision)
                     for precision in ("fp32", "bf16")}
    noise = np.random.default_rng(0).integers(256, size=(480, 640, 3), dtype=np.uint8)
    batch = [torch.from_numpy(noise).permute(2, 0, 1) / 255]

    def theirs():
        with torch.inference_mode():
            return len(lite(batch)[0]["boxes"])

    tasks = {"torchvision SSDLite320 fp32": theirs} | {
        name: lambda detector=detector: len(detector.detect_batch([noise], **SCORING)[0].boxes)
        for name, detector in detectors.items()}
    return tasks, operations(ours, 300)


def same_scores(outputs, other):
    """Tell whether scores that are clear in one differ by less than 0.05 on average."""
    clear = outputs[1] > 0.05
    return bool(clear.any() and (outputs[1] - other[1])[clear].abs().mean() < 0.05)


def alike(found, other):
    """Tell whether nearly all that one sees clearly the other sees too, and the reverse."""
    def share(one, two):
        clear = one[1] > 0.3
        overlap = pairwise_iou(one[0][clear], two[0])
        partners = ((overlap > 0.8) & (one[2][clear][:, None] == two[2]) &
                    (np.abs(one[1][clear][:, None] - two[1]) < 0.2))
        return partners.any(1).mean() if clear.any() else 0
    return min(share(found, other), share(other, found)) > 0.85


if __name__ == "__main__":
    run(main, RuntimesSettings)
