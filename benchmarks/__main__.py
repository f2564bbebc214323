"""All benchmarks, one table: python -m benchmarks, or python -m benchmarks --only step

Each benchmark is a process of its own, and sees first that all sides do the same, as its own text
says. Nothing else should run meanwhile. Random weights do: times hardly depend on the weights.
"""

import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks.prepare import NAMES, BenchSettings, draw_data, make_detector
from benchmarks.table import read_rows, report
from utils.cli import ROOT, UserError, make_folder, resolve, run


def main(settings: BenchSettings) -> None:
    """Make what is missing; run one benchmark, or one after the other and print all rows."""
    unknown = [name for name in settings.only if name not in NAMES]
    if unknown or not settings.only:
        raise UserError(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}.")
    folder = make_folder(settings.folder)
    settings = replace(settings, folder=str(folder), data=str(resolve(settings.data or folder)),
                       image=str(resolve(settings.image)),
                       model_path=settings.model_path or str(folder / "detector.pth"))
    if not Path(settings.data, "2007_train.txt").exists():
        draw_data(Path(settings.data))
    if not Path(settings.model_path).exists():
        make_detector(Path(settings.model_path), settings.image,
                      Path(settings.data, "2007_train.txt"))
    if len(settings.only) == 1:
        name = settings.only[0]
        report(import_module(f"benchmarks.{name}").measure(settings), folder / f"{name}.json")
        return
    rows, failed = [], []
    for name in settings.only:
        print(f"\n==== {name}", flush=True)
        command = [sys.executable, "-m", "benchmarks", "--only", name]
        for flag in ("folder", "data", "model_path", "image", "turns", "steps", "files", "device"):
            command += [f"--{flag}", str(getattr(settings, flag))]
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
        else:
            rows += read_rows(folder / f"{name}.json")
    report(rows, folder / "bench.json")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; see their messages above.")


if __name__ == "__main__":
    run(main, BenchSettings)
