"""From a JPEG file to boxes, and from raw outputs to boxes: this project and torchvision.

torchvision's ssd300_vgg16 runs in fp32 as its users run it. The project reads the same weights from
a file in its layout, with its priors, pixel values, resizing and thresholds.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode, read_image
from torchvision.models.detection import SSD300_VGG16_Weights, ssd300_vgg16
from torchvision.models.detection.image_list import ImageList

from benchmarks.prepare import BenchSettings
from benchmarks.timing import Row, race, rows_of
from benchmarks.torchvision_ssd import as_torchvision
from nets.build import read_network
from ssd import SSD
from utils.multibox.boxes import to_cxcywh
from utils.multibox.coder import BoxCoder
from utils.multibox.postprocess import Thresholds, decode_outputs, select
from utils.multibox.spec import SSDSpec


def measure(settings: BenchSettings) -> list[Row]:
    """Race from file to boxes, then the postprocessing alone."""
    with tempfile.TemporaryDirectory() as folder:
        reference, flags = both_ways(settings.model_path, Path(folder), settings.device)
        tasks = {"torchvision fp32": partial(detect_reference, reference, settings.image)}
        for precision in ("fp32", "auto"):
            detector = SSD(device=settings.device, precision=precision, **flags)
            tasks[f"PyTorch {precision}"] = partial(detect, detector, settings.image)
    rows = rows_of("file to boxes, SSD300 VGG16", race(tasks, 5 * settings.turns, same_detections))
    for num_classes in (21, 81):
        medians = race(postprocessing(num_classes), 5 * settings.turns, same_detections)
        rows += rows_of(f"decode and NMS, {num_classes} classes", medians)
    return rows


def both_ways(model_path: str, folder: Path, device: str) -> tuple[torch.nn.Module, dict]:
    """Return torchvision's network with a detector's weights, and flags to read them here too."""
    network, names = read_network(model_path)
    reference = as_torchvision(network, same_priors=False)
    torch.save(reference.state_dict(), folder / "weights.pth")
    (folder / "classes.txt").write_text("\n".join(names), encoding="utf-8")
    return reference.to(device), {"model_path": str(folder / "weights.pth"),
                                  "classes_path": str(folder / "classes.txt")}


@torch.inference_mode()
def detect_reference(network: torch.nn.Module, path: str) -> tuple[np.ndarray, ...]:
    """Return (boxes, scores, labels) as torchvision's documentation does it."""
    image = SSD300_VGG16_Weights.COCO_V1.transforms()(read_image(path, ImageReadMode.RGB))
    device = next(network.parameters()).device
    output = {name: value.cpu().numpy() for name, value in network([image.to(device)])[0].items()}
    return output["boxes"], output["scores"], output["labels"] - 1


def detect(detector: SSD, path: str) -> tuple[np.ndarray, ...]:
    """Return (boxes, scores, labels) of this project, with the thresholds for scoring."""
    return tuple(detector.detect_batch([path], confidence=0.01)[0])


def same_detections(first: tuple, second: tuple, *, pixels: float = 1, score: float = 0.03,
                    confidence: float = 0.05, share: float = 0.8) -> bool:
    """Tell whether that share of the detections above `confidence` is in the other, both ways.

    Classes are equal, edges within `pixels` and a hundredth of the box, scores near: bf16 is rough,
    and a random detector has some ten detections, of which one or two may meet NMS's threshold.
    """
    def matched_share(one, two):
        matched = [((two[2] == label) & (np.abs(two[0] - box).max(1) < pixels + 0.01 * np.ptp(box))
                    & (np.abs(two[1] - value) < score)).any()
                   for box, value, label in zip(*one) if value > confidence]
        return sum(matched) / len(matched) if matched else 0
    return min(matched_share(first, second), matched_share(second, first)) >= share


def postprocessing(num_classes: int) -> dict[str, Callable]:
    """Return calls from raw outputs to boxes; nearly all of random scores are candidates."""
    coder = BoxCoder(SSDSpec(box_clip="before_nms"))
    reference = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=num_classes)
    blank = ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)])
    anchors = reference.anchor_generator(
        blank, [torch.zeros(1, 1, side, side) for side in SSDSpec().grids])
    coder.priors = to_cxcywh(anchors[0] / 300)
    generator = torch.Generator().manual_seed(0)
    loc, conf = (torch.randn(1, len(anchors[0]), outputs, generator=generator)
                 for outputs in (4, num_classes))

    def project():
        kept = select(*decode_outputs(loc, conf, coder), Thresholds(), clip=False)[0]
        return kept.boxes.numpy() * 300, kept.scores.numpy(), kept.labels.numpy()

    def torchvision():
        output = reference.postprocess_detections({"bbox_regression": loc, "cls_logits": conf},
                                                  anchors, [(300, 300)])[0]
        return output["boxes"].numpy(), output["scores"].numpy(), output["labels"].numpy() - 1

    return {"torchvision": torchvision, "this project": project}
