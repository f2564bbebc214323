"""train.py with a backbone so small that a training takes seconds, for tests and for torchrun.

Environment: TINY_KILL="rank step" kills that rank before its step, in the first start only;
TINY_NORM=group takes group norm, since batch norm makes a batch more than the sum of its images.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pytest import MonkeyPatch  # noqa: E402
from torch import nn  # noqa: E402

import train  # noqa: E402
from nets.backbones import BACKBONES, Backbone  # noqa: E402
from utils.cli import run  # noqa: E402
from utils.distributed import rank  # noqa: E402

SIZE = 128  # pixels; six maps with sides 32, 16, .. 1


def make_layers(spec):
    is_group = os.environ.get("TINY_NORM") == "group"
    layers = []
    for channels, out in ((3, 8), (8, 16), (16, 24)):
        norm = nn.GroupNorm(4, out) if is_group else nn.BatchNorm2d(out)
        layers += [nn.Conv2d(channels, out, 3, 2, 1), norm, nn.ReLU()]
    return nn.Sequential(*layers)


def make_extras(spec):
    return [nn.Sequential(nn.Conv2d(24, 24, 3, 2, 1), nn.ReLU()) for _ in range(4)]


TINY = Backbone("tiny", make_layers, taps=(6, 9), make_extras=make_extras, num_pretrained=6,
                imagenet="", names=(), steps={})


def use_tiny(patch):
    """Let resnet50 be tiny, by a pytest.MonkeyPatch, and leave out curves, which take longer."""
    patch.setitem(BACKBONES, "resnet50", TINY)
    patch.setattr("utils.training.run.plot_history", lambda history, folder: None)


def main(settings):
    use_tiny(MonkeyPatch())
    victim, kill_step = map(int, os.environ.get("TINY_KILL", "-1 -1").split())
    train_step, calls = train.train_step, []

    def step(*args, **kwargs):
        calls.append(1)
        if (rank() == victim and len(calls) == kill_step
                and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"):
            signal.raise_signal(signal.SIGKILL)
        return train_step(*args, **kwargs)

    train.train_step = step
    train.main(settings)


if __name__ == "__main__":
    run(main, train.TrainSettings)
