"""The comparison of two runs of a training, bit by bit."""

import csv

import torch


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
