"""The folder of a run: it belongs to one run alone, and no figure in it costs a run its work."""

import contextlib
import errno
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from utils.cli import (PeerLeft, Stopped, UserError, check_file, make_folder, resolve, shorten,
                       typeable, typed_path)
from utils.distributed import launcher, rank, recall, remember, share
from utils.memory import is_out_of_memory
from utils.training.history import plot_history, write_history
from utils.training.run_state import CannotLearn, finite_number, whole_number

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


def find_last(resume: str, *, save_dir: str, run_name: str) -> Path | None:
    """Return the last.pth that setting `resume` means; None, with a line, where a run is to begin.

    "last" is that of the run `run_name`, which may not exist yet, else the newest one under
    save_dir; anything else is a path. Raises UserError where there is none.
    """
    if resume != "last":
        path = typed_path(resume)
        return check_file(path / "last.pth" if path.is_dir() else path)
    if not run_name:
        path = newest_checkpoint(save_dir, "last.pth")
        if path is None:
            raise UserError(f"resume: no run to go on with, there is no last.pth under {save_dir}. "
                            "Train without resume, or give run_name too, which begins that run.")
        return path
    path = resolve(save_dir) / run_name / "last.pth"
    if path.exists():
        return path
    print(f"note: there is no {shorten(path)} yet, so the run starts from the beginning")
    return None


def resume_restarted() -> dict[str, str]:
    """Return the settings that go on with the run that this torchrun job began, {} at its start."""
    folder = recall("folder")
    if folder is None:
        return {}
    last = Path(folder) / "last.pth"
    print(f"torchrun started again: this goes on with the run in {shorten(folder)}")
    if last.exists():
        return {"resume": str(last)}
    return {"resume": "last", "run_name": last.parent.name}


@contextlib.contextmanager
def hold_folder(folder: Path, text: str = "") -> Iterator[None]:
    """Keep a run's folder from a second writer; the lock ends with this process, however it ends.

    Of several ranks the first has it, and a restart of this torchrun job will find the folder.
    Writes `text`, if any, to settings.txt, which is what is locked: nobody else in this process
    may open it. Raises UserError where another process has it.
    """
    if rank():
        yield
        return
    with open(folder / "settings.txt", "a+", encoding="utf-8") as file:
        _lock(file)
        remember("folder", str(folder.absolute()))
        if text:
            file.truncate(0)
            file.write(text + "\n")
            file.flush()
        yield


def _lock(file):
    """Lock a file for this process alone, not for its workers; UserError where another has it.

    Where the file system knows no locks, nothing can be told.
    """
    try:
        if os.name == "nt":
            import msvcrt
            file.seek(2 ** 30)  # far behind the text, which others may read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise UserError(f"{shorten(Path(file.name).parent)}: this run is being trained by "
                            "another process now; wait for its end or stop it.") from None


@contextlib.contextmanager
def claim_folder(save_dir: str, run_name: str, settings_text: str, *, again: bool = False
                 ) -> Iterator[Path]:
    """Make a run's folder with settings.txt in it, for this run alone, whoever else starts now.

    Rank 0 does, and all ranks get its path.
    A run_name of "" takes date and time, with -2, -3 behind where another run has them. A run that
    leaves no checkpoint leaves no folder; `again` takes one that a killed run left so. Raises
    UserError for a name that another run has, and a place that cannot be written; `check_run_name`
    comes before.
    """
    if rank():
        yield share(None)
        return
    name = run_name or time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        folder = make_folder(Path(save_dir) / (f"{name}-{number}" if number > 1 else name))
        if _write_claim(folder, settings_text):
            break
        if again and (folder / "settings.txt").exists() and not any(folder.glob("*.pth")):
            break
        if run_name:
            raise UserError(f"{shorten(folder)}: holds another run; choose another run_name, "
                            f"remove the folder, or go on with it: --resume {typeable(folder)}")
    held = False
    try:
        with hold_folder(folder, settings_text):
            held = True
            yield share(folder)
    finally:
        if held and not any(folder.glob("*.pth")):
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
    """The checkpoints and figures of a run, written in the order of their worth, by rank 0."""

    def __init__(self, path: Path, *, save_period: int):
        self.path, self.save_period = path, save_period
        self.history = []  # a row an epoch
        self.best_map, self.best_epoch = None, None  # of best.pth; None: not measured so far
        self.row = None  # of an epoch that is saved, but not yet measured and recorded
        self.checkpoint = None  # in last.pth

    def state_dict(self) -> dict:
        """Return what `load_state_dict` needs to go on with the history and the choice of best."""
        return {"history": self.history, "row": self.row,
                "best_map": self.best_map, "best_epoch": self.best_epoch}

    def load_state_dict(self, checkpoint: Checkpoint) -> None:
        """Go on from a last.pth; ValueError, KeyError or TypeError for one of another form."""
        state, self.checkpoint = checkpoint.run, checkpoint
        rows = [*state["history"], *([state["row"]] if state["row"] else [])]
        if [row["epoch"] for row in rows] != list(range(1, state["epoch"] + 1)):
            raise ValueError("its history has not a row an epoch")
        for row in rows:
            for value in row.values():
                value is None or finite_number(value)
        for name in ("history", "row", "best_map", "best_epoch"):
            setattr(self, name, state[name])
        self.best_map is None or finite_number(self.best_map)
        self.best_epoch is None or whole_number(self.best_epoch)

    def save_last(self, checkpoint: Checkpoint) -> None:
        """Write last.pth, with all that the run needs to go on; `checkpoint.run` is the rest."""
        self._save("last.pth", checkpoint._replace(run=checkpoint.run | self.state_dict()))
        self.checkpoint = checkpoint

    def _save(self, name, checkpoint):
        if rank() == 0:
            save_checkpoint(self.path / name, checkpoint)

    def save_epoch(self, checkpoint: Checkpoint, row: dict) -> None:
        """Write last.pth, and best.pth too as long as there was no val mAP to choose by.

        `row` is of the epoch; until `finish_epoch` has come to its end, last.pth holds it apart.
        """
        self.row, epoch = row, checkpoint.progress["epoch"]
        self.save_last(checkpoint)
        if self.save_period and epoch % self.save_period == 0:
            self._save(f"epoch_{epoch}.pth", checkpoint._replace(run=None))
        if self.best_map is None:
            self._save("best.pth", checkpoint._replace(run=None))
            self.best_epoch = epoch

    def finish_epoch(self, measure: Callable[[], float | None] | None) -> dict:
        """Choose best.pth by val mAP and record the epoch, even where measuring is interrupted.

        The epoch is the one that `save_epoch` saved; `measure` returns val mAP or None, and is
        None where it is not due. Returns its row with val_map and eval_seconds.
        """
        start, val_map = time.perf_counter(), None
        try:
            val_map = measure() if measure else None
            if val_map is not None and (self.best_map is None or val_map >= self.best_map):
                progress = self.checkpoint.progress | {"val_map": val_map}
                self._save("best.pth", self.checkpoint._replace(progress=progress, run=None))
                self.best_map, self.best_epoch = val_map, self.row["epoch"]
        finally:
            seconds = round(time.perf_counter() - start, 1)
            row = self.row | {"val_map": val_map, "eval_seconds": seconds}
            self._record(row)
        self.row = None
        return row

    def _record(self, row):
        """Add an epoch to the history file and the curves; a line says what cannot be written."""
        self.history.append(row)
        for write in (write_history, plot_history) if rank() == 0 else ():
            try:
                write(self.history, self.path)
            except UserError as error:
                print(f"note: {error} Training goes on.")

    @contextlib.contextmanager
    def saying_how_to_go_on(self, out_of_memory: str, with_less: str) -> Iterator[None]:
        """Add to what ends a run early what to type to go on, where there is a last.pth.

        Where memory ran out that is `out_of_memory`, and the flags `with_less` beside the command.
        """
        try:
            yield
        except CannotLearn:
            raise
        except (Exception, Stopped) as error:
            known = isinstance(error, (UserError, Stopped, PeerLeft))
            if self.checkpoint is None or not (known or is_out_of_memory(error)):
                raise
            rest = self.describe_rest()
            text = f"{error}\n{rest}" if known else f"{out_of_memory}\n{rest}{with_less}"
            raise (Stopped(error.number, text) if isinstance(error, Stopped) else
                   PeerLeft(text) if isinstance(error, PeerLeft) else UserError(text)) from None

    def describe_rest(self) -> str:
        """Return how far last.pth has come and the command that goes on from it."""
        last, progress = self.path / "last.pth", self.checkpoint.progress
        place = (f"step {progress['step']} of epoch {progress['epoch'] + 1}"
                 if progress.get("step") else
                 f"the end of epoch {progress['epoch']}" if progress["epoch"] else "its beginning")
        return (f"{shorten(last)} holds the run up to {place}; to go on:\n"
                f"{launcher()} train.py --resume {typeable(last)}")

    def describe_best(self) -> str:
        """Return which epoch best.pth is, and its val mAP as it was measured then."""
        scored = "no val mAP" if self.best_map is None else f"val mAP@0.5 {self.best_map:.4f}"
        return f"epoch {self.best_epoch} of {len(self.history)} ({scored})"
