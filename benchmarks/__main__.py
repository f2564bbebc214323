"""All benchmarks, one table: python -m benchmarks, or python -m benchmarks.NAME for one of them.

On drawn images and a detector with random weights, unless others are given: times hardly depend on
what the weights are. Each benchmark is a process of its own, and sees first that all sides do the
same, as its own text says. Nothing else should run meanwhile.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.prepare import draw_data, make_detector
from benchmarks.table import read_rows, report
from utils.cli import ROOT, UserError, make_folder, resolve, run

NAMES = ("inference", "runtimes", "startup", "loader", "step", "map", "annotations")


@dataclass(frozen=True)
class BenchSettings:
    """What is run, on what."""

    # Of all benchmarks; some of them in any order.
    only: tuple[str, ...] = NAMES
    # Data and figures (bench.json) go here.
    folder: str = "bench"
    # A detector of VGG16 at 300 pixels; "" makes one of random weights.
    model_path: str = ""
    # A JPEG file.
    image: str = "img/demo.jpg"
    # "cuda" for what takes a GPU: inference and step.
    device: str = "cpu"


def main(settings: BenchSettings) -> None:
    """Make what is missing in the folder, run the benchmarks one after the other, print all rows."""
    unknown = [name for name in settings.only if name not in NAMES]
    if unknown:
        raise UserError(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}.")
    folder = make_folder(settings.folder)
    if not (folder / "2007_train.txt").exists():
        draw_data(folder)
    model = settings.model_path or str(folder / "detector.pth")
    if not settings.model_path:
        make_detector(Path(model), str(resolve(settings.image)), folder / "2007_train.txt")
    detector = ["--model_path", model, "--image", settings.image]
    lists = ["--train_list", f"{folder}/2007_train.txt"]
    flags = {"inference": [*detector, "--device", settings.device], "startup": detector,
             "runtimes": [*detector, *lists, "--val_list", f"{folder}/2007_val.txt",
                          "--folder", f"{folder}/exported"],
             "loader": lists, "step": [*lists, "--device", settings.device, "--steps", "6",
                                       "--turns", "1"],
             "map": [], "annotations": ["--VOCdevkit_path", f"{folder}/VOCdevkit"]}
    rows, failed = [], []
    for name in settings.only:
        print(f"\n==== {name}", flush=True)
        path = folder / f"{name}.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *flags[name], "--json_path", path]
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
        else:
            rows += read_rows(path)
    report(rows, folder / "bench.json")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; see their messages above.")


if __name__ == "__main__":
    run(main, BenchSettings)
