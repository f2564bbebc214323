"""The folder of a run: it belongs to one run alone, and no figure in it costs a run its work."""

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.checkpoint import Checkpoint, save_checkpoint
from utils.cli import UserError, make_folder, shorten
from utils.training.history import plot_history, write_history

# Windows forbids these as names, whatever follows behind a dot.
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{k}" for port in ("COM", "LPT")
                                          for k in range(1, 10))}
MAX_NAME_BYTES = 150  # file systems end at 255, Windows at 260 for the whole path


def check_run_name(name: str) -> None:
    """Raise UserError unless `name` is "" or the name of one folder on every system."""
    sound = re.fullmatch(r'[^<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]*', name)
    if (not sound or name != name.strip(" ") or name.endswith(".") or len(name.encode())
            > MAX_NAME_BYTES or name.partition(".")[0].strip().upper() in RESERVED):
        raise UserError(f"run_name {name[:60]!r} cannot be the name of a folder: use letters, "
                        f"digits, - and _, at most {MAX_NAME_BYTES} of them; save_dir says where "
                        "it goes.")


@contextlib.contextmanager
def claim_folder(save_dir: str, run_name: str, settings_text: str) -> Iterator[Path]:
    """Make a run's folder with settings.txt in it, for this run alone, whoever else starts now.

    A run_name of "" takes date and time, with -2, -3 behind where another run has them. A run that
    leaves no checkpoint leaves no folder. Raises UserError for a name that another run has, and a
    place that cannot be written; `check_run_name` comes before.
    """
    name = run_name or time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        folder = make_folder(Path(save_dir) / (f"{name}-{number}" if number > 1 else name))
        if _write_claim(folder, settings_text):
            break
        if run_name:
            raise UserError(f"{shorten(folder)}: holds another run; choose another run_name or "
                            "remove the folder.")
    try:
        yield folder
    finally:
        if not any(folder.glob("*.pth")):
            with contextlib.suppress(OSError):
                (folder / "settings.txt").unlink()
                folder.rmdir()


def _write_claim(folder, text):
    """Write settings.txt into an empty folder; False where another run was first."""
    try:
        if any(folder.iterdir()):
            return False
        # "x" makes the file or fails: of two runs that find the folder empty, one goes on.
        with open(folder / "settings.txt", "x", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"{shorten(folder)}: cannot be written ({error.strerror}); is the disk "
                        "full or the folder read-only? Choose another save_dir.") from None
    return True


class RunFolder:
    """The checkpoints and figures of a run, written in the order of their worth."""

    def __init__(self, path: Path, *, save_period: int):
        self.path, self.save_period = path, save_period
        self.history = []  # a row an epoch
        self.best_map, self.best_epoch = None, None  # of best.pth; None: not measured so far
        self.checkpoint, self.epoch = None, 0

    def save_epoch(self, checkpoint: Checkpoint) -> None:
        """Write last.pth, and best.pth too as long as there was no val mAP to choose by."""
        self.checkpoint, self.epoch = checkpoint, checkpoint.progress["epoch"]
        save_checkpoint(self.path / "last.pth", checkpoint)
        if self.save_period and self.epoch % self.save_period == 0:
            save_checkpoint(self.path / f"epoch_{self.epoch}.pth", checkpoint)
        if self.best_map is None:
            save_checkpoint(self.path / "best.pth", checkpoint)
            self.best_epoch = self.epoch

    def finish_epoch(self, row: dict, measure: Callable[[], float | None] | None) -> dict:
        """Choose best.pth by val mAP and record the epoch, even where measuring is interrupted.

        `row` is of the epoch that `save_epoch` saved; `measure` returns val mAP or None, and is
        None where it is not due. Returns the row with val_map and eval_seconds.
        """
        start, val_map = time.perf_counter(), None
        try:
            val_map = measure() if measure else None
            if val_map is not None and (self.best_map is None or val_map >= self.best_map):
                progress = self.checkpoint.progress | {"val_map": val_map}
                save_checkpoint(self.path / "best.pth", self.checkpoint._replace(progress=progress))
                self.best_map, self.best_epoch = val_map, self.epoch
        finally:
            seconds = round(time.perf_counter() - start, 1)
            row = row | {"val_map": val_map, "eval_seconds": seconds}
            self._record(row)
        return row

    def _record(self, row):
        """Add an epoch to the history file and the curves; a line says what cannot be written."""
        self.history.append(row)
        for write in (write_history, plot_history):
            try:
                write(self.history, self.path)
            except UserError as error:
                print(f"note: {error} Training goes on.")

    def describe_end(self, epochs: int) -> str:
        """Return what a user wants to know after the last epoch, and what to type next."""
        best = shorten(self.path / "best.pth")
        scored = "no val mAP" if self.best_map is None else f"val mAP@0.5 {self.best_map:.3f}"
        path = f'"{best}"' if " " in best else best
        return (f"best: epoch {self.best_epoch} of {epochs} ({scored}): {best}; last.pth, "
                "history and curves lie beside it\n"
                f"next: python get_map.py --model_path {path}\n"
                f"      python predict.py --model_path {path}")
