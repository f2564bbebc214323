"""Checkpoints: weights with everything needed to use them, as plain types."""

import contextlib
import os
import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from utils.cli import UserError, resolve, shorten
from utils.spec import SSDSpec

FORMAT = "ssd-checkpoint-1"

# Bytes of tensors that a weights file may unfold to: seven SSD512, or a whole VGG16 and half.
# What claims more is crafted or damaged, and is refused before memory is taken.
MAX_UNPACKED = 2 ** 30
MAX_CLASSES = 10_000

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTER = "num_batches_tracked"  # of batch norm; nothing that is computed depends on it


class Checkpoint(NamedTuple):
    """The contents of a checkpoint file."""

    spec: SSDSpec
    class_names: tuple[str, ...]
    state_dict: dict  # name -> tensor
    settings: dict  # of the training run, plain types
    progress: dict  # epoch, val_map, ...: plain types


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a Checkpoint so that a crash or a power cut leaves either the old file or the new one.

    Raises UserError where the file cannot be written.
    """
    path = resolve(path)
    values = checkpoint._asdict() | {"format": FORMAT, "spec": checkpoint.spec.to_dict(),
                                     "class_names": list(checkpoint.class_names)}
    values["state_dict"] = {name: tensor.detach().cpu().contiguous()
                            for name, tensor in checkpoint.state_dict.items()}
    part = path.with_name(path.name + ".part")
    try:
        _save_with_checksums(values, part)
        _sync(part, os.O_RDWR)
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if not isinstance(error, (OSError, RuntimeError)):
            raise  # an interruption, above all
        raise UserError(f"{shorten(path)}: cannot be written ({_reason(error)}); "
                        "is the disk full or the folder read-only?") from None
    if os.name == "posix":  # the new name too must reach the disk; not all file systems can
        with contextlib.suppress(OSError):
            _sync(path.parent, os.O_RDONLY)


def _save_with_checksums(values, path):
    """torch.save; its checksums may have been switched off by a caller (since PyTorch 2.6)."""
    if getattr(torch.serialization, "get_crc32_options", lambda: True)():
        return torch.save(values, path)
    torch.serialization.set_crc32_options(True)
    try:
        torch.save(values, path)
    finally:
        torch.serialization.set_crc32_options(False)


def _sync(path, flags):
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_tensor_file(path: str | Path) -> object:
    """Load a PyTorch file without running any code that it may hold.

    Returns:
        whatever plain object was saved, on the CPU.

    Raises:
        UserError: missing, empty, a web page, damaged (a checksum is wrong, where there are any),
            too large when unpacked, not a PyTorch file, or holding code.
    """
    path = check_weights_file(path)
    with one_line(path):
        if _starts_with(path, b"PK\x03\x04") or zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_unpacked(sum(entry.file_size for entry in archive.infolist()), path)
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"wrong checksum of {damaged[-60:]!r}")
        else:
            check_unpacked(path.stat().st_size, path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)


@contextlib.contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn whatever reading a weights file raises into a UserError of one line.

    Only calls of the libraries that parse files belong inside: on damaged bytes the parsers of
    PyTorch, zip, NumPy and HDF5 raise any type of exception, SystemError and MemoryError included.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # "Unsupported operand" is what garbage gives; code is named as a global or a class.
        # NumPy says "allow_pickle". A bare pickle of protocol 3 or later is not torch.save's and
        # may hold any code; old PyTorch stops at its first byte.
        if re.search(r"GLOBAL|Unsupported (global|class)|REDUCE|allow_pickle", str(error)) or (
                isinstance(error, pickle.UnpicklingError)
                and _starts_with(path, b"\x80\x03", b"\x80\x04", b"\x80\x05")):
            raise UserError(f"{shorten(path)}: refused, loading it would run code that it holds "
                            "beside its tensors; ask its author for a plain state dict.") from None
        # A KeyError is an unknown opcode of the pickle: its text would be a number.
        unknown = isinstance(error, (pickle.UnpicklingError, KeyError))
        reason = "not a weights file" if unknown else _reason(error)
        raise UserError(f"{shorten(path)}: cannot be read ({reason}); the file is damaged, "
                        "incomplete, or of another kind.") from None


def _reason(error):
    """Return the first sentence of an exception, printable and short."""
    text = (str(error).splitlines() or [""])[0].split(". ")[0].strip()
    return "".join(c if c.isprintable() else "?" for c in text[:120]) or type(error).__name__


def _starts_with(path, *starts):
    with open(path, "rb") as file:
        return file.read(4).startswith(starts)


def check_unpacked(size: int, path: Path) -> None:
    """Raise UserError where a file would take more memory than weights of an SSD can need."""
    if size > MAX_UNPACKED:
        raise UserError(f"{shorten(path)}: refused, it would unpack to {size / 2 ** 30:.1f} GiB; "
                        f"weights of {MAX_UNPACKED / 2 ** 30:g} GiB at most are read.")


def check_weights_file(path: str | Path) -> Path:
    """Return the absolute path of a file that is at least not a failed download.

    Raises UserError for a missing or empty file, a folder, a pipe or device, and a web page.
    """
    path = resolve(path)
    try:
        mode = path.stat().st_mode  # opening a pipe would wait for ever
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
            raise UserError(f"{shorten(path)}: {kind}, not a file; check the path.")
        with open(path, "rb") as file:
            start = file.read(512)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = ("no such file" if isinstance(error, FileNotFoundError)
                  else getattr(error, "strerror", None) or str(error))
        raise UserError(f"{shorten(path)}: {reason}; check the path.") from None
    if not start:
        raise UserError(f"{shorten(path)}: the file is empty; get it again.")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{shorten(path)}: a web page, not weights: the download failed; "
                        "get it again.")
    return path


def is_checkpoint(values: object) -> bool:
    """Tell whether the contents of a file are a checkpoint of this project, of any version."""
    return isinstance(values, dict) and "format" in values and (
        "spec" in values or str(values["format"]) == FORMAT)


def parse_checkpoint(values: dict, path: str | Path) -> Checkpoint:
    """Return the Checkpoint in the contents of a file.

    Raises UserError, naming the file, where something is missing or is not what it should be.
    """
    try:
        for part in ("spec", "state_dict", "settings", "progress"):
            if not isinstance(values[part], dict):
                raise ValueError(f"{part} is a {type(values[part]).__name__}")
        if values["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        spec, names = SSDSpec.from_dict(values["spec"]), values["class_names"]
        if not isinstance(names, (list, tuple)) or not 1 <= len(names) <= MAX_CLASSES:
            raise ValueError(f"class_names must be a list of 1..{MAX_CLASSES}")
        if not all(isinstance(name, str) and name for name in names):
            raise ValueError("class_names must be texts")
        if len(set(names)) < len(names):
            raise ValueError("a class name stands twice")
        return Checkpoint(spec, tuple(names), values["state_dict"], values["settings"],
                          values["progress"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{shorten(path)}: an incomplete checkpoint ({_reason(error)}); "
                        "it is damaged or from another version.") from None


def check_tensors(own: dict, state_dict: dict, path: str | Path) -> None:
    """Compare a file's tensors with those of a network, whose own may be on the meta device.

    Counters of batch norm may be missing, as in files of old PyTorch; torch takes such files too.

    Raises:
        UserError naming what is missing, does not belong, has another shape, or holds anything
        but finite real numbers.
    """
    missing = [name for name in own if name not in state_dict and not name.endswith(COUNTER)]
    unexpected = [name for name in state_dict if name not in own]
    known = [name for name in own if name in state_dict]
    misshaped = [name for name in known
                 if not torch.is_tensor(state_dict[name]) or state_dict[name].is_nested
                 or state_dict[name].shape != own[name].shape]
    for names, what in ((missing, "missing"), (unexpected, "unexpected"), (misshaped, "misshaped")):
        if names:
            raise UserError(f"{shorten(path)}: {len(names)} tensors are {what}, "
                            f"{_reason(names[0])} among them; a detector needs all of its weights.")
    for name in known:
        if fault := tensor_fault(name, state_dict[name]):
            raise UserError(f"{shorten(path)}: {name} {fault}; the file is damaged or of a "
                            "training that failed.")


def tensor_fault(name: str, value: torch.Tensor) -> str | None:
    """Return what keeps a tensor from being weights, or None."""
    dtype = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or value.is_quantized:
        return f"is {dtype}, sparse or quantised"
    if value.device.type != "cpu":
        return f"has no numbers, it lies on {value.device}"
    if name.endswith(COUNTER):
        return None if value.dtype == torch.int64 else f"is {dtype}, not int64"
    if value.dtype not in FLOATS:
        return f"is {dtype}, not floating point"
    # float64 may be finite beyond the range of float32.
    return None if value.float().isfinite().all() else "holds nan or infinite numbers"


def load_strictly(network: torch.nn.Module, state_dict: dict, path: str | Path) -> None:
    """Load all tensors of a network or none, as float32.

    Raises UserError as `check_tensors`.
    """
    own = network.state_dict()
    check_tensors(own, state_dict, path)
    network.load_state_dict({name: state_dict.get(name, torch.zeros_like(value))
                             for name, value in own.items()})


def newest_checkpoint(logs_dir: str | Path) -> Path | None:
    """Return the newest best.pth anywhere under a log folder, or None."""
    folder, times = resolve(logs_dir), {}
    for file in {*folder.rglob("best.pth"), *folder.glob("*/best.pth")}:  # rglob follows no links
        with contextlib.suppress(OSError):  # a run may be removed meanwhile
            if stat.S_ISREG(file.stat().st_mode):
                times[file] = (file.stat().st_mtime_ns, str(file))
    return max(times, key=times.get, default=None)
