"""A training killed with SIGKILL at random moments and resumed comes to the same bits.

    python -m benchmarks.kill

Draws a small data set, trains on it once without a break, then again, killed over and over:
in start-up, in a step, while a file is written, while val mAP is measured. Every number of
last.pth and best.pth and every figure of history.csv, seconds apart, must be the same. Exit
status 1 where one differs.
"""

import csv
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import voc_annotation
from utils.cli import ROOT, UserError, run
from utils.data import demo_data


@dataclass(frozen=True)
class KillSettings:
    """How often, and what is trained."""

    # Kills in all; a run that ends before gets a successor.
    kills: int = 20
    # Of the moments.
    seed: int = 0
    images: int = 32
    epochs: int = 6
    save_steps: int = 2
    num_workers: int = 2


def main(settings):
    """Train the reference, kill, compare; exit status 1 where a bit differs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = prepare(folder, settings)
        begin = time.monotonic()
        train_for(command, "running on", 1e-3)
        middle = time.monotonic()
        train_for(command, "", None)
        starting, training = middle - begin, time.monotonic() - middle
        (folder / "run").rename(folder / "reference")
        print(f"the reference took {training:.1f} s", flush=True)
        rng, kills, faults = random.Random(settings.seed), 0, []
        while True:
            # One in four in start-up; the others in up to a quarter of the training behind it.
            line, most = ("", starting) if rng.random() < 0.25 else ("running on", training / 4)
            limit = rng.uniform(0, most) if kills < settings.kills else None
            if train_for(command, line, limit):
                kills += 1
                print(f"kill {kills:2}: {limit:4.1f} s into its {'training' if line else 'start'}; "
                      f"{describe(folder / 'run')}", flush=True)
                continue
            faults += compare(folder / "reference", folder / "run")
            print(f"the run came to its end: {faults or 'the same bits as the reference'}")
            if kills >= settings.kills:
                break
            (folder / "run").rename(folder / f"run-{kills}")
    print(f"{kills} kills, {'DIFFERENT' if faults else 'no bit differs'}")
    sys.exit(1 if faults else 0)


def prepare(folder, settings):
    """Draw the data; return the command of a training on it, which goes on where it stands."""
    demo_data.main(demo_data.DemoSettings(str(folder), images=settings.images, held_out=0))
    voc_annotation.main(voc_annotation.AnnotationSettings(
        classes_path=str(folder / "classes.txt"), VOCdevkit_path=str(folder / "VOCdevkit"),
        lists_dir=str(folder), val_share=0.2, test_share=0.2))
    flags = {"train_list": folder / "2007_train.txt", "val_list": folder / "2007_val.txt",
             "backbone": "mobilenetv2", "backbone_weights": "", "input_shape": (260, 260),
             "batch_size": 4, "epochs": settings.epochs, "num_workers": settings.num_workers,
             "device": "cpu", "save_dir": folder, "save_steps": settings.save_steps,
             "save_period": 2, "resume": "last", "run_name": "run"}
    words = [(f"--{name}", *map(str, value if isinstance(value, tuple) else (value,)))
             for name, value in flags.items()]
    return [sys.executable, str(ROOT / "train.py"), *(word for pair in words for word in pair)]


def train_for(command, line, limit):
    """Train, and kill so many seconds after a line of output; tell whether it was still running.

    A `line` of "" is the start, a `limit` of None the end.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as process:
        output = ""
        while line and line not in output and process.poll() is None:
            output += process.stdout.readline()
        try:
            output += process.communicate(timeout=limit)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    if process.returncode:
        raise UserError(f"a training failed:\n{output}")
    return False


def describe(folder):
    """Say where a killed run stood, from what it left."""
    parts = [path.name for path in folder.glob("*.part")]
    last = folder / "last.pth"
    saved = torch.load(last, weights_only=True) if last.exists() else None
    place = "no last.pth" if saved is None else (
        f"last.pth at step {saved['progress']['step']} of epoch {saved['progress']['epoch'] + 1}"
        + (", its val mAP to come" if saved["run"]["row"] else ""))
    return place + (f", {parts[0]} left" if parts else "")


def compare(one, other):
    """Return the names of what differs between two run folders, seconds apart."""
    rows = [[{k: v for k, v in row.items() if "seconds" not in k}
             for row in csv.DictReader(open(folder / "history.csv"))] for folder in (one, other)]
    faults = [] if rows[0] == rows[1] else ["history.csv"]
    names = {path.name for folder in (one, other) for path in folder.glob("*.pth")}
    for name in sorted(names):
        values = [torch.load(folder / name, weights_only=True) for folder in (one, other)]
        faults += differences(*values, name)
    return faults


def differences(one, other, name):
    """Return the names below `name` of values that differ in type, bits or memory layout."""
    if "seconds" in name.rpartition("/")[2]:
        return []
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        return [fault for key in one for fault in differences(one[key], other[key],
                                                              f"{name}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [fault for k in range(len(one)) for fault in differences(one[k], other[k],
                                                                        f"{name}/{k}")]
    if torch.is_tensor(one) and torch.is_tensor(other):
        same = (one.dtype == other.dtype and one.stride() == other.stride()
                and torch.equal(one, other))
    else:
        same = type(one) is type(other) and one == other
    return [] if same else [name]


if __name__ == "__main__":
    run(main, KillSettings)
