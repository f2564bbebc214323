"""The figures of a run: one row an epoch, its line on the screen, its curves."""

import csv
from pathlib import Path

from utils.cli import writing
from utils.page import new_figure, save_figure


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


def plot_history(rows: list[dict], folder: Path) -> None:
    """Draw loss.png, and map.png where any row has a val_map; UserError where one cannot be."""
    epochs = [row["epoch"] for row in rows]
    figure, axes = new_figure("Training loss", "epoch", "loss")
    for name in ("loss", "loc", "conf"):
        axes.plot(epochs, [row[name] for row in rows], marker=".", label=name)
    axes.set_ylim(bottom=0)
    axes.legend()
    with writing(folder / "loss.png") as part:
        save_figure(figure, part, dpi=100)
    measured = [row for row in rows if row["val_map"] is not None]
    if measured:
        figure, axes = new_figure("Validation mAP@0.5 (area)", "epoch", "mAP")
        axes.plot([row["epoch"] for row in measured], [row["val_map"] for row in measured],
                  marker=".")
        axes.set_ylim(0, 1)
        with writing(folder / "map.png") as part:
            save_figure(figure, part, dpi=100)
