"""What runs a detector fastest on this processor.

    python -m benchmarks.runtimes --model_path logs/run/best.pth --image img/demo.jpg

torchvision's ssd300_vgg16 with the detector's weights, in fp32 as its users run it, is what the
others are compared with, from a JPEG file to boxes. The two resize differently, and int8 is coarse:
scores are near and not the same.
"""

import tempfile
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from benchmarks.inference import detect, detect_reference, same_detections, weights_path
from benchmarks.race import race
from benchmarks.table import report, rows_of
from benchmarks.torchvision_ssd import as_torchvision
from nets.ssd import SSDNet, build_spec
from ssd import SSD
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.cli import make_folder, resolve, run

# Name -> precision of the exported file, what runs it, precision in which it computes.
KINDS = {"ONNX Runtime fp32": ("fp32", "onnxruntime", "fp32"),
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
    # For int8.
    train_list: str = "2007_train.txt"
    val_list: str = "2007_val.txt"
    # File for the figures; "" for none.
    json_path: str = ""


def main(settings: RuntimesSettings) -> None:
    """Export and race from file to boxes; then race small networks."""
    original = SSD(weights_path(settings.model_path), device="cpu")
    image = str(resolve(settings.image))
    tasks = {"torchvision fp32": partial(
        detect_reference, as_torchvision(original.network, same_priors=True), image)}
    paths = {}
    for precision in ("fp32", "int8"):
        paths[precision] = str(make_folder(settings.folder) / f"{precision}.onnx")
        original.export(paths[precision], outputs="boxes", precision=precision, force=True,
                        train_list=settings.train_list, val_list=settings.val_list)
    for name, (file, runtime, precision) in KINDS.items():
        detector = SSD(paths[file], device="cpu", precision=precision, runtime=runtime)
        tasks[name] = partial(detect, detector, image)
    print(f"\nfrom {settings.image} to boxes")
    same = partial(same_detections, pixels=5, score=0.2, confidence=0.3, share=0.8)
    rows = rows_of("file to boxes, SSD300 VGG16", race(tasks, settings.turns, same))
    print("\nsmall networks, on noise in which neither finds anything: not the same network")
    rows += rows_of("image to boxes, small networks",
                    race(small_networks(), settings.turns, lambda one, other: one == other == 0))
    report(rows, settings.json_path)


def small_networks():
    """Return {name: call that counts boxes}: torchvision's SSDLite, our smallest network.

    Both have random weights, 20 classes and a background that wins everywhere.
    """
    lite = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21).eval()
    own = SSDNet(21, build_spec("mobilenetv2", 300)).eval()
    for heads in (lite.head.classification_head.module_list, own.conf):
        for head in heads:
            last = head[-1] if isinstance(head, torch.nn.Sequential) else head
            with torch.no_grad():
                last.weight.zero_()
                last.bias.view(-1, 21)[:, 0] = 20
    names = tuple(str(label) for label in range(20))
    noise = np.random.default_rng(0).integers(256, size=(480, 640, 3), dtype=np.uint8)
    batch = [torch.from_numpy(noise).permute(2, 0, 1) / 255]

    def torchvision():
        with torch.inference_mode():
            return len(lite(batch)[0]["boxes"])

    def project(detector):
        return len(detector.detect_batch([noise], confidence=0.01)[0].boxes)

    tasks = {"torchvision SSDLite320 fp32": torchvision}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/small.pth"
        save_checkpoint(path, Checkpoint(own.spec, names, own.state_dict(), {}, {}))
        for precision in ("fp32", "bf16"):
            detector = SSD(path, device="cpu", precision=precision)
            tasks[f"MobileNetV2 300, {precision}"] = partial(project, detector)
    return tasks


if __name__ == "__main__":
    run(main, RuntimesSettings)
