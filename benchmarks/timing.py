"""Times of several ways to do one thing, and the table of them."""

import json
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from utils.cli import UserError


def race(tasks: Mapping[str, Callable[[], Any]], turns: int, same: Callable[[Any, Any], bool], *,
         rehearse: bool = True) -> dict[str, float]:
    """Run tasks, {name: call}, in turns; print and return the median seconds of each.

    In a turn each is run twice and the second run counts; once without `rehearse`, for tasks of
    many seconds. Raises UserError where `same` tells a result from that of the first task.
    """
    results = {name: task() for name, task in tasks.items()}
    first = next(iter(tasks))
    for name, result in results.items():
        if not same(results[first], result):
            raise UserError(f"{name} does not give what {first} gives; the times say nothing.")
    times = {name: [] for name in tasks}
    for _ in range(rehearse + turns):
        for name, task in tasks.items():
            if rehearse:
                task()  # not counted: caches and free memory are as the task before left them
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[-turns:]) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:<28} {1000 * median:9.2f} ms  {medians[first] / median:5.2f} x", flush=True)
    return medians


def run_alone(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


@dataclass(frozen=True)
class Row:
    """One way to do a task, beside a reference that did the same."""

    task: str
    way: str  # "bf16", say
    value: float  # seconds or bytes
    reference: str  # what else does the task
    reference_value: float
    unit: str = "s"  # or "B"


def rows_of(task: str, medians: dict[str, float]) -> list[Row]:
    """Return the rows of what `race` returned: each task but the first beside the first."""
    (reference, first), *others = medians.items()
    return [Row(task, name, median, reference, first) for name, median in others]


def table(rows: Sequence[Row]) -> str:
    """Return rows as text, a line each."""
    cells = [("task", "way", "takes", "reference", "takes", "ratio")]
    cells += [(row.task, row.way, quantity(row.value, row.unit), row.reference,
               quantity(row.reference_value, row.unit), f"{row.reference_value / row.value:.3g} x")
              for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
                     for line in cells)


def quantity(value: float, unit: str) -> str:
    """Return seconds or bytes for people: "12.3 ms"."""
    if unit == "B":
        return f"{value / 2 ** 20:.4g} MB"
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def report(rows: Sequence[Row], json_path: Path) -> None:
    """Print a table, and write it as JSON."""
    print(f"\n{machine()}\n{table(rows)}", flush=True)
    json_path.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")


def machine() -> str:
    """Return the processor, its threads, the GPU, and the versions that matter."""
    info = Path("/proc/cpuinfo")
    model = re.search("model name\t*: (.*)", info.read_text() if info.is_file() else "")
    name = model[1] if model else platform.machine()
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (f"{name}, {torch.get_num_threads()} threads{gpu}; Python {platform.python_version()}, "
            f"torch {torch.__version__}")


def most_memory(device: str) -> float:
    """Return the most bytes that this process held at a time, on Linux or on its GPU."""
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status").read_text()  # getrusage has the parent's memory in it
    return 1024.0 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
