"""What runs a detector fastest on this processor, from a JPEG file to boxes.

The reference is torchvision's ssd300_vgg16 with the same weights, which resizes differently.
"""

import operator
import tempfile
from functools import partial

import numpy as np
import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from benchmarks.inference import detect, detect_reference, same_detections
from benchmarks.prepare import BenchSettings
from benchmarks.timing import Row, race, rows_of
from benchmarks.torchvision_ssd import as_torchvision
from nets.ssd import SSDNet, build_spec
from ssd import SSD
from utils.checkpoint import Checkpoint, save_checkpoint

# Name -> precision of the exported file, what runs it, precision in which it computes.
KINDS = {"ONNX Runtime fp32": ("fp32", "onnxruntime", "fp32"),
         "OpenVINO fp32": ("fp32", "openvino", "fp32"),
         "OpenVINO bf16": ("fp32", "openvino", "bf16"),
         "ONNX Runtime int8": ("int8", "onnxruntime", "fp32"),
         "OpenVINO int8": ("int8", "openvino", "fp32")}


def measure(settings: BenchSettings) -> list[Row]:
    """Export and race from file to boxes; then race small networks."""
    original = SSD(settings.model_path, device="cpu")
    tasks = {"torchvision fp32": partial(
        detect_reference, as_torchvision(original.network, same_priors=True), settings.image)}
    paths = {}
    for precision in ("fp32", "int8"):
        paths[precision] = f"{settings.folder}/{precision}.onnx"
        original.export(paths[precision], outputs="boxes", precision=precision, max_loss=100,
                        train_list=f"{settings.data}/2007_train.txt",
                        val_list=f"{settings.data}/2007_val.txt")
    for name, (file, runtime, precision) in KINDS.items():
        detector = SSD(paths[file], device="cpu", precision=precision, runtime=runtime)
        tasks[name] = partial(detect, detector, settings.image)
    same = partial(same_detections, pixels=5, score=0.2, confidence=0.3, share=0.8)
    rows = rows_of("file to boxes, SSD300 VGG16", race(tasks, 5 * settings.turns, same))
    return rows + rows_of("image to boxes, small networks", race(
        small_networks(), 5 * settings.turns, operator.eq))


def small_networks():
    """Return {name: call that counts boxes} of networks in which the background always wins.

    SSDLite320 has torchvision's weights.
    """
    lite = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21).eval()
    own = SSDNet(21, build_spec("mobilenetv2", 300)).eval()
    for heads in (lite.head.classification_head.module_list, own.conf):
        for head in heads:
            last = head[-1] if isinstance(head, torch.nn.Sequential) else head
            torch.nn.init.zeros_(last.weight)
            last.bias.data.view(-1, 21)[:, 0] = 20
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
        paths = {"SSDLite320": f"{folder}/lite.pth", "MobileNetV2 300": f"{folder}/small.pth"}
        torch.save(lite.state_dict(), paths["SSDLite320"])
        save_checkpoint(paths["MobileNetV2 300"],
                        Checkpoint(own.spec, names, own.state_dict(), {}, {}))
        for precision in ("fp32", "bf16"):
            for name, path in paths.items():
                detector = SSD(path, device="cpu", precision=precision)
                tasks[f"{name}, {precision}"] = partial(project, detector)
    return tasks
