"""Command line of the scripts: settings from flags, errors without tracebacks, paths."""

import contextlib
import dataclasses
import errno
import io
import math
import os
import re
import shlex
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from utils.memory import is_out_of_memory, out_of_memory
from utils.streams import is_second, open_streams, output_lost, raising_ctrl_c

ROOT = Path(__file__).resolve().parent.parent
# Why files cannot be written; Windows has no quota.
FILE_ERRNOS = {getattr(errno, name, None) for name in
               ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EFBIG")}
# On Windows scanners and viewers hold files for a while.
RETRY_SECONDS = 3 if os.name == "nt" else 0
# What a setting may be in Python, by its type hint.
TYPES = {float: (Real, "a number"), int: (Integral, "a whole number"),
         bool: (bool, "True or False"), str: ((str, os.PathLike), "a text")}


class UserError(Exception):
    """A mistake that the user can mend; the message names the file or value and the remedy."""


class Stopped(KeyboardInterrupt):
    """A signal asked the script to end: its number, and the text to print."""

    def __init__(self, number: int, text: str = "stopped."):
        super().__init__(text)
        self.number, self.status = number, 128 + number


class PeerLeft(Exception):
    """Another process of the same job ended, so that this one cannot go on either."""


def resolve(path: str | os.PathLike) -> Path:
    """Return `path` as an absolute Path; relative ones start at the repo, wherever one stands.

    Raises UserError for what no file can be called: a zero byte in it, or too long.
    """
    path = Path(path)
    with contextlib.suppress(RuntimeError):  # ~$report.jpg, a lock file of Word: no user's home
        path = path.expanduser()
    try:
        # Only what looks odd is tried out: lists hold tens of thousands of paths.
        if "\0" in str(path) or len(os.fsencode(path)) > 255:
            os.lstat(ROOT / path)
    except ValueError as error:
        raise UserError(f"{str(path)!a}: no possible name ({error}); check the path.") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{path}: too long for a file name; check the path.") from None
    return ROOT / path


def typed_path(text: str | os.PathLike) -> Path:
    """Return a path that a person typed: from where they stand, else the repo, else UserError."""
    path = resolve(text)
    if os.path.lexists(text):
        return Path(text).absolute()
    if not os.path.lexists(path):
        looked = dict.fromkeys((os.getcwd(), str(ROOT)))
        places = f" in {' or '.join(looked)}" if path == ROOT / text != Path(text) else ""
        raise UserError(f"{text}: no such file or folder{places}; check the path.")
    return path


def check_file(path: str | os.PathLike) -> Path:
    """Return `path`, absolute; UserError for a missing file, a folder, a pipe and a device."""
    path = resolve(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; check the path.") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise UserError(f"{path}: {kind}, not a file; check the path.")
    return path


def shorten(path: str | os.PathLike) -> str:
    """Return `path` as text, relative to the repo where it lies inside it."""
    path = Path(path)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def typeable(path: str | os.PathLike) -> str:
    """Return `path`, shortened, as one argument of a command line."""
    quote = shlex.quote if os.name == "posix" else lambda text: subprocess.list2cmdline([text])
    return quote(shorten(path))


def make_folder(path: str | os.PathLike) -> Path:
    """Create folder `path` and its parents, or UserError; return it as an absolute Path."""
    folder = resolve(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be made ({error.strerror}); "
                        "choose another place in the settings.") from None
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
    """Give the block a file to write, which becomes `path` at its end: the old one or the new.

    Raises UserError naming `path` where it cannot be written.
    """
    part = path.with_suffix(".part")  # one that a killed run left is written over
    try:
        yield part
        _replace(part, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}).") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _replace(part, path):
    """Rename a file over another one, once more where Windows says that somebody has it open."""
    end = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return os.replace(part, path)
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.1)


def typed_flags() -> set[str]:
    """Return the settings that stand on the command line, whatever their values."""
    names = {word.partition("=")[0].strip("-").replace("-", "_")
             for word in sys.argv[1:] if word.startswith("--")}
    return names | {name.removeprefix("no_") for name in names}


def shared_fields(settings: Any, kind: type) -> dict[str, Any]:
    """Return {field: value} of the fields that settings has in common with a dataclass."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(kind)
            if hasattr(settings, field.name)}


def settings_table(settings: Any) -> str:
    """Return the settings in effect as aligned `name  value` lines."""
    values = dataclasses.asdict(settings)
    width = max(map(len, values))
    return "\n".join(f"  {name:<{width}}  {value!r}" for name, value in values.items())


def check_fields(settings: Any, limits: Mapping[str, tuple[float, float]] | None = None) -> None:
    """Check a settings object that was made in Python as strictly as flags are.

    `limits` is {field: (lowest, highest)} of numbers, alone or in tuples; both are allowed. Raises
    UserError for a value of another type, none of its choices, not finite, or out of limits.
    """
    for name, hint in get_type_hints(type(settings)).items():
        value, kinds = getattr(settings, name), get_args(hint)
        if get_origin(hint) is Literal:
            if value not in kinds:
                raise UserError(f"{name} must be one of {', '.join(map(repr, kinds))}, "
                                f"got {value!r}.")
            continue
        is_tuple = get_origin(hint) is tuple
        if is_tuple and not (isinstance(value, tuple)
                             and (... in kinds or len(value) == len(kinds))):
            example = type(settings).__dataclass_fields__[name].default
            raise UserError(f"{name} must be a tuple such as {example}, got {value!r}.")
        for part in value if is_tuple else (value,):
            check_value(name, part, kinds[0] if is_tuple else hint, (limits or {}).get(name))


def check_value(name: str, value: Any, hint: Any, limits: tuple[float, float] | None) -> None:
    """Raise UserError unless a value has the type of its hint, is finite, and within limits."""
    allowed, words = TYPES.get(hint, (object, ""))
    if not isinstance(value, allowed) or isinstance(value, bool) and hint in (int, float):
        raise UserError(f"{name} must be {words}, got {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be finite, got {value}.")
    if limits and not limits[0] <= value <= limits[1]:
        raise UserError(f"{name} must lie in {limits[0]}..{limits[1]}, got {value}.")


def printable(text: str) -> str:
    """Return a line without the control characters that file names may hold, and cut short."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda c: f"\\x{ord(c[0]):02x}", text)
    return f"{text[:400]} ... {text[-200:]}" if len(text) > 620 else text


def describe_error(error: UserError | str) -> str:
    """Return the lines that are printed for an error."""
    return "error: " + "\n".join(map(printable, str(error).split("\n")))


def _ending(error, settings):
    """Return (what to print, exit status) for an exception, None for a bug."""
    cause = error
    while cause:  # Ctrl-C may come out as the error that some library makes of it
        if isinstance(cause, KeyboardInterrupt):
            return f"\n{str(cause) or 'stopped.'}", getattr(cause, "status", 130)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, (UserError, PeerLeft)):
        return describe_error(error), 2
    if is_out_of_memory(error):
        return describe_error(out_of_memory(settings)), 2
    if isinstance(error, OSError) and error.errno in FILE_ERRNOS:
        return describe_error(f"{error.filename or 'a file'}: {error.strerror}; "
                              "make room or choose another place."), 2
    return None


def run(main: Callable[[Any], None], settings_class: type) -> None:
    """Run a script: parse flags into `settings_class`, call `main(settings)`, print user errors.

    Every field of the dataclass is a flag and the comment beside it is its help. Exit status: 2
    with one or two lines for a UserError, lack of memory, or a file that cannot be written; 74
    (EX_IOERR) if the output went to a file that could not take it; 130 for Ctrl-C. Any other
    exception is a bug and keeps its traceback.
    """
    open_streams()
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # Pillow's, of any large image
    settings = status = None
    with raising_ctrl_c():
        try:
            errors = io.StringIO() if is_second("LOCAL_RANK") else sys.stderr
            with contextlib.redirect_stderr(errors):  # all processes have the same mistyped flags
                settings = tyro.cli(settings_class, use_underscores=True)
            check_fields(settings)
            main(settings)
        except SystemExit as stop:  # --help or a mistyped flag
            status = stop.code
        except (Exception, KeyboardInterrupt) as error:
            ending = _ending(error, settings)
            if ending is None:
                raise
            text, status = ending
            print(text, file=sys.stderr)
    if output_lost():
        status = status or 74
    if status is not None:
        sys.exit(status)
