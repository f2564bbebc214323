"""From a JPEG file to boxes, and from raw outputs to boxes: this project and torchvision.

    python -m benchmarks.inference --model_path logs/run/best.pth --image img/demo.jpg

torchvision's ssd300_vgg16 gets the detector's weights and runs as its users run it: fp32, its own
reading, resizing, postprocessing and thresholds, which are those for scoring here. The project
reads the same weights from a file in torchvision's layout, with its numbers (priors, colours,
resizing), so that both do the same work; boxes are compared first.
"""

import tempfile
import timeit
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode, read_image
from torchvision.models.detection import SSD300_VGG16_Weights, ssd300_vgg16
from torchvision.models.detection.image_list import ImageList

from benchmarks.machine import operations, peak, wait
from benchmarks.race import race
from benchmarks.table import report, rows_of
from benchmarks.torchvision_ssd import as_torchvision
from nets.build import read_network
from ssd import SCORING, SSD, SSDSettings
from utils.multibox.boxes import to_cxcywh
from utils.checkpoint import newest_checkpoint
from utils.cli import UserError, resolve, run
from utils.device import pick_device
from utils.image import prepare
from utils.multibox.postprocess import decode_scores, select
from utils.multibox.spec import SSDSpec

SPEC = SSDSpec(box_clip="before_nms")  # as torchvision's


@dataclass(frozen=True)
class InferenceSettings:
    """What is timed."""

    # A detector of VGG16 at 300 pixels; "" takes the newest best.pth under logs.
    model_path: str = ""
    # A JPEG file.
    image: str = "img/demo.jpg"
    turns: int = 15
    # "cpu", or "cuda" for both sides.
    device: str = "cpu"
    # File for the figures; "" for none.
    json_path: str = ""


def main(settings: InferenceSettings) -> None:
    """Race from file to boxes, then the stages of ours, then the postprocessing alone."""
    pick_device(settings.device)
    kinds = {"fp32": {"precision": "fp32"}, "auto": {"precision": "auto"}}
    with tempfile.TemporaryDirectory() as folder:
        theirs, flags = both_ways(settings.model_path, Path(folder), settings.device)
        detectors = {f"PyTorch {name}": SSD(SSDSettings(device=settings.device, **flags, **kind))
                     for name, kind in kinds.items()}
    image = str(resolve(settings.image))
    tasks = {"torchvision fp32": partial(detect_theirs, theirs, image)}
    tasks |= {name: partial(detect_ours, detector, image) for name, detector in detectors.items()}
    print("from a file to boxes")
    figures = race(tasks, settings.turns, same_detections)
    shares = {name: share_of_peak(detector, figures[name]["median"])
              for name, detector in detectors.items()}
    rows = rows_of("file to boxes, SSD300 VGG16", figures, shares)
    for name, detector in detectors.items():
        print(f"stages of {name}: " + ", ".join(
            f"{stage} {1000 * seconds:.2f} ms" for stage, seconds in stages(detector, image)))
    for num_classes in (21, 81):
        print(f"raw outputs of many candidates to boxes, {num_classes} classes")
        figures = race(postprocessing(num_classes), settings.turns, same_arrays)
        rows += rows_of(f"decode and NMS, {num_classes} classes", figures)
    report(rows, settings.json_path, settings.device)


def weights_path(model_path):
    """Return the path of a detector: the one named, else the newest; UserError without any."""
    path = model_path or newest_checkpoint("logs")
    if not path:
        raise UserError("there is no best.pth under logs; set model_path to a detector of VGG16 at "
                        "300 pixels.")
    return str(path)


def share_of_peak(detector, seconds):
    """Return the operations of one image, by what the device multiplies in those seconds."""
    done = operations(detector.network, detector.spec.size)
    return done / seconds / peak(detector.precision, detector.device.type)


def both_ways(model_path, folder, device):
    """Return torchvision's network with a detector's weights, and flags to read them here too."""
    network, names = read_network(weights_path(model_path))
    theirs = as_torchvision(network, same_priors=False)
    torch.save(theirs.state_dict(), folder / "weights.pth")
    (folder / "classes.txt").write_text("\n".join(names), encoding="utf-8")
    return theirs.to(device), {"model_path": str(folder / "weights.pth"),
                               "classes_path": str(folder / "classes.txt")}


@torch.inference_mode()
def detect_theirs(network, path):
    """Return (boxes, scores, labels) as torchvision's documentation does it."""
    image = SSD300_VGG16_Weights.COCO_V1.transforms()(read_image(path, ImageReadMode.RGB))
    device = next(network.parameters()).device
    found = {name: value.cpu().numpy() for name, value in network([image.to(device)])[0].items()}
    return found["boxes"], found["scores"], found["labels"] - 1


def detect_ours(detector, path):
    return tuple(detector.detect_batch([path], **SCORING)[0])


def same_detections(found, other):
    """Tell whether nine tenths of the detections of one have their like in the other, and reversed.

    Those with scores above 0.05. Their like is of the same class, its edges within a pixel and a
    hundredth of the box, its score within 0.03: bf16 keeps 8 bits, and close scores change places.
    """
    def share(one, two):
        matched = [((two[2] == label) & (np.abs(two[0] - box).max(1) < 1 + 0.01 * np.ptp(box))
                    & (np.abs(two[1] - score) < 0.03)).any()
                   for box, score, label in zip(*one) if score > 0.05]
        return sum(matched) / len(matched) if matched else 0
    return min(share(found, other), share(other, found)) >= 0.9


def stages(detector, path, turns=10):
    """Return (stage, least seconds) of reading and resizing, the network with decoding, NMS."""
    image, _ = prepare(path, detector.spec)
    boxes, scores = detector.runtime(image[None])
    calls = {"read and resize": partial(prepare, path, detector.spec),
             "network and decoding": lambda: (detector.runtime(image[None]),
                                              wait(detector.device.type)),
             "selection": partial(select, boxes, scores, detector.spec, **SCORING)}
    return [(name, min(timeit.repeat(call, number=1, repeat=turns)))
            for name, call in calls.items()]


def postprocessing(num_classes):
    """Return calls from raw outputs to boxes; nearly all of random scores are candidates."""
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=num_classes)
    blank = ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)])
    anchors = theirs.anchor_generator(blank, [torch.zeros(1, 1, n, n) for n in SPEC.grids])
    generator = torch.Generator().manual_seed(0)
    loc, conf = (torch.randn(1, len(anchors[0]), numbers, generator=generator)
                 for numbers in (4, num_classes))
    priors = to_cxcywh(anchors[0] / 300)

    def ours():
        boxes, scores, labels = select(*decode_scores(loc, conf, priors, SPEC), SPEC, **SCORING)[0]
        return boxes.numpy() * 300, scores.numpy(), labels.numpy()

    def torchvisions():
        found = theirs.postprocess_detections({"bbox_regression": loc, "cls_logits": conf},
                                              anchors, [(300, 300)])[0]
        return found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy() - 1

    return {"torchvision": torchvisions, "this project": ours}


def same_arrays(found, other):
    return all(len(one) == len(two) and np.allclose(one, two, atol=1e-3)
               for one, two in zip(found, other))


if __name__ == "__main__":
    run(main, InferenceSettings)
