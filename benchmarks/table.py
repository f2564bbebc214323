"""What benchmarks find: rows of one table, printed and kept as JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.machine import machine

UNITS = {"s": ((1, "s"), (1e-3, "ms"), (1e-6, "us")), "B": ((2**30, "GB"), (2**20, "MB"))}


@dataclass(frozen=True)
class Row:
    """One way to do a task, beside a reference that did the same.

    Attributes:
        task: what is done.
        way: how, "bf16" say.
        value: what it takes, seconds or bytes.
        reference: what else does the task; "" for nothing.
        reference_value: what that takes.
        unit: "s" or "B".
        share: of the most that the processor can multiply in that time, 0 to 1.
    """

    task: str
    way: str
    value: float
    reference: str = ""
    reference_value: float = math.nan
    unit: str = "s"
    share: float = math.nan

    @property
    def ratio(self) -> float:
        """How many times as fast, or as small, as the reference."""
        return self.reference_value / self.value


def rows_of(task: str, figures: dict[str, dict], shares: dict[str, float] = {}) -> list[Row]:
    """Return the rows of what `race` returned: each task but the first beside the first.

    `shares` are those of the processor's peak, by name.
    """
    (reference, first), *others = figures.items()
    return [Row(task, name, figure["median"], reference, first["median"],
                share=shares.get(name, math.nan)) for name, figure in others]


def table(rows: Sequence[Row]) -> str:
    """Return rows as text, a line each."""
    cells = [("task", "way", "takes", "reference", "takes", "ratio", "of peak")]
    for row in rows:
        cells.append((row.task, row.way, quantity(row.value, row.unit), row.reference or "-",
                      quantity(row.reference_value, row.unit), number(row.ratio, "{:.3g} x"),
                      number(row.share, "{:.0%}")))
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
                     for line in cells)


def quantity(value: float, unit: str) -> str:
    """Return seconds or bytes for people: "12.3 ms"."""
    scale, name = next((entry for entry in UNITS[unit] if value >= entry[0]), UNITS[unit][-1])
    return number(value / scale, "{:.3g} " + name)


def number(value: float, form: str) -> str:
    """Return a number by a format, "-" for NaN."""
    return "-" if math.isnan(value) else form.format(value)


def report(rows: Sequence[Row], json_path: str = "", device: str = "cpu") -> None:
    """Print a table, and write it as JSON where a path is given."""
    print(f"\n{machine(device)}\n{table(rows)}", flush=True)
    if json_path:
        Path(json_path).write_text(json.dumps(
            {"machine": machine(device), "rows": [plain(asdict(row)) for row in rows]}, indent=2,
            allow_nan=False), encoding="utf-8")


def plain(values: dict) -> dict:
    """Return a dict that JSON has words for: NaN becomes null."""
    return {name: None if value != value else value for name, value in values.items()}


def read_rows(json_path: str | Path) -> list[Row]:
    """Return the rows that `report` wrote."""
    rows = json.loads(Path(json_path).read_text(encoding="utf-8"))["rows"]
    return [replace(Row("", "", math.nan), **{name: value for name, value in row.items()
                                              if value is not None}) for row in rows]
