"""What the benchmarks need where nothing is at hand: drawn images, their lists, a detector."""

from pathlib import Path

import torch

import voc_annotation
from nets.build import new_network
from ssd import SSD
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.data import demo_data
from utils.data.annotations import read_list
from utils.image import prepare

IMAGES = 240
# Spread of the random detector's scores: its best ones are clear.
GAIN = 8
# Scores above 0.01 in the image: as many as a detector trained on photographs of playing cards has
# (median of 20 test images: 118).
CANDIDATES = 120


def draw_data(folder: Path) -> None:
    """Draw images and write the lists that voc_annotation.py makes of them."""
    demo_data.main(demo_data.DemoSettings(folder=str(folder), images=IMAGES, held_out=0))
    voc_annotation.main(voc_annotation.AnnotationSettings(
        classes_path=str(folder / "classes.txt"), VOCdevkit_path=str(folder / "VOCdevkit"),
        lists_dir=str(folder)))


def make_detector(path: Path, image: str, list_path: Path) -> None:
    """Write a checkpoint of SSD300 with VGG16 whose numbers are random.

    Its background is as strong as leaves CANDIDATES scores in the image above 0.01: with fewer or
    more of them, what comes after the network would be timed on other work than users have.
    """
    torch.manual_seed(0)
    records, names = read_list(list_path)
    network = new_network("vgg", 300, len(names), backbone_weights="",
                          images=[record[:2] for record in records])
    for head in network.conf:
        head.weight.data *= GAIN
    runtime = SSD(network=network, class_names=names, precision="fp32").runtime
    bias = _background(runtime.raw(prepare(image, network.spec)[0][None])[1])
    for head in network.conf:
        head.bias.data.view(-1, network.num_classes)[:, 0] += bias
    save_checkpoint(path, Checkpoint(network.spec, names, network.state_dict(), {}, {}))


def _background(conf):
    """Return what background needs, added to its conf, for CANDIDATES scores above 0.01."""
    low, high = -30.0, 30.0
    for _ in range(40):
        middle = (low + high) / 2
        shifted = torch.cat([conf[..., :1] + middle, conf[..., 1:]], -1)
        count = (shifted.softmax(-1)[..., 1:] > 0.01).sum()
        low, high = (middle, high) if count > CANDIDATES else (low, middle)
    return high
