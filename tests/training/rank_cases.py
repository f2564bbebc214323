"""Trainings for test_distributed.py: torchrun ... rank_cases.py FOLDER, which has cases.json.

Each rank writes how the cases ended, {name: [type, message]}, to FOLDER/ended-RANK.json.
"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import torch  # noqa: E402
import torch._dynamo  # noqa: E402, F401 (without it PyTorch keeps the connections of a group)
import torch.distributed as dist  # noqa: E402
from tiny_ssd import SPEC, TinySSD  # noqa: E402
from torch import nn  # noqa: E402

import train  # noqa: E402
from nets.vgg import make_vgg16  # noqa: E402
from utils.cli import PeerLeft, Stopped, UserError  # noqa: E402
from utils.multibox.priors import make_priors  # noqa: E402
from utils.training import run_folder  # noqa: E402
from utils.training.trainer import Trainer  # noqa: E402


class Tiny(TinySSD):
    """With normalisation by image: with batch norm, a batch is more than the sum of its parts."""

    def __init__(self):
        super().__init__(partial(nn.GroupNorm, 8))
        self.num_classes, self.extras, self.pretrained_layers = 5, nn.ModuleList(), self.stages[0]


class TinyVGG(nn.Module):
    """All of VGG16 on the small images of TinySSD."""

    def __init__(self):
        super().__init__()
        self.spec, self.num_classes, self.extras = SPEC, 5, nn.ModuleList()
        self.vgg, self.extra = make_vgg16(), nn.Conv2d(1024, 64, 3, stride=2, padding=1)
        self.pretrained_layers = self.vgg
        self.heads = nn.ModuleList(nn.Conv2d(c, 36, 3, padding=1) for c in (512, 1024, 64))
        self.register_buffer("priors", make_priors(SPEC))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x):
        maps = [self.vgg[:23](x / 60)]
        maps.append(self.vgg[23:](maps[0]))
        maps.append(self.extra(maps[1]).relu())
        rows = torch.cat([head(x).permute(0, 2, 3, 1).reshape(len(x), -1, 9)
                          for head, x in zip(self.heads, maps)], 1).float()
        return rows[..., :4], rows[..., 4:]


NETS = {"tiny": Tiny, "vgg": TinyVGG}


def run_case(case, rank):
    """Train as `case` says; return [type, message] of what ended it, ["", ""] for its end."""
    def network_of(checkpoint, *_):
        network = NETS[case["net"]]()
        network.load_state_dict(checkpoint.state_dict)
        return network

    def steps(self, group):
        calls.append(1)
        here = case.get("rank") == rank and len(calls) == case.get("step")
        if here and case["do"] == "kill" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            signal.raise_signal(signal.SIGKILL)
        elif here and case["do"] == "stop":
            os.kill(os.getppid(), signal.SIGTERM)  # torchrun, which sends it to all
        elif here and case["do"] == "nan":
            nn.init.constant_(self.network.heads[0].bias, float("nan"))
        return train_step(self, group)

    def score(scorer, records, path):
        if case.get("best goes"):
            path.unlink(missing_ok=True)
        return score_best(scorer, records, path)

    calls, train_step, score_best = [], Trainer.train_step, train.score_best
    train.build_network, train.network_of = lambda *_: NETS[case["net"]](), network_of
    Trainer.train_step, train.score_best = steps, score
    if case.get("val goes bad"):
        train.check_images = lambda *_: None
    settings = case["settings"] | case.get("of rank", {}).get(str(rank), {})
    try:
        train.main(train.TrainSettings(**settings))
        return ["", ""]
    except (UserError, PeerLeft, Stopped, SystemExit) as error:
        return [type(error).__name__, str(error)]
    finally:
        Trainer.train_step, train.score_best = train_step, score_best
        if dist.is_initialized():
            dist.destroy_process_group()


def main(folder):
    """Run the cases one after the other, in a job of several as separate jobs."""
    cases, rank = json.loads((folder / "cases.json").read_text()), int(os.environ.get("RANK", 0))
    run_folder.plot_history = lambda *_: None
    if len(cases) > 1:
        train.resume_restarted = dict
    ended = {}
    for name, case in cases.items():
        ended[name] = run_case(case, rank)
        (folder / f"ended-{rank}.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv.pop()))
