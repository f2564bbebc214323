"""Command line of the scripts: paths, settings from flags, errors without tracebacks."""

import contextlib
import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

ROOT = Path(__file__).resolve().parent.parent
VERSION = "1.0"  # of this project, which checkpoints, exported files and results name
# Type hint of a setting -> what it may be in Python, and the words for that.
TYPES = {float: (Real, "a number"), int: (Integral, "an integer"),
         bool: (bool, "True or False"), str: ((str, os.PathLike), "a text")}
# In Python's and PyTorch's errors; the system kills a worker for its memory.
OUT_OF_MEMORY = ("MemoryError|out of memory|allocate memory|enough memory|DataLoader worker|"
                 "can't start new thread|could not create a primitive")
PATHS = ("path", "dir", "list", "folder", "weights")  # how names of settings that are paths end
WORDS = ("", "coco", "coco-light", "imagenet")  # values of such settings that are no paths
# Settings of bubbliiiing/ssd-pytorch: what they are called here; docs/migrate.md has them all.
RENAMED = {
    "Cuda": "device", "cuda": "device", "sync_bn": "sync_batch_norm", "fp16": "precision fp16",
    "pretrained": "backbone_weights", "Init_lr": "learning_rate", "Min_lr": "min_lr_ratio",
    "Freeze_Train": "freeze_epochs", "Freeze_Epoch": "freeze_epochs", "UnFreeze_Epoch": "epochs",
    "Freeze_batch_size": "freeze_batch_size", "Unfreeze_batch_size": "batch_size",
    "Init_Epoch": "resume last", "optimizer_type": "optimizer", "lr_decay_type": "schedule",
    "eval_flag": "eval_period", "train_annotation_path": "train_list", "MINOVERLAP": "iou",
    "val_annotation_path": "val_list"}


class UserError(Exception):
    """A mistake that the user can fix; the message names the file or value and the remedy."""


class Settings:
    """Base of settings: a path that is given starts at the current directory, a default at ROOT."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if name.endswith(PATHS) and value != getattr(type(self), name):
                object.__setattr__(self, name, _start_here(value))


def _start_here(value):
    """Return the value of such a setting, absolute unless it is a word, a number or an address."""
    if (not isinstance(value, (str, os.PathLike)) or value in WORDS or str(value).isdecimal()
            or "://" in str(value)):
        return value
    return str(given_path(value))


def resolve(path: str | os.PathLike) -> Path:
    """Return the path of a setting as an absolute Path; a relative one starts at the repository."""
    return ROOT / os.path.expanduser(path)


def given_path(path: str | os.PathLike) -> Path:
    """Return a path that a person gives as an absolute Path; it starts at the current directory."""
    return Path(os.path.expanduser(path)).absolute()


def typed_path(text: str | os.PathLike) -> Path:
    """Return `given_path` of a file or folder that is there; else UserError."""
    path = given_path(text)
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder; check the path.")
    return path


def check_file(path: str | os.PathLike) -> Path:
    """Return `path` as an absolute Path, or UserError where it is no file."""
    path = resolve(path)
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; check the path.")
    return path


def shorten(path: str | os.PathLike) -> str:
    """Return `path` as text, relative to the repository where it lies inside it."""
    path = Path(path)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def typeable(path: str | os.PathLike) -> str:
    """Return `path`, quoted, as one argument of a command line in the current directory."""
    path, here = Path(path), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def make_folder(path: str | os.PathLike) -> Path:
    """Create folder `path` and its parents, or UserError; return it as an absolute Path."""
    folder = resolve(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another.") from None
    return folder


def walk_files(folder: Path) -> dict[str, Path]:
    """Return {path relative to folder, with slashes: absolute path}, sorted; links are followed.

    Hidden files and folders are left out, such as the `._a.xml` that macOS adds to archives.
    """
    files = {}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        parent = Path(parent)  # once: it takes longer than to join a name to it
        prefix = "" if parent == folder else f"{parent.relative_to(folder).as_posix()}/"
        files |= {prefix + name: parent / name for name in sorted(names) if name[0] != "."}
    return files


def read_text(path: str | os.PathLike, *, remedy: str) -> str:
    """Return the text of a UTF-8 file; UserError with the `remedy` where it cannot be read."""
    path = resolve(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. {remedy}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file; save it as UTF-8.") from None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give the block a temporary file that replaces `path` at its end; UserError if it cannot."""
    part = path.with_suffix(".part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}).") from None
    finally:
        part.unlink(missing_ok=True)


def settings_table(settings: Any) -> str:
    """Return the settings in effect as aligned `name  value` lines."""
    return "\n".join(f"  {name:<22}  {value!r}" for name, value in asdict(settings).items())


def check_fields(settings: Any, limits: Mapping[str, tuple[float, float]] | None = None) -> None:
    """Check the types and ranges of a settings object, whether made by flags or in Python.

    `limits` is {field: (lowest, highest)} of numbers, alone or in tuples; other numbers are >= 0.
    Raises UserError for a value of another type, not among the choices or out of limits.
    """
    for name, hint in get_type_hints(type(settings)).items():
        value, kinds = getattr(settings, name), get_args(hint)
        if get_origin(hint) is Literal:
            if value not in kinds:
                raise UserError(f"{name} must be one of {kinds}, got {value!r}.")
            continue
        if get_origin(hint) is tuple:
            if not isinstance(value, tuple) or ... not in kinds and len(value) != len(kinds):
                raise UserError(f"{name} must be a {hint}, got {value!r}.")
        else:
            value, kinds = (value,), (hint,)
        kind, words = TYPES[kinds[0]]
        low, high = (limits or {}).get(name, (0, math.inf))
        for part in value:
            if not isinstance(part, kind) or isinstance(part, bool) and kind is not bool:
                raise UserError(f"{name} must be {words}, got {part!r}.")
            if kind in (Integral, Real) and (not low <= part <= high or part == math.inf):
                raise UserError(f"{name} must lie in {low:g}..{high:g}, got {part}.")


def first_line(error: object) -> str:
    """Return the first sentence of an exception's message, at most 120 characters."""
    text = str(error).strip().partition("\n")[0].split(". ")[0]
    return text[:120] or type(error).__name__


def run(main: Callable[[Any], None], settings_class: type) -> None:
    """Run a script: parse flags into `settings_class` and call `main(settings)`.

    Every field is a flag, and the comment beside it is its help. UserError and lack of memory end
    in one line and status 2, Ctrl-C and SIGTERM in 130; other exceptions keep their traceback.
    """
    # Lines appear as they are printed, and an old encoding costs a character, not the run.
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's signal is a Ctrl-C
    flags = {word.partition("=")[0][2:].replace("-", "_") for word in sys.argv}
    for name in flags & RENAMED.keys():
        sys.exit(f"error: --{name} is --{RENAMED[name]} here; see docs/migrate.md.")
    settings = tyro.cli(settings_class, use_underscores=True)
    # Also where a flag repeats the default.
    settings = replace(settings, **{
        name: _start_here(value) for name, value in vars(settings).items()
        if name in flags and name.endswith(PATHS)})
    try:
        check_fields(settings)
        return main(settings)
    except KeyboardInterrupt:
        text, status = "\nstopped.", 130
    except UserError as error:
        text, status = f"error: {error}", 2
    except (MemoryError, RuntimeError) as error:
        if not re.search(OUT_OF_MEMORY, repr(error)):
            raise
        workers = "" if "CUDA" in repr(error) else ", num_workers"
        text, status = f"error: out of memory; lower batch_size{workers} or input_shape.", 2
    print(text, file=sys.stderr)
    sys.exit(status)
