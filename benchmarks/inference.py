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

from benchmarks.race import race
from nets.backbones import rename
from nets.build import read_network
from nets.families import TORCHVISION
from ssd import SCORING, SSD, SSDSettings
from utils.boxes import to_cxcywh
from utils.checkpoint import newest_checkpoint
from utils.cli import resolve, run
from utils.image import read_input
from utils.postprocess import decode_scores, select
from utils.spec import SSDSpec

SPEC = SSDSpec(box_clip="before_nms")  # as torchvision's


@dataclass(frozen=True)
class InferenceSettings:
    """What is timed."""

    # A detector of VGG16 at 300 pixels; "" takes the newest best.pth under logs.
    model_path: str = ""
    # A JPEG file.
    image: str = "img/demo.jpg"
    turns: int = 15
    # File for the figures; "" for none.
    json_path: str = ""


def main(settings: InferenceSettings) -> None:
    """Race from file to boxes, then the stages of ours, then the postprocessing alone."""
    kinds = {"fp32": {"precision": "fp32"}, "auto": {"precision": "auto"}}
    with tempfile.TemporaryDirectory() as folder:
        theirs, flags = as_torchvision(settings.model_path, Path(folder))
        detectors = {name: SSD(SSDSettings(device="cpu", **flags, **kind))
                     for name, kind in kinds.items()}
    image = str(resolve(settings.image))
    tasks = {"torchvision": partial(detect_theirs, theirs, image)}
    tasks |= {f"project, {name}": partial(detect_ours, detector, image)
              for name, detector in detectors.items()}
    race(tasks, settings.turns, same_detections, json_path=settings.json_path)
    for name, detector in detectors.items():
        print(f"stages of {name}: " + ", ".join(
            f"{stage} {1000 * seconds:.2f} ms" for stage, seconds in stages(detector, image)))
    for num_classes in (21, 81):
        print(f"raw outputs of many candidates to boxes, {num_classes} classes")
        race_postprocessing(num_classes, settings.turns)


def as_torchvision(model_path, folder):
    """Return torchvision's network with a detector's weights, and flags to read them here too."""
    network, names = read_network(model_path or newest_checkpoint("logs"))
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=len(names) + 1).eval()
    places = rename({name: name for name in theirs.state_dict()}, TORCHVISION)
    theirs.load_state_dict({places[name]: value for name, value in network.state_dict().items()})
    torch.save(theirs.state_dict(), folder / "weights.pth")
    (folder / "classes.txt").write_text("\n".join(names), encoding="utf-8")
    return theirs, {"model_path": str(folder / "weights.pth"),
                    "classes_path": str(folder / "classes.txt")}


@torch.inference_mode()
def detect_theirs(network, path):
    """Return (boxes, scores, labels) as torchvision's documentation does it."""
    image = SSD300_VGG16_Weights.COCO_V1.transforms()(read_image(path, ImageReadMode.RGB))
    found = network([image])[0]
    return found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy() - 1


def detect_ours(detector, path):
    return tuple(detector.detect_batch([path], **SCORING)[0])


def same_detections(found, other):
    """Tell whether each clear detection of one has its like in the other, and the reverse.

    The same class, edges within a pixel, scores within 0.02: bf16 keeps 8 bits.
    """
    def matched(one, two):
        return all(((two[2] == label) & (np.abs(two[0] - box).max(1) < 1 + 0.01 * np.ptp(box))
                    & (np.abs(two[1] - score) < 0.02)).any()
                   for box, score, label in zip(*one) if score > 0.3)
    return matched(found, other) and matched(other, found)


def stages(detector, path, turns=10):
    """Return (stage, least seconds) of reading and resizing, the network with decoding, NMS."""
    image, _ = read_input(path, detector.spec)
    boxes, scores = detector.runtime(image[None])
    calls = {"read and resize": partial(read_input, path, detector.spec),
             "network and decoding": partial(detector.runtime, image[None]),
             "selection": partial(select, boxes, scores, detector.spec, **SCORING)}
    return [(name, min(timeit.repeat(call, number=1, repeat=turns)))
            for name, call in calls.items()]


def race_postprocessing(num_classes, turns):
    """Race from raw outputs to boxes; nearly all of random scores are candidates."""
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

    race({"torchvision": torchvisions, "project": ours}, turns, lambda a, b: all(
        len(x) == len(y) and np.allclose(x, y, atol=1e-3) for x, y in zip(a, b)))


if __name__ == "__main__":
    run(main, InferenceSettings)
