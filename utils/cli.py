"""Command line of the scripts: paths, settings from flags, errors without tracebacks."""

import contextlib
import dataclasses
import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

ROOT = Path(__file__).resolve().parent.parent
# What a setting may be in Python, by its type hint.
TYPES = {float: (Real, "a number"), int: (Integral, "an integer"),
         bool: (bool, "True or False"), str: ((str, os.PathLike), "a text")}
# In PyTorch's RuntimeErrors; a killed worker may be noticed anywhere.
OUT_OF_MEMORY = "out of memory|allocate memory|enough memory|DataLoader worker"


class UserError(Exception):
    """A mistake that the user can fix; the message names the file or value and the remedy."""


def resolve(path: str | os.PathLike) -> Path:
    """Return `path` as an absolute Path; a relative one starts at the repository."""
    return ROOT / os.path.expanduser(path)


def typed_path(text: str | os.PathLike) -> Path:
    """Return a path that a person typed, in the current directory or the repo; else UserError."""
    for path in (Path(os.path.expanduser(text)).absolute(), resolve(text)):
        if os.path.exists(path):
            return path
    raise UserError(f"{text}: no such file or folder; check the path.")


def check_file(path: str | os.PathLike) -> Path:
    """Return `path` as an absolute Path, or UserError for a missing file or a folder."""
    path = resolve(path)
    if not os.path.isfile(path):
        kind = "not a file" if os.path.exists(path) else "No such file"
        kind = "a folder, not a file" if os.path.isdir(path) else kind
        raise UserError(f"{path}: {kind}; check the path.")
    return path


def shorten(path: str | os.PathLike) -> str:
    """Return `path` as text, relative to the repository where it lies inside it."""
    path = Path(path)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def typeable(path: str | os.PathLike) -> str:
    """Return `path`, shortened and quoted, as one argument of a command line."""
    return shlex.quote(shorten(path))


def make_folder(path: str | os.PathLike) -> Path:
    """Create folder `path` and its parents, or UserError; return it as an absolute Path."""
    folder = resolve(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be made ({error.strerror}); "
                        "choose another one in the settings.") from None
    return folder


def read_text(path: str | os.PathLike, *, remedy: str) -> str:
    """Return the text of a UTF-8 file, with or without BOM; UserError with `remedy` for others."""
    path = resolve(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. {remedy}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file; save it as UTF-8.") from None


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give the block a temporary file, which replaces `path` at its end: the old file or the new.

    Raises UserError naming `path` where it cannot be written.
    """
    part = path.with_suffix(".part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}).") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def settings_table(settings: Any) -> str:
    """Return the settings in effect as aligned `name  value` lines."""
    values = dataclasses.asdict(settings)
    width = max(map(len, values))
    return "\n".join(f"  {name:<{width}}  {value!r}" for name, value in values.items())


def check_fields(settings: Any, limits: Mapping[str, tuple[float, float]] | None = None) -> None:
    """Check the types and ranges of a settings object, whether made by flags or in Python.

    `limits` is {field: (lowest, highest)} of numbers, alone or in tuples; both are allowed, and no
    number may be negative without them. Raises UserError for a value of another type, none of its
    choices, not finite, or out of limits.
    """
    for name, hint in get_type_hints(type(settings)).items():
        value, kinds = getattr(settings, name), get_args(hint)
        if get_origin(hint) is Literal:
            if value not in kinds:
                choices = ", ".join(map(repr, kinds))
                raise UserError(f"{name} must be one of {choices}, got {value!r}.")
        elif get_origin(hint) is tuple:
            if not isinstance(value, tuple) or ... not in kinds and len(value) != len(kinds):
                example = type(settings).__dataclass_fields__[name].default
                raise UserError(f"{name} must be a tuple such as {example}, got {value!r}.")
            for part in value:
                _check_value(name, part, kinds[0], (limits or {}).get(name))
        else:
            _check_value(name, value, hint, (limits or {}).get(name))


def _check_value(name, value, hint, limit):
    allowed, words = TYPES[hint]
    if not isinstance(value, allowed) or isinstance(value, bool) and hint is not bool:
        raise UserError(f"{name} must be {words}, got {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be finite, got {value}.")
    low, high = limit or (0, math.inf)  # no number of a script may be negative
    if hint in (int, float) and not low <= value <= high:
        raise UserError(f"{name} must lie in {low:g}..{high:g}, got {value}.")


def printable(text: str) -> str:
    """Return `text` with escapes for what a terminal cannot show; file names may hold any."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def first_line(error: object) -> str:
    """Return the first sentence of an exception's message, printable and short."""
    text = str(error).strip().partition("\n")[0].split(". ")[0]
    return printable(text)[:120] or type(error).__name__


def describe_error(error: UserError | str) -> str:
    """Return the lines that are printed for an error."""
    return "error: " + "\n".join(map(printable, str(error).split("\n")))


def run(main: Callable[[Any], None], settings_class: type) -> None:
    """Run a script: parse flags into `settings_class` and call `main(settings)`.

    Every field of the dataclass is a flag, and the comment beside it is its help. A UserError and
    lack of memory end in one line and status 2, Ctrl-C and SIGTERM in 130, an output that nobody
    reads any more (`| head`) in 1. Any other exception is a bug and keeps its traceback.
    """
    if os.environ.get("RANK", "0") != "0":  # of several processes one prints
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    # Lines arrive as they are printed; an old encoding costs a character, not the run.
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's signal is a Ctrl-C
    settings = tyro.cli(settings_class, use_underscores=True)
    try:
        check_fields(settings)
        return main(settings)
    except KeyboardInterrupt as error:
        text, status = f"\n{str(error) or 'stopped.'}", 130
    except BrokenPipeError:
        text, status = "stopped: the program that read the output has ended", 1
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    except UserError as error:
        text, status = describe_error(error), 2
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search(OUT_OF_MEMORY, str(error)):
            raise
        text, status = "error: out of memory; lower batch_size, num_workers or input_shape.", 2
    print(text, file=sys.stderr)
    sys.exit(status)
