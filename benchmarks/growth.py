"""How times grow: with the batch, the input, the classes, the detections, the image.

    python -m benchmarks.growth

Networks have random numbers and a background that wins everywhere, so that they find nothing:
detections have a curve of their own. The least of a few runs counts.
"""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.io import ImageReadMode, read_image
from torchvision.models.detection import SSD300_VGG16_Weights

from benchmarks.inference import postprocessing
from benchmarks.machine import machine, wait
from benchmarks.map import MapBenchmark, installed, make_judge, make_set, ours, theirs
from benchmarks.table import quantity
from benchmarks.torchvision_ssd import as_torchvision
from nets.runtimes.torch import TorchRuntime
from nets.ssd import SSDNet, build_spec
from utils.cli import run
from utils.device import keep_freed_memory, pick_device, set_precision
from utils.image import prepare

LARGEST_FOR_OTHERS = 100_000  # detections; pycocotools takes minutes for more


@dataclass(frozen=True)
class GrowthSettings:
    """What is timed."""

    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    sizes: tuple[int, ...] = (300, 400, 512)
    classes: tuple[int, ...] = (20, 40, 80)
    detections: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    megapixels: tuple[float, ...] = (0.3, 1, 3, 12)
    # Runs of each; the least counts.
    turns: int = 3
    # "cpu" or "cuda", for the networks.
    device: str = "cpu"
    # File for the figures; "" for none.
    json_path: str = ""


@dataclass(frozen=True)
class Curve:
    """Seconds of one way to do something, by how much there is to do."""

    panel: str  # what is timed
    axis: str  # what grows
    name: str
    xs: list[float]
    seconds: list[float]


def main(settings: GrowthSettings) -> None:
    """Measure and print all curves."""
    pick_device(settings.device)
    keep_freed_memory()  # as predict.py; torchvision has its good of it too
    print(machine(settings.device))
    curves = []
    for measure in (by_batch, by_size, by_classes, by_detections, by_megapixels):
        new = measure(settings)
        for curve in new:
            times = ", ".join(f"{x:g}: {quantity(value, 's')}"
                              for x, value in zip(curve.xs, curve.seconds))
            print(f"{curve.panel}, {curve.name}, by {curve.axis}: {times}", flush=True)
        curves += new
    if settings.json_path:
        Path(settings.json_path).write_text(json.dumps(
            {"machine": machine(settings.device), "curves": [vars(curve) for curve in curves]},
            indent=2), encoding="utf-8")


def least(call: Callable[[], object], turns: int, device: str = "cpu") -> float:
    """Return the least seconds of a few calls, after one that is not counted."""
    times = []
    for _ in range(1 + turns):
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def quiet_network(size, num_classes=21):
    """Return an SSDNet of VGG16 that finds nothing."""
    network = SSDNet(num_classes, build_spec("vgg", size)).eval()
    for head in network.conf:
        head.weight.data.zero_()
        head.bias.data.view(-1, num_classes)[:, 0] = 20
    return network


def ours_in(network, precision, device):
    """Return the Runtime of a network that it has for itself."""
    network = network.to(device)
    return TorchRuntime(network, [""] * (network.num_classes - 1), owned=True,
                        precision=set_precision(precision, torch.device(device)))


def by_batch(settings):
    """Return curves of the network and decoding, an image, by the batch."""
    network, curves = quiet_network(300), []
    other = as_torchvision(network, same_priors=False).to(settings.device)

    @torch.inference_mode()
    def torchvisions(batch):
        images = torch.as_tensor(batch).to(settings.device).permute(0, 3, 1, 2).contiguous()
        return other.head(list(other.backbone(images.float()).values()))

    ways = {"torchvision fp32": torchvisions}
    ways |= {precision: ours_in(network, precision, settings.device)
             for precision in ("fp32", "auto")}
    for name, way in ways.items():
        times = [least(partial(way, np.zeros((count, 300, 300, 3), np.uint8)), settings.turns,
                       settings.device) / count for count in settings.batches]
        curves.append(Curve("network, an image", "batch", name, list(settings.batches), times))
    return curves


def by_size(settings):
    """Return curves of the network by the side of its input."""
    return [Curve("network, an image", "input size", precision, list(settings.sizes), [
        least(partial(ours_in(quiet_network(size), precision, settings.device),
                      np.zeros((1, size, size, 3), np.uint8)), settings.turns, settings.device)
        for size in settings.sizes]) for precision in ("fp32", "auto")]


def by_classes(settings):
    """Return curves of what comes after the network, with candidates nearly everywhere."""
    tasks = [postprocessing(1 + count) for count in settings.classes]
    return [Curve("decode and NMS", "classes", name, list(settings.classes),
                  [least(task[name], settings.turns) for task in tasks]) for name in tasks[0]]


def by_detections(settings):
    """Return curves of COCO's figures by the number of detections, 20 an image."""
    curves = {"this project": [], "pycocotools": []}
    for count in settings.detections:
        sizes = MapBenchmark(images=max(1, count // 20), detections=count)
        found, records = make_set(sizes, np.random.default_rng(0), once=False)
        curves["this project"].append(least(
            partial(ours, found, records, sizes.classes, False), 1))
        if count <= LARGEST_FOR_OTHERS and installed("pycocotools"):
            judge = make_judge("pycocotools", found, records, sizes.classes, False)
            curves["pycocotools"].append(least(partial(theirs, judge, False), 1))
    return [Curve("COCO's figures", "detections", name,
                  list(settings.detections[:len(times)]), times)
            for name, times in curves.items() if times]


def by_megapixels(settings):
    """Return curves of reading a JPEG file and making it the network's input."""
    rng, spec = np.random.default_rng(0), build_spec("vgg", 300)
    transform = as_torchvision(quiet_network(300), same_priors=False).transform

    def torchvisions(path):
        image = SSD300_VGG16_Weights.COCO_V1.transforms()(read_image(path, ImageReadMode.RGB))
        return transform([image])

    curves = {"torchvision": [], "this project": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in settings.megapixels:
            height = round((number * 1e6 * 3 / 4) ** 0.5)
            image = cv2.resize(rng.integers(256, size=(120, 160, 3), dtype=np.uint8),
                               (height * 4 // 3, height), interpolation=cv2.INTER_CUBIC)
            path = f"{folder}/{number}.jpg"
            cv2.imwrite(path, image)
            curves["torchvision"].append(least(partial(torchvisions, path), settings.turns))
            curves["this project"].append(least(partial(prepare, path, spec), settings.turns))
    return [Curve("file to input", "megapixels", name, list(settings.megapixels), times)
            for name, times in curves.items()]


if __name__ == "__main__":
    run(main, GrowthSettings)
