"""The figures of a run: one row an epoch, its line on the screen, its curves, their meaning."""

import csv
from pathlib import Path

import numpy as np

from utils.cli import writing
from utils.page import new_figure, save_figure

SMOOTHED_FROM = 10  # points: a line through fewer would show a trend that nobody can know
CLIFF = 8  # a step of so many median steps is none of the noise
MARKED_UP_TO = 100  # points: more dots hide the line


def describe_epoch(row: dict, epochs: int, best_map: float | None) -> str:
    """Return the line that sums up an epoch of `epochs`; `best_map` is the best val mAP so far."""
    scored = ""
    if row["val_map"] is not None:
        scored = f", val mAP@0.5 {row['val_map']:.3f}, best {best_map:.3f}"
    seconds = row["train_seconds"] + row["eval_seconds"]
    return (f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.3f} "
            f"(loc {row['loc']:.3f}, conf {row['conf']:.3f}){scored}, {seconds:.0f} s")


def write_history(rows: list[dict], folder: Path) -> None:
    """Write rows of the same keys as history.csv; UserError leaves the file as it was."""
    with (writing(folder / "history.csv") as part,
          open(part, "w", newline="", encoding="utf-8") as file):
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def has_stalled(rows: list[dict], patience: int) -> bool:
    """Tell whether the last `patience` measurements have not beaten an earlier one; 0: never.

    Epochs without a val_map are no measurements, and one that equals the best does not beat it.
    """
    maps = [row["val_map"] for row in rows if row["val_map"] is not None]
    return 0 < patience < len(maps) and max(maps[-patience:]) <= max(maps[:-patience])


def smooth(values: list[float]) -> np.ndarray | None:
    """Return the trend of values in their order, as many; None where they are too few for one.

    Parabolas fitted to windows of a tenth of the values, 5 at least (Savitzky and Golay, 1964).
    A cliff would bend them: the first drop of a loss is left as it is, and behind it each value
    stays within those that its window holds.
    """
    values = np.asarray(values, dtype=float)
    jumps = np.abs(np.diff(values))
    start = int(np.cumprod(jumps > CLIFF * np.median(jumps)).sum()) if len(jumps) else 0
    rest = values[start:]
    if len(rest) < SMOOTHED_FROM:
        return None
    from scipy.ndimage import maximum_filter1d, minimum_filter1d
    from scipy.signal import savgol_filter

    window = max(5, len(rest) // 10 | 1)
    trend = savgol_filter(rest, window, polyorder=2).clip(
        minimum_filter1d(rest, window, mode="nearest"),
        maximum_filter1d(rest, window, mode="nearest"))
    return np.concatenate([values[:start], trend])


def plot_history(rows: list[dict], folder: Path) -> None:
    """Draw loss.png, and map.png where any row has a val_map; UserError where one cannot be."""
    figure, axes = new_figure("Training loss", "epoch", "loss")
    for name in ("loss", "loc", "conf"):
        _plot(axes, rows, name, name)
    highest, lowest = max(row["loss"] for row in rows), min(row["loss"] for row in rows)
    if 0 < 10 * lowest < highest:  # else the first epoch makes the others one flat line
        axes.set_yscale("log", nonpositive="clip", subs=(2, 5))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    _save(figure, axes, folder / "loss.png")
    measured = [row for row in rows if row["val_map"] is not None]
    if measured:
        figure, axes = new_figure("Validation mAP@0.5 (area)", "epoch", "mAP")
        _plot(axes, measured, "val_map", "mAP")
        best = max(measured, key=lambda row: (row["val_map"], row["epoch"]))
        axes.plot(best["epoch"], best["val_map"], "o", color="tab:orange", clip_on=False,
                  label=f"best: {best['val_map']:.3f}, epoch {best['epoch']}")
        axes.set_ylim(0, 1)
        _save(figure, axes, folder / "map.png")


def _plot(axes, rows, name, label):
    """Draw a column of rows over their epochs, pale behind its trend where there is one."""
    epochs, values = zip(*((row["epoch"], row[name]) for row in rows))
    trend = smooth(values)
    raw, = axes.plot(epochs, values, marker="." if len(rows) <= MARKED_UP_TO else None,
                     label=label if trend is None else None, linewidth=1)
    if trend is not None:
        raw.set_alpha(0.3)
        axes.plot(epochs, trend, color=raw.get_color(), label=label)


def _save(figure, axes, path):
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    smoothed = axes.lines[0].get_alpha()
    axes.legend(title="pale: measured, line: smoothed" if smoothed else None)
    with writing(path) as part:
        save_figure(figure, part, dpi=100)
