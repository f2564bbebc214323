"""All benchmarks, one table: python -m benchmarks, or python -m benchmarks --only step

Each is a process of its own, and first checks that all sides do the same. Nothing else should run
meanwhile. Random weights do: times hardly depend on the weights.
"""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks.prepare import NAMES, BenchSettings, draw_data, make_detector
from benchmarks.timing import report, run_alone
from utils.cli import UserError, make_folder, resolve, run


def main(settings: BenchSettings) -> None:
    """Make what is missing; run one benchmark after the other and print all rows."""
    unknown = [name for name in settings.only if name not in (*NAMES, "gpu", "rivals")]
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
    rows = []
    for name in settings.only:
        print(f"\n==== {name}", flush=True)
        rows += run_alone(import_module(f"benchmarks.{name}").measure, settings)
        report(rows, folder / "bench.json")


if __name__ == "__main__":
    run(main, BenchSettings)
