"""The figures of a run: one row an epoch, its line on the screen, its curves."""

import csv

from utils.page import new_figure


class History:
    """One row an epoch, kept in memory and in a CSV file that is complete after every epoch."""

    def __init__(self, path):
        self.path, self.rows = path, []

    def append(self, row):
        """Add a dict; all rows have the same keys."""
        self.rows.append(row)
        with open(self.path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
            writer.writerows(self.rows)


def describe_epoch(row, epochs, best):
    """Return the line that sums up an epoch of `epochs`; `best` is the best val mAP so far."""
    scored = ""
    if row["val_map"] is not None:
        scored = f", val mAP@0.5 {row['val_map']:.3f}, best {best:.3f}"
    seconds = row["train_seconds"] + row["eval_seconds"]
    return (f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.3f} "
            f"(loc {row['loc']:.3f}, conf {row['conf']:.3f}){scored}, {seconds:.0f} s")


def plot_history(rows, folder):
    """Draw loss.png and map.png of a training run into `folder`.

    Args:
        rows: list of dicts with epoch, loss, loc, conf, val_map (None where not measured).
        folder: Path.
    """
    epochs = [row["epoch"] for row in rows]
    figure, axes = new_figure("Training loss", "epoch", "loss")
    for name in ("loss", "loc", "conf"):
        axes.plot(epochs, [row[name] for row in rows], marker=".", label=name)
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(folder / "loss.png", dpi=100)
    measured = [row for row in rows if row["val_map"] is not None]
    figure, axes = new_figure("Validation mAP@0.5 (area)", "epoch", "mAP")
    axes.plot([row["epoch"] for row in measured], [row["val_map"] for row in measured], marker=".")
    axes.set_ylim(0, 1)
    figure.savefig(folder / "map.png", dpi=100)
