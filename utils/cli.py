"""Command line of the scripts: settings from flags, errors without tracebacks, paths."""

import dataclasses
import sys
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parent.parent


class UserError(Exception):
    """A mistake that the user can mend; the message names the file or value and the remedy."""


def resolve(path):
    """Return `path` as an absolute Path; relative ones start at the repo, wherever one stands."""
    return ROOT / Path(path).expanduser()


def shorten(path):
    """Return `path` as text, relative to the repo where it lies inside it."""
    path = Path(path)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def make_folder(path):
    """Create folder `path` and its parents; return it as an absolute Path.

    Raises UserError where a file is in the way or the place is read-only.
    """
    folder = resolve(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{shorten(folder)}: the folder cannot be made ({error.strerror}); "
                        "choose another place in the settings.") from None
    return folder


def read_text(path, *, remedy):
    """Return the text of a UTF-8 file (with or without BOM).

    Raises UserError with `remedy` where the file is missing, a folder, or not UTF-8.
    """
    path = resolve(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{shorten(path)}: {error.strerror}. {remedy}") from None
    except UnicodeDecodeError:
        raise UserError(f"{shorten(path)}: not a UTF-8 text file; save it as UTF-8.") from None


def settings_table(settings):
    """Return the settings in effect as aligned `name  value` lines."""
    values = dataclasses.asdict(settings)
    width = max(map(len, values))
    return "\n".join(f"  {name:<{width}}  {value!r}" for name, value in values.items())


def run(main, settings_class):
    """Run a script: parse flags into `settings_class`, call `main(settings)`, print user errors.

    Every field of the dataclass is a flag and the comment beside it is its help. A UserError ends
    in one or two lines and exit status 2; any other exception is a bug and keeps its traceback.
    """
    # Lines must reach a pipe or log file when they are printed, not when the script ends.
    sys.stdout.reconfigure(line_buffering=True)
    settings = tyro.cli(settings_class, use_underscores=True)
    try:
        main(settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped.", file=sys.stderr)
        sys.exit(130)
