"""What a run shows: history.csv, curves, lines on the screen, TensorBoard."""

import csv
import importlib.util
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli import typeable, writing
from utils.multibox.loss import Losses
from utils.page import new_figure, save_figure

ENOUGH_STEPS = 1000  # a detector of fewer steps has seen too little; the README names it too
RISE, NEAR_ZERO, GOOD = 0.01, 0.05, 0.95  # of val mAP: more than noise; nothing; enough


def describe_epoch(row: dict[str, Any], num_epochs: int, best_map: float | None) -> str:
    """Return the line that sums up an epoch by its row of the history."""
    measured = ""
    if row["val_map"] is not None:
        measured = f", val mAP@0.5 {row['val_map']:.3f}, best {best_map:.3f}"
    seconds = row["train_seconds"] + row["eval_seconds"]
    return (f"epoch {row['epoch']}/{num_epochs}: loss {row['loss']:.3f} "
            f"(loc {row['loc']:.3f}, conf {row['conf']:.3f}){measured}, {seconds:.0f} s")


def describe_start(folder: Path, where: str, total_steps: int, steps_an_epoch: int) -> str:
    """Return where a run computes, how long it is, and where its settings and results go."""
    text = f"running on {where}, {total_steps:,} steps; settings.txt and results in {folder}"
    if total_steps < ENOUGH_STEPS:
        text += (f"\nnote: {total_steps:,} steps are few to learn from; {ENOUGH_STEPS:,} are "
                 f"better: epochs = {math.ceil(ENOUGH_STEPS / steps_an_epoch)} or more.")
    return text


def describe_end(folder: Path, history: list[dict[str, Any]], best_epoch: int) -> str:
    """Return what a user wants to know after the last epoch, and what to type next."""
    measuring = sum(row["eval_seconds"] for row in history)
    total = measuring + sum(row["train_seconds"] for row in history)
    best = typeable(folder / "best.pth")
    text = (f"trained: {len(history)} epochs in {timedelta(seconds=round(total))}, "
            f"{timedelta(seconds=round(measuring))} of it for val mAP; best epoch: {best_epoch}\n")
    if was_too_short(history):
        text += ("too short: val mAP was still rising or near 0; go on, with the other flags of "
                 f"this run: python train.py --model_path {best} --epochs {2 * len(history)}\n")
    return (f"{text}next: python get_map.py --model_path {best}\n"
            f"      python predict.py --model_path {best}")


def was_too_short(history: list[dict[str, Any]]) -> bool:
    """Tell whether the last measurement was near 0, or well above all others and not good."""
    maps = [row["val_map"] for row in history if row["val_map"] is not None]
    return bool(maps) and (maps[-1] < NEAR_ZERO or maps[-1] < GOOD and
                           maps[-1] - max(maps[:-1], default=1) > RISE)


def has_stalled(history: list[dict[str, Any]], patience: int) -> bool:
    """Tell whether the last `patience` measurements have not beaten an earlier one; 0: never."""
    maps = [row["val_map"] for row in history if row["val_map"] is not None]
    return 0 < patience < len(maps) and max(maps[-patience:]) <= max(maps[:-patience])


def write_history(history: list[dict[str, Any]], folder: Path) -> None:
    """Write the rows, a dict an epoch, as history.csv."""
    with (writing(folder / "history.csv") as part,
          open(part, "w", newline="", encoding="utf-8") as file):
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def plot_history(history: list[dict[str, Any]], folder: Path) -> None:
    """Draw loss.png, and map.png where any epoch was measured."""
    figure, axes = new_figure("Training loss", "epoch", "loss")
    for name in ("loss", *Losses._fields):
        _plot(axes, history, name)
    axes.set_ylim(bottom=0)
    _save(figure, axes, folder / "loss.png")
    measured = [row for row in history if row["val_map"] is not None]
    if measured:
        figure, axes = new_figure("Validation mAP@0.5 (area)", "epoch", "mAP")
        _plot(axes, measured, "val_map")
        axes.set_ylim(0, 1)
        _save(figure, axes, folder / "map.png")


def _plot(axes, rows, name):
    """Draw a column of the history."""
    axes.plot([row["epoch"] for row in rows], [row[name] for row in rows], marker=".", label=name)


def _save(figure, axes, path):
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.legend()
    with writing(path) as part:
        save_figure(figure, part)


class Board:
    """TensorBoard's curves and samples, if it is installed; epochs >= first_epoch are replaced."""

    def __init__(self, folder: Path, *, first_epoch: int):
        self.writer = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
            self.writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def add(self, row: dict[str, Any]) -> None:
        """Add an epoch's row of the history."""
        for name, value in row.items() if self.writer else ():
            if value is not None:
                self.writer.add_scalar(name, value, row["epoch"])

    def add_samples(self, image: np.ndarray, epoch: int) -> None:
        """Add an (H, W, 3) uint8 RGB image."""
        if self.writer:
            self.writer.add_image("samples", image, epoch, dataformats="HWC")
            self.writer.flush()
