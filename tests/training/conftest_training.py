"""Drawn data, and the comparison of two runs."""

import csv

import pytest
import torch

import voc_annotation
from utils.data import demo_data


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with lists of 16 images to train on and 4 to measure, of drawn shapes."""
    folder = tmp_path_factory.mktemp("data")
    demo_data.main(demo_data.DemoSettings(folder=str(folder), images=30, held_out=0))
    voc_annotation.main(voc_annotation.AnnotationSettings(
        classes_path=str(folder / "classes.txt"), VOCdevkit_path=str(folder / "VOCdevkit"),
        lists_dir=str(folder), val_share=0.2, test_share=0.2))
    for name, count in (("train", 16), ("val", 4)):
        lines = (folder / f"2007_{name}.txt").read_text().splitlines(keepends=True)
        (folder / f"{name}.txt").write_text("".join(lines[:count + 1]))
    return folder


@pytest.fixture
def flags(data):
    """Settings of a short training, as {name: value}."""
    return {"train_list": str(data / "train.txt"), "val_list": str(data / "val.txt"),
            "backbone": "mobilenetv2", "backbone_weights": "", "input_shape": (128, 128),
            "epochs": 3, "batch_size": 4, "num_workers": 0, "device": "cpu", "precision": "fp32",
            "sample_period": 0, "run_name": "run"}


def history_of(folder):
    """Return the rows of history.csv, without its times."""
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if "seconds" not in name}
                for row in csv.DictReader(file)]


def assert_same_run(folder, expected):
    """Compare weights, optimizer, generators and history of two run folders bit by bit."""
    assert history_of(folder) == history_of(expected)
    names = sorted(path.name for path in expected.glob("*.pth"))
    assert sorted(path.name for path in folder.glob("*.pth")) == names
    for name in names:
        ours, theirs = (torch.load(path / name, weights_only=True) for path in (folder, expected))
        pairs = list(zip(leaves(ours), leaves(theirs), strict=True))
        assert len(pairs) > 20
        for ours, theirs in pairs:
            assert torch.equal(*map(torch.as_tensor, (ours, theirs)))


def leaves(value):
    """Yield the numbers and tensors of a checkpoint, but for times and settings."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name != "settings" and "seconds" not in str(name):
                yield from leaves(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, (int, float, torch.Tensor)):
        yield value
