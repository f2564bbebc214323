"""What benchmarks measure: rows of one table, printed and kept as JSON, and the machine's name."""

import json
import math
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torchvision

UNITS = {"s": ((1, "s"), (1e-3, "ms"), (1e-6, "us")), "B": ((2**30, "GB"), (2**20, "MB"))}


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
    scale, name = next((entry for entry in UNITS[unit] if value >= entry[0]), UNITS[unit][-1])
    return "-" if math.isnan(value) else f"{value / scale:.3g} {name}"


def report(rows: Sequence[Row], json_path: Path) -> None:
    """Print a table, and write it as JSON."""
    print(f"\n{machine()}\n{table(rows)}", flush=True)
    json_path.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")


def read_rows(json_path: Path) -> list[Row]:
    """Return the rows that `report` wrote."""
    return [Row(**row) for row in json.loads(json_path.read_text(encoding="utf-8"))]


def machine() -> str:
    """Return the processor, its threads, the GPU, and the versions that matter."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        name = re.search("model name\t*: (.*)|$", info.read_text(encoding="utf-8"))[1] or name
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (f"{name}, {os.cpu_count()} processors, {torch.get_num_threads()} threads{gpu}; Python "
            f"{platform.python_version()}, torch {torch.__version__}, torchvision "
            f"{torchvision.__version__}")


def most_memory(device: str = "cpu") -> float:
    """Return the most bytes that this process held at a time; NaN but on Linux and on GPUs."""
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")  # getrusage has the parent's memory in it
    if not status.is_file():
        return math.nan
    return 1024.0 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
