"""Plots and tables of results."""

import math

from matplotlib.figure import Figure

from utils.evaluation import mean_ap


def new_figure(title, xlabel, ylabel):
    """Return (figure, axes) that need no display."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


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


def plot_precision_recall(results, class_names, path):
    """Draw the precision-recall curve of every class that has objects."""
    figure, axes = new_figure("Precision and recall at IoU 0.5", "recall", "precision")
    for result, name in zip(results, class_names):
        if result.num_objects:
            axes.plot(result.recall, result.precision, label=f"{name} {result.ap_area:.3f}")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    if len(class_names) <= 25:
        axes.legend(loc="lower left", fontsize=8)
    figure.savefig(path, dpi=100)


def format_results(results, class_names):
    """Return a table of AP by class and the mean, as text."""
    width = max(5, *map(len, class_names))
    lines = [f"{'class':<{width}}  {'AP area':>8} {'AP 11pt':>8} {'objects':>8} {'found':>8}"]
    for name, result in zip(class_names, results):
        lines.append(f"{name:<{width}}  {_number(result.ap_area)} {_number(result.ap_11_point)} "
                     f"{result.num_objects:>8} {result.num_detections:>8}")
    lines.append(f"{'mean':<{width}}  {_number(mean_ap(results))} "
                 f"{_number(mean_ap(results, 'ap_11_point'))}")
    return "\n".join(lines)


def _number(value):
    return f"{'-':>8}" if math.isnan(value) else f"{value:>8.4f}"
