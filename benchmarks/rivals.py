"""Other detectors beside this project's: their networks by the same runtimes, batch 1.

Each is exported to ONNX with random weights of the published shape, and timed from its input tensor
to its outputs. int8 is of convolutions alone. The commands stand in docs/why_ssd.md.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import openvino
import torch
from onnxruntime.quantization import QuantType, quantize_static, shape_inference
from torch import nn
from torchvision.models import detection

from benchmarks.prepare import BenchSettings
from benchmarks.runtimes import KINDS
from benchmarks.timing import Row, race, rows_of, run_alone
from nets.runtimes.export import QUANTISED, export_onnx
from nets.ssd import SSDNet, build_spec
from ssd import SSD
from utils.cli import make_folder
from utils.multibox.postprocess import Thresholds


class Torchvision(nn.Module):
    """The network of a torchvision SSD, or all of a Faster R-CNN."""

    def __init__(self, name: str):
        super().__init__()
        self.detector = getattr(detection, name)(weights=None, weights_backbone=None)

    def forward(self, images):
        if isinstance(self.detector, detection.FasterRCNN):
            return self.detector(list(images))
        return tuple(self.detector.head(list(self.detector.backbone(images).values())).values())


def yolox(name: str) -> nn.Module:
    """Return YOLOX as its own script exports it, boxes not decoded."""
    network = import_module("yolox.config").YoloxConfig.get_named_config(name).get_model()
    network.head.decode_in_inference = False
    return network


# Name -> backbone, input of this project's; input, network of what PyTorch exports.
OWN = {"SSD300 VGG16": ("vgg", 300), "SSD300 MobileNetV2": ("mobilenetv2", 300),
       "SSDLite320 MobileNetV3": ("mobilenetv3", 320)}
NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "torchvision SSD300 VGG16": (300, lambda: Torchvision("ssd300_vgg16")),
    "torchvision SSDLite320": (320, lambda: Torchvision("ssdlite320_mobilenet_v3_large")),
    "torchvision Faster R-CNN": (320, lambda: Torchvision("fasterrcnn_mobilenet_v3_large_320_fpn")),
    "YOLOX-Nano": (416, lambda: yolox("yolox_nano")),
    "YOLOX-Tiny": (416, lambda: yolox("yolox_tiny")),
    "PicoDet-S": (320, lambda: import_module("libreyolo.models.picodet.nn").LibrePICODETModel("s")),
    "RTMDet-tiny": (640, lambda: import_module("libreyolo.models.rtmdet.nn").LibreRTMDetModel("t"))}
RIVALS = (*OWN, *NETWORKS, "D-FINE-N", "RF-DETR-Nano")


@torch.no_grad()
def settle(network: nn.Module, size: int) -> nn.Module:
    """Return it for evaluation; its batch norm keeps signals from fading to subnormal numbers."""
    for part in network.eval().modules():
        if isinstance(part, nn.BatchNorm2d):
            part.train().momentum = 1.0
    network(torch.rand(2, 3, size, size))
    return network.eval()


def export_fp32(name: str, path: Path) -> None:
    """Export a detector, D-FINE and RF-DETR by their own means."""
    if name in OWN:
        network = settle(SSDNet(81, build_spec(*OWN[name])), OWN[name][1])
        export_onnx(network, [str(label) for label in range(80)], path, outputs="raw",
                    thresholds=Thresholds())
    elif name in NETWORKS:
        size, build = NETWORKS[name]
        torch.onnx.export(settle(build(), size), (torch.rand(1, 3, size, size),), path,
                          dynamo=False, opset_version=18)
    elif name == "D-FINE-N":
        detector = import_module("dfine").DFINE("n", backbone_pretrained=False, device="cpu")
        settle(detector.model, 640)
        detector.export("onnx", file=path, dynamic=False)
    else:
        detector = import_module("rfdetr").RFDETRNano(pretrain_weights=None, device="cpu")
        Path(detector.export(output_dir=str(path.parent), verbose=False)).rename(path)


def export(name: str, folder: Path) -> None:
    """Write NAME.fp32.onnx and NAME.int8.onnx; print why one cannot be."""
    torch.manual_seed(0)
    fp32, int8 = (folder / f"{name}.{kind}.onnx" for kind in ("fp32", "int8"))
    try:
        if not fp32.exists():
            export_fp32(name, fp32)
        reader = SimpleNamespace(get_next=partial(next, iter([noise(fp32)]), None))
        shape_inference.quant_pre_process(fp32, int8, skip_symbolic_shape=True)
        quantize_static(int8, int8, reader, per_channel=True, op_types_to_quantize=QUANTISED,
                        activation_type=QuantType.QUInt8)  # signed, ONNX Runtime is slow
    except Exception as error:  # packages raise all kinds
        int8.unlink(missing_ok=True)
        print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)


def noise(path: Path) -> dict[str, np.ndarray]:
    """Return one random input for an ONNX file."""
    inputs = {}
    for entry in onnxruntime.InferenceSession(path).get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in entry.shape]
        factor, dtype = {"tensor(uint8)": (256, "uint8"), "tensor(int64)": (640, "int64")}.get(
            entry.type, (1, "float32"))
        inputs[entry.name] = (factor * np.random.default_rng(0).random(shape)).astype(dtype)
    return inputs


def open_file(path: Path, runtime: str, precision: str) -> Callable:
    """Return a call that runs a file on noise."""
    if runtime == "onnxruntime":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return partial(onnxruntime.InferenceSession(path, options).run, None, noise(path))
    compiled = openvino.Core().compile_model(path, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"})
    return partial(compiled.create_infer_request().infer, noise(path))


def measure(settings: BenchSettings) -> list[Row]:
    """Export what is missing; race all networks, and this project's from image to boxes."""
    folder = make_folder(f"{settings.folder}/rivals")
    for name in RIVALS:
        if not (folder / f"{name}.int8.onnx").exists():
            run_alone(export, name, folder)
    photo = np.random.default_rng(0).integers(256, size=(480, 640, 3), dtype=np.uint8)
    rows = []
    for way, (kind, runtime, precision) in KINDS.items():
        paths = {name: folder / f"{name}.{kind}.onnx" for name in RIVALS}
        tasks = {name: open_file(path, runtime, precision)
                 for name, path in paths.items() if path.exists()}
        for name in OWN:
            own = SSD(paths[name], device="cpu", runtime=runtime, precision=precision)
            tasks[f"{name}, image to boxes"] = partial(own.detect_batch, [photo], confidence=0.5)
        rows += rows_of(way, race(tasks, 5 * settings.turns, lambda first, other: True))
    return rows
