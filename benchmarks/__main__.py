"""All benchmarks, one table: python -m benchmarks, or python -m benchmarks.NAME for one of them.

On drawn images and a detector with random numbers, unless others are given: times hardly depend on
what the numbers are. Each benchmark is a process of its own, and sees first that all sides do the
same, as its own text says. Nothing else should run meanwhile.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import machine, peak
from benchmarks.prepare import draw_data, make_detector
from benchmarks.table import plain, read_rows, table
from utils.cli import ROOT, UserError, make_folder, resolve, run, shorten
from utils.device import pick_device

NAMES = ("inference", "runtimes", "startup", "loader", "step", "map", "annotations", "growth")


@dataclass(frozen=True)
class BenchSettings:
    """What is run, on what."""

    # Of all benchmarks; some of them in any order.
    only: tuple[str, ...] = NAMES
    # Data, figures (bench.json) and the picture (bench.png) go here.
    folder: str = "bench"
    # A detector of VGG16 at 300 pixels, with a folder that holds 2007_train.txt and 2007_val.txt
    # of its classes; "" makes one of random numbers.
    model_path: str = ""
    # A JPEG file.
    image: str = "img/demo.jpg"
    # "cuda" for what takes a GPU: inference, step, growth.
    device: str = "cpu"


def main(settings: BenchSettings) -> None:
    """Prepare, run the benchmarks one after the other, print and draw what they found."""
    unknown = [name for name in settings.only if name not in NAMES]
    if unknown:
        raise UserError(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}.")
    pick_device(settings.device)
    folder, begin = make_folder(settings.folder).resolve(), time.perf_counter()
    flags = prepare(folder, settings)
    failed = [name for name in settings.only if not run_one(name, flags[name], folder)]
    done = [name for name in settings.only if name not in failed]
    rows = [row for name in done if name != "growth" for row in read_rows(folder / f"{name}.json")]
    curves = (json.loads((folder / "growth.json").read_text(encoding="utf-8"))["curves"]
              if "growth" in done else [])
    peaks = {precision: peak(precision, settings.device) for precision in ("fp32", "bf16", "int8")}
    results = {"machine": machine(settings.device), "peaks": plain(peaks),
               "rows": [plain(asdict(row)) for row in rows], "curves": curves}
    (folder / "bench.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    draw(rows, curves, folder / "bench.png")
    print(f"\n{machine(settings.device)}\nmost operations a second: " + ", ".join(
        f"{precision} {value / 1e9:.0f} billion" for precision, value in peaks.items()
        if value == value))
    print(f"\n{table(rows)}\n\n{time.perf_counter() - begin:.0f} s in all; "
          f"{shorten(folder / 'bench.json')}, {shorten(folder / 'bench.png')}")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; what they said stands above.")


def prepare(folder, settings):
    """Make what is missing in the folder; return the flags of each benchmark."""
    if not (folder / "2007_train.txt").exists():
        draw_data(folder)
    model = settings.model_path
    if not model:
        model = str(folder / "detector.pth")
        make_detector(Path(model), str(resolve(settings.image)), folder / "2007_train.txt")
    train, detector = ["--train_list", f"{folder}/2007_train.txt"], [
        "--model_path", model, "--image", settings.image]
    device = ["--device", settings.device]
    return {"inference": [*detector, *device], "startup": detector,
            "runtimes": [*detector, *train, "--val_list", f"{folder}/2007_val.txt",
                         "--test_list", "", "--folder", f"{folder}/exported", "--turns", "5"],
            "loader": train, "step": [*train, *device, "--steps", "6", "--turns", "1"], "map": [],
            "annotations": ["--VOCdevkit_path", f"{folder}/VOCdevkit"], "growth": device}


def run_one(name, flags, folder):
    """Run a benchmark; tell whether it succeeded."""
    print(f"\n==== {name}", flush=True)
    return not subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *flags, "--json_path",
                               str(folder / f"{name}.json")], cwd=ROOT).returncode


def draw(rows, curves, path):
    """Draw ratios as bars, and curves in panels."""
    from matplotlib.figure import Figure
    panels = list(dict.fromkeys((curve["panel"], curve["axis"]) for curve in curves))
    figure = Figure((14, 9), layout="constrained")
    grid = figure.add_gridspec(max(3, (len(panels) + 1) // 2), 4)
    bars = figure.add_subplot(grid[:, :2] if panels else grid[:, :])
    rows = [row for row in rows if row.ratio == row.ratio][::-1]
    bars.barh([f"{row.task}\n{row.way} / {row.reference}" for row in rows],
              [row.ratio - 1 for row in rows], left=1,
              color=["tab:blue" if row.ratio >= 1 else "tab:red" for row in rows])
    bars.set(xscale="log", title="times as fast, or as small, as the reference")
    bars.axvline(1, color="black", linewidth=0.8)
    bars.tick_params("y", labelsize=6)
    bars.xaxis.set_major_formatter("{x:g}")
    for number, (panel, axis) in enumerate(panels):
        axes = figure.add_subplot(grid[number // 2, 2 + number % 2])
        ticks = []
        for curve in curves:
            if (curve["panel"], curve["axis"]) == (panel, axis):
                axes.plot(curve["xs"], curve["seconds"], "o-", label=curve["name"])
                ticks = max(ticks, curve["xs"], key=len)
        axes.set(xlabel=axis, ylabel="seconds", title=panel, xscale="log", yscale="log")
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks], minor=False)
        axes.set_xticks([], minor=True)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    run(main, BenchSettings)
