"""A training run: how far it has come, saving it, and going on with it."""

import hashlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from utils.checkpoint import Checkpoint, on_cpu, save_checkpoint
from utils.cli import VERSION, UserError, typeable, writing
from utils.data.annotations import Record
from utils.data.loader import Batch, Loader
from utils.device import HostCopy
from utils.distributed import check_same_on_all_ranks, rank, sum_over_ranks, world_size
from utils.multibox.loss import Losses
from utils.training.logging import Board, plot_history, write_history

# Attributes of a Run that last.pth holds.
PROGRESS = ("epoch", "step_in_epoch", "step", "seconds", "sums", "learning_rate", "history",
            "best_map", "best_epoch")
ESTIMATE_STEP = 20  # after which the time of the run is known well enough to print it
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")
           if hasattr(signal, name)]


class StepResult(NamedTuple):
    """What an optimizer step did, summed over all ranks."""

    positives: float
    objects: float
    images: float
    losses: HostCopy  # the parts of the loss, and what else has to be finite
    indices: list[int]  # of this rank's images in the train list


class Run:
    """The state of a run beside network and optimizer, and its files: last.pth, best.pth, history.

    `settings` are plain types. `lists` are {name: records} that the run must have again when it
    goes on. Every `save_period` epochs a checkpoint is kept; 0 keeps none.
    """

    def __init__(self, folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer,
                 scaler: torch.amp.GradScaler, class_names: Sequence[str], *,
                 settings: dict[str, Any], lists: dict[str, list[Record]], save_period: int):
        self.folder, self.save_period = folder, save_period
        self.network, self.optimizer, self.scaler = network, optimizer, scaler
        self.class_names, self.settings = tuple(class_names), settings
        # What the numbers of a run depend on beside its settings.
        self.basis = {f"{name} list": f"{len(records)} images, {_digest(records)}"
                      for name, records in lists.items()}
        self.basis |= {"classes": ", ".join(class_names), "number of processes": world_size()}
        check_same_on_all_ranks(self.basis)
        self.epoch = self.step_in_epoch = self.step = 0  # those that are done
        self.seconds, self.sums = 0.0, {}  # training time and losses of the epoch under way
        self.learning_rate, self.history = 0.0, []  # of the last step; a dict an epoch
        self._waiting = []  # StepResults that are not in the sums yet
        self.best_map = self.best_epoch = None
        self.saved, self.saved_at = None, 0.0  # (epoch, step_in_epoch) of last.pth, and when
        self._writer, self._files = ThreadPoolExecutor(1), []  # the Future of one under way

    def steps(self, loader: Loader, num_epochs: int) -> Iterator[list[Batch]]:
        """Yield the batches of each step left of the epoch under way, with a progress bar.

        The caller does the step and calls `log` before it takes the next one.
        """
        start = time.perf_counter() - self.seconds
        with tqdm(total=len(loader), initial=self.step_in_epoch, unit="step", leave=False,
                  desc=f"epoch {self.epoch + 1}/{num_epochs}",
                  disable=True if rank() else None) as bar:
            for batches in loader.epoch(self.epoch, self.step_in_epoch):
                yield batches
                self.seconds = time.perf_counter() - start
                steps_left = (num_epochs - self.epoch) * len(loader) - self.step_in_epoch
                seconds_left = steps_left * self.seconds / self.step_in_epoch
                bar.update()
                time_left = timedelta(seconds=round(seconds_left))
                bar.set_postfix_str(f"loss {self._mean('loss'):.3f}, left {time_left}")
                if self.step == min(ESTIMATE_STEP, len(loader)) and rank() == 0:
                    bar.write(f"{num_epochs} epochs take about {time_left}, and the time to "
                              "measure val mAP")

    def log(self, result: StepResult) -> None:
        """Count an optimizer step. What a GPU computed is looked at with the next one."""
        self.step, self.step_in_epoch = self.step + 1, self.step_in_epoch + 1
        self.learning_rate = self.optimizer.param_groups[0]["lr"]
        self._add_up()
        self._waiting.append(result)
        if not result.losses.on_gpu:
            self._add_up()

    def _add_up(self):
        """Add the results of steps to the sums; UserError where a loss is not finite."""
        for positives, objects, images, losses, indices in self._waiting:
            losses = losses.tolist()
            if not all(map(math.isfinite, losses)):
                # Lines count from 1, and the first has the class names.
                raise UserError(
                    "the loss or its gradient is not finite; lower learning_rate, or check the "
                    "annotations of these lines of the train list: "
                    f"{sorted(index + 2 for index in indices)}")
            parts = dict(zip(Losses._fields, losses))  # the norm of the gradient comes behind
            row = {"loss": sum(parts.values()), **parts, "positives": positives,
                   "objects": objects, "images": images, "steps": 1}
            self.sums = {name: self.sums.get(name, 0.0) + row[name] for name in row}
        self._waiting = []

    def _mean(self, name):
        """Return the mean over the steps of the epoch; nan before the first one."""
        return self.sums[name] / self.sums["steps"] if self.sums else math.nan

    def end_epoch(self, figures: dict[str, Any]) -> dict[str, Any]:
        """Record an epoch, with its `val_figures` or {}; return its row of the history."""
        self._add_up()
        sums, val_map = self.sums, figures.get("val_map")
        if not self.history and sums["objects"] and not sums["positives"]:
            raise UserError(f"none of {sums['objects']:.0f} objects matched a prior; leave their "
                            "sizes and ratios (), or take what voc_annotation.py suggests.")
        row = {"epoch": self.epoch + 1, "learning_rate": self.learning_rate}
        row |= {name: self._mean(name) for name in ("loss", *Losses._fields)}
        row |= {"positives": round(sums["positives"] / sums["images"], 2),
                "train_seconds": round(self.seconds, 1), "val_map": val_map,
                "eval_seconds": round(time.perf_counter() - self.saved_at, 1)}
        self.epoch, self.step_in_epoch, self.seconds, self.sums = self.epoch + 1, 0, 0.0, {}
        self.history = [*self.history, row]
        if self.best_map is None or val_map is not None and val_map >= self.best_map:
            self.best_map, self.best_epoch = val_map, self.epoch
            self._write("best.pth", figures)
        if self.save_period and self.epoch % self.save_period == 0:
            self._write(f"epoch_{self.epoch}.pth", figures)
        if rank() == 0:
            write_history(self.history, self.folder)
            plot_history(self.history, self.folder)
            self.board.add(row)
        return row

    def show(self, samples: Image.Image | None) -> None:
        """Write samples.jpg, and the same for TensorBoard."""
        if samples is not None and rank() == 0:
            with writing(self.folder / "samples.jpg") as part:
                samples.save(part, "JPEG", quality=90)
            self.board.add_samples(np.asarray(samples), self.epoch)

    def save(self) -> None:
        """Write last.pth, with everything that the run needs to go on exactly from here."""
        self._add_up()
        self._write("last.pth", {}, run={name: getattr(self, name) for name in PROGRESS} | {
            "basis": self.basis, "optimizer": self.optimizer.state_dict()["state"],
            "scaler": self.scaler.state_dict(), "generator": torch.get_rng_state()})
        self.saved, self.saved_at = (self.epoch, self.step_in_epoch), time.perf_counter()

    def save_or_stop(self, every: int, stop: "StopFlag") -> None:
        """Save every so many steps (0: never), and where a rank has to stop: KeyboardInterrupt."""
        stopping = sum_over_ranks([float(stop.requested)])[0] > 0
        if stopping or every and self.step % every == 0:
            self.save()
        if stopping:
            raise KeyboardInterrupt  # for any signal: the script ends as by Ctrl-C

    def _write(self, name, figures, run=None):
        """Write a checkpoint: of a network on a GPU in a thread, while the next steps run."""
        self._finish_file()
        if rank() == 0:
            progress = {"epoch": self.epoch, "step": self.step, "best_map": self.best_map,
                        "version": VERSION, **figures}
            checkpoint = Checkpoint(self.network.spec, self.class_names, self.network.state_dict(),
                                    self.settings, progress, run)
            if next(self.network.parameters()).is_cuda:
                checkpoint = Checkpoint(**on_cpu(checkpoint._asdict()))
                self._files = [self._writer.submit(save_checkpoint, self.folder / name, checkpoint)]
            else:
                save_checkpoint(self.folder / name, checkpoint)

    def _finish_file(self):
        """Wait for a checkpoint under way; raise the error that its thread had."""
        while self._files:
            self._files.pop().result()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from the `run` of a last.pth, or UserError where lists or classes have changed."""
        changes = [f"{name} ({state['basis'].get(name)}, now {value})"
                   for name, value in self.basis.items() if state["basis"].get(name) != value]
        if changes:
            last = typeable(self.folder / "last.pth")
            raise UserError(f"{last}: changed since the run began: {', '.join(changes)}; "
                            f"put them back, or begin a new run from it: --model_path {last}")
        for name in PROGRESS:
            setattr(self, name, state[name])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["generator"])
        self.saved = self.epoch, self.step_in_epoch

    def __enter__(self) -> "Run":
        if rank() == 0:
            self.board = Board(self.folder, first_epoch=self.epoch + 1)
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Finish the last checkpoint; say how to go on where the run ends early."""
        self._finish_file()
        if error is not None and self.saved and rank() == 0:
            last = typeable(self.folder / "last.pth")
            print(f"{last} holds the run up to step {self.saved[1]} of epoch {self.saved[0] + 1}; "
                  f"to go on:\npython train.py --resume {last}", file=sys.stderr)


class StopFlag:
    """Inside this context SIGNALS (Ctrl-C is one) set `requested`; a second one stops at once."""

    def __enter__(self) -> "StopFlag":
        self.requested, self.process = False, os.getpid()
        self.previous = {number: signal.signal(number, self._handle) for number in SIGNALS
                         if signal.getsignal(number) != signal.SIG_IGN}
        return self

    def __exit__(self, kind, error, trace) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        if os.getpid() != self.process:  # a worker: the script ends it
            return
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        os.write(2, b"\nstopping after this step; once more (Ctrl-C) stops at once\n")


def _digest(records):
    """Return a digest of the file names and objects of a list; its folders may have moved."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(os.fsencode(record.path.name))
        for part in record[1:4]:
            digest.update(part.tobytes())
    return digest.hexdigest()[:16]
