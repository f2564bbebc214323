"""What runs a detector fastest on this processor, and what it costs in mAP.

    python -m benchmarks.runtimes --model_path logs/run/best.pth --image img/demo.jpg

torchvision's ssd300_vgg16 with the detector's weights, in fp32 as its users run it, is what the
others are compared with, from a JPEG file to boxes. The two resize differently, so that scores
are close and not the same.
"""

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

from benchmarks.inference import as_torchvision, detect_ours, detect_theirs, weights_path
from benchmarks.race import race
from ssd import SSD, SSDSettings
from utils.boxes import pairwise_iou
from utils.cli import make_folder, resolve, run
from utils.data.annotations import read_list
from utils.evaluation.voc_ap import mean_ap
from utils.image import read_input

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
    # The exported files are kept here, and taken from here where they are.
    folder: str = "exported"
    # For int8; and a list to measure mAP on, "" for none.
    train_list: str = "2007_train.txt"
    val_list: str = "2007_val.txt"
    test_list: str = "2007_test.txt"


def main(settings: RuntimesSettings) -> None:
    """Export what is missing; race from file to boxes, then the network alone; mAP of each."""
    path = weights_path(settings.model_path)
    files, folder = {"": path}, make_folder(settings.folder)
    for precision in ("fp32", "int8"):
        files[precision] = str(folder / f"{precision}.onnx")
        if not Path(files[precision]).exists():
            SSD(SSDSettings(model_path=path)).export(
                files[precision], outputs="boxes", precision=precision, force=True,
                train_list=settings.train_list, val_list=settings.val_list)
    detectors = {name: SSD(SSDSettings(model_path=files[file], device="cpu", precision=precision,
                                       runtime=runtime or "auto"))
                 for name, (file, runtime, precision) in KINDS.items()}
    with tempfile.TemporaryDirectory() as made:
        theirs, _ = as_torchvision(path, Path(made))
    spec = detectors["PyTorch fp32"].spec
    theirs.anchor_generator = DefaultBoxGenerator(
        spec.aspect_ratios, scales=[size / spec.size for size in spec.anchors_size],
        steps=spec.steps)
    image = str(resolve(settings.image))
    print(f"\nfrom {settings.image} to boxes")
    race({"torchvision fp32": partial(detect_theirs, theirs, image)}
         | {name: partial(detect_ours, detector, image) for name, detector in detectors.items()},
         settings.turns, alike)
    print("\nnetwork and decoding alone")
    inputs = read_input(image, spec)[0][None]
    race({name: partial(detector.runtime, inputs) for name, detector in detectors.items()},
         settings.turns, lambda one, other: bool((one[1] - other[1]).abs().mean() < 0.01))
    if settings.test_list:
        records, _ = read_list(settings.test_list)
        for name, detector in detectors.items():
            print(f"{name:<24} mAP@0.5 {100 * mean_ap(detector.evaluate(records)[0]):.2f}")


def alike(found, other):
    """Tell whether nearly all that one sees clearly the other sees too, and the reverse."""
    def share(one, two):
        clear = one[1] > 0.5
        overlap = pairwise_iou(one[0][clear], two[0])
        partners = ((overlap > 0.8) & (one[2][clear][:, None] == two[2]) &
                    (np.abs(one[1][clear][:, None] - two[1]) < 0.2))
        return partners.any(1).mean() if clear.any() else 1
    return min(share(found, other), share(other, found)) > 0.85


if __name__ == "__main__":
    run(main, RuntimesSettings)
