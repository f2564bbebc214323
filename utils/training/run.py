"""A training run: its folder, how far it has come, saving it, and going on with it."""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from utils.cli import UserError, check_file, make_folder, resolve, shorten, typeable
from utils.data.annotations import Record
from utils.distributed import launcher, rank, world_size
from utils.training.logging import plot_history, write_history

COUNTERS = ("epoch", "step_in_epoch", "step", "seconds", "sums", "history", "best_map",
            "best_epoch")


class Run:
    """The state of a run beside network and optimizer, and its files: last.pth, best.pth, history.

    Attributes:
        epoch: finished epochs, their measurement included.
        step_in_epoch, step: optimizer steps done in the epoch under way, and in all.
        seconds, sums: of the epoch under way, training alone; {name: sum over its steps}.
        history: a dict an epoch.
        best_map, best_epoch: of best.pth; None before.

    Args:
        folder: of the run.
        network, optimizer, scaler: saved with it.
        class_names, settings: kept in its checkpoints, plain types.
        save_period: epochs between checkpoints that are kept; 0 keeps none.
        basis: what its numbers depend on beside the settings, as `describe_basis` returns it.
    """

    def __init__(self, folder: Path, *, network: nn.Module, optimizer: torch.optim.Optimizer,
                 scaler: torch.amp.GradScaler, class_names: Sequence[str],
                 settings: dict[str, Any], save_period: int, basis: dict[str, Any]):
        self.folder, self.save_period, self.basis = folder, save_period, basis
        self.network, self.optimizer, self.scaler = network, optimizer, scaler
        self.class_names, self.settings = tuple(class_names), settings
        self.epoch = self.step_in_epoch = self.step = 0
        self.seconds, self.sums, self.history = 0.0, {}, []
        self.best_map = self.best_epoch = None
        self.saved = None  # (epoch, step) of last.pth

    def log(self, values: dict[str, float], seconds: float) -> None:
        """Count an optimizer step, with what it adds to the sums of its epoch."""
        self.step, self.step_in_epoch = self.step + 1, self.step_in_epoch + 1
        self.seconds += seconds
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in values.items()}

    def save(self) -> None:
        """Write last.pth, with everything that the run needs to go on exactly from here."""
        states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            states["cuda"] = torch.cuda.get_rng_state()
        run = {name: getattr(self, name) for name in COUNTERS}
        run |= {"optimizer": self.optimizer.state_dict()["state"], "basis": self.basis,
                "scaler": self.scaler.state_dict(), "generators": states}
        self._write("last.pth", run=run)
        self.saved = self.epoch, self.step_in_epoch

    def _write(self, name, *, val_map=None, run=None):
        if rank() == 0:
            progress = {"epoch": self.epoch, "step": self.step, "val_map": val_map}
            save_checkpoint(self.folder / name, Checkpoint(
                self.network.spec, self.class_names, self.network.state_dict(), self.settings,
                progress, run))

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from the last.pth of a run with the same settings; the network has its weights."""
        state = checkpoint.run
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.optimizer.load_state_dict({"state": state["optimizer"],
                                        "param_groups": self.optimizer.state_dict()["param_groups"]})
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["generators"]["cpu"])
        if torch.cuda.is_available() and "cuda" in state["generators"]:
            torch.cuda.set_rng_state(state["generators"]["cuda"])
        self.saved = self.epoch, self.step_in_epoch

    def end_epoch(self, values: dict[str, Any], val_map: float | None) -> dict[str, Any]:
        """Record an epoch that was trained, saved and measured; choose best.pth.

        `values` are the columns of history.csv behind the epoch's number; `val_map` is None where
        it was not measured: as long as it never was, the last epoch is the best. Returns the row.
        """
        self.epoch, self.step_in_epoch = self.epoch + 1, 0
        self.seconds, self.sums = 0.0, {}
        row = {"epoch": self.epoch} | values
        self.history = [*self.history, row]
        if self.best_map is None if val_map is None else val_map >= (self.best_map or 0):
            self.best_map, self.best_epoch = val_map, self.epoch
            self._write("best.pth", val_map=val_map)
        if self.save_period and self.epoch % self.save_period == 0:
            self._write(f"epoch_{self.epoch}.pth", val_map=val_map)
        if rank() == 0:
            write_history(self.history, self.folder)
            plot_history(self.history, self.folder)
        return row

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Say how to go on where the run ends early."""
        if error is not None and self.saved and rank() == 0:
            last = self.folder / "last.pth"
            print(f"{shorten(last)} holds the run up to step {self.saved[1]} of epoch "
                  f"{self.saved[0] + 1}; to go on:\n"
                  f"{launcher()} train.py --resume {typeable(last)}", file=sys.stderr)


class StopFlag:
    """Inside this context Ctrl-C and SIGTERM set `requested`; a second one stops at once.

    A signal that the process ignores (nohup) stays ignored.
    """

    def __init__(self):
        self.requested, self.process = False, os.getpid()

    def __enter__(self) -> "StopFlag":
        names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        self.previous = {getattr(signal, name): signal.getsignal(getattr(signal, name))
                         for name in names}
        for number, handler in self.previous.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, self._handle)
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


def create_run_folder(save_dir: str, run_name: str, settings_text: str, *, resume: bool) -> Path:
    """Make the folder of a new run, with settings.txt in it.

    Args:
        save_dir: the folder of all runs.
        run_name: "" takes the date and time.
        settings_text: the content of settings.txt.
        resume: take a folder that a run left without any checkpoint.

    Raises UserError for a name that another run has.
    """
    folder = make_folder(save_dir) / (run_name or time.strftime("%Y-%m-%d_%H-%M-%S"))
    if folder.parent != resolve(save_dir):
        raise UserError(f"run_name {run_name!r} must be the name of a folder, without a path; "
                        "save_dir says where it goes.")
    try:
        folder.mkdir(exist_ok=resume and not any(folder.glob("*.pth")))
    except OSError as error:
        raise UserError(f"{shorten(folder)}: cannot be made ({error.strerror}); choose another "
                        f"run_name, or go on with that run: --resume {typeable(folder)}") from None
    (folder / "settings.txt").write_text(settings_text + "\n", encoding="utf-8")
    return folder


def find_last(resume: str, *, save_dir: str, run_name: str) -> Path | None:
    """Return the last.pth that a setting `resume` names.

    "last" is that of the run `run_name`, or None where that has none yet and is to begin; without a
    run_name the newest under save_dir. Anything else is the path of a last.pth or its folder.

    Raises UserError where there is none.
    """
    if resume != "last":
        path = Path(resume) if Path(resume).exists() else resolve(resume)
        return check_file(path / "last.pth" if path.is_dir() else path)
    if run_name:
        path = resolve(save_dir) / run_name / "last.pth"
        return path if path.exists() else None
    path = newest_checkpoint(save_dir, "last.pth")
    if path is None:
        raise UserError(f"resume: there is no last.pth under {save_dir}; train without resume, or "
                        "give run_name too, which begins that run.")
    return path


def describe_basis(lists: dict[str, list[Record]]) -> dict[str, Any]:
    """Return what the numbers of a run depend on beside its settings: lists, and processes."""
    return {"processes": world_size()} | {
        f"{name} list": f"{len(records)} images, {list_digest(records)}"
        for name, records in lists.items()}


def list_digest(records: Sequence[Record]) -> str:
    """Return a digest of the file names and objects of a list, in their order.

    Folders do not count, so that data may be moved.
    """
    digest = hashlib.sha256()
    for record in records:
        digest.update(os.fsencode(record.path.name) + b"\0")
        for part in record[1:]:
            digest.update(part.tobytes() + b"\0")
    return digest.hexdigest()[:16]


def check_resumable(checkpoint: Checkpoint, path: Path) -> None:
    """Raise UserError for a checkpoint that holds weights alone."""
    if checkpoint.run is None or "basis" not in checkpoint.run:
        raise UserError(f"{shorten(path)}: holds weights alone, and only the last.pth of a run can "
                        f"be resumed; begin a new run from it: --model_path {typeable(path)}")


def check_basis(basis: dict[str, Any], checkpoint: Checkpoint, path: Path) -> None:
    """Raise UserError unless a run goes on with its lists and with as many processes."""
    before = checkpoint.run["basis"]
    changes = [f"{name} ({before.get(name)}, now {value})" for name, value in basis.items()
               if before.get(name) != value]
    if changes:
        raise UserError(f"{shorten(path)}: since the run began these have changed: "
                        f"{', '.join(changes)}; restore them, or begin a new run from its weights: "
                        f"--model_path {typeable(path)}")
