"""Settings of the benchmarks, and what they make where there is none: images, a detector."""

from dataclasses import dataclass
from pathlib import Path

import torch

import voc_annotation
from nets.build import new_network
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.data import demo_data
from utils.data.annotations import read_list
from utils.image import prepare

NAMES = ("inference", "runtimes", "startup", "loader", "step", "map", "annotations")
GAIN = 8  # spread of the random detector's scores: its best ones are clear
CANDIDATES = 120  # scores above 0.01 in an image: a detector of playing cards has 118 (median)


@dataclass(frozen=True)
class BenchSettings:
    """What is run, on what."""

    # Some benchmarks, in any order. Others: gpu (benchmarks/gpu.sh), rivals (docs/why_ssd.md).
    only: tuple[str, ...] = NAMES
    # Drawn data, exported files and figures (bench.json) go here.
    folder: str = "bench"
    # Folder of a VOCdevkit with the lists that voc_annotation.py made of it; "" draws images.
    data: str = ""
    # A detector of VGG16 at 300 pixels for the classes of these lists; "" takes random weights.
    model_path: str = ""
    # A JPEG file.
    image: str = "img/demo.jpg"
    # Turns of each; what takes milliseconds has five times as many.
    turns: int = 3
    # Steps of a turn of training.
    steps: int = 6
    # Annotation files to read.
    files: int = 20000
    # "cuda" for what takes a GPU: inference and step.
    device: str = "cpu"


def draw_data(folder: Path) -> None:
    """Draw images and write their lists."""
    demo_data.main(demo_data.DemoSettings(folder=str(folder), images=240, held_out=0))
    voc_annotation.main(voc_annotation.AnnotationSettings(
        classes_path=str(folder / "classes.txt"), VOCdevkit_path=str(folder / "VOCdevkit"),
        lists_dir=str(folder)))


@torch.no_grad()
def make_detector(path: Path, image: str, list_path: Path) -> None:
    """Write a checkpoint of SSD300 with VGG16 whose weights are random, with CANDIDATES scores."""
    torch.manual_seed(0)
    records, names = read_list(list_path)
    network = new_network("vgg", 300, len(names), backbone_weights="",
                          images=[record[:2] for record in records])
    for head in network.conf:
        head.weight *= GAIN
    pixels = torch.from_numpy(prepare(image, network.spec)[0])
    _, conf = network.eval()(pixels.permute(2, 0, 1)[None])
    bias = background_bias(conf)
    for head in network.conf:
        head.bias.view(-1, network.num_classes)[:, 0] += bias
    save_checkpoint(path, Checkpoint(network.spec, names, network.state_dict(), {}, {}))


def background_bias(conf: torch.Tensor) -> float:
    """Return what leaves CANDIDATES scores above 0.01, added to the background's conf."""
    background, classes = conf.double().exp().split((1, conf.shape[-1] - 1), -1)
    # classes / (background * exp(bias) + classes.sum()) > 0.01, solved for exp(bias).
    limits = (100 * classes - classes.sum(-1, keepdim=True)) / background
    return float(limits.flatten().topk(CANDIDATES + 1).values[-1].log())
