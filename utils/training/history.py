"""The figures of a run: one row an epoch, its line on the screen, its curves."""

import csv
import os
from pathlib import Path

from utils.page import new_figure


class History:
    """One row an epoch, kept in memory and in a CSV file."""

    def __init__(self, path: Path):
        self.path, self.rows = path, []

    def write(self) -> None:
        """Write all rows, which have the same keys; OSError leaves the file as it was."""
        part = self.path.with_name(self.path.name + ".part")
        with open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(part, self.path)


def describe_epoch(row: dict, epochs: int, best_map: float | None) -> str:
    """Return the line that sums up an epoch of `epochs`; `best_map` is the best val mAP so far."""
    scored = ""
    if row["val_map"] is not None:
        scored = f", val mAP@0.5 {row['val_map']:.3f}, best {best_map:.3f}"
    seconds = row["train_seconds"] + row["eval_seconds"]
    return (f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.3f} "
            f"(loc {row['loc']:.3f}, conf {row['conf']:.3f}){scored}, {seconds:.0f} s")


def plot_history(rows: list[dict], folder: Path) -> None:
    """Draw loss.png, and map.png where any was measured, into `folder`; may raise OSError.

    Args:
        rows: dicts with epoch, loss, loc, conf, val_map (None where not measured).
        folder: of the run.
    """
    epochs = [row["epoch"] for row in rows]
    figure, axes = new_figure("Training loss", "epoch", "loss")
    for name in ("loss", "loc", "conf"):
        axes.plot(epochs, [row[name] for row in rows], marker=".", label=name)
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(folder / "loss.png", dpi=100)
    measured = [row for row in rows if row["val_map"] is not None]
    if measured:
        figure, axes = new_figure("Validation mAP@0.5 (area)", "epoch", "mAP")
        axes.plot([row["epoch"] for row in measured], [row["val_map"] for row in measured],
                  marker=".")
        axes.set_ylim(0, 1)
        figure.savefig(folder / "map.png", dpi=100)
