"""Checkpoints: weights with everything needed to use them, as plain types."""

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import torch

from utils.cli import UserError, resolve, shorten, writing
from utils.multibox.spec import SSDSpec
from utils.tensor_files import first_line

FORMAT = "ssd-checkpoint-1"
MAX_CLASSES = 10_000
# What no class name may hold: characters that are not seen. Some that are not printable by Python's
# rules belong to words, such as the joiners of Persian.
UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\ufeff]")

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTER = "num_batches_tracked"  # of batch norm; nothing that is computed depends on it


class Checkpoint(NamedTuple):
    """The contents of a checkpoint file."""

    spec: SSDSpec
    class_names: tuple[str, ...]
    state_dict: dict  # name -> tensor
    settings: dict  # of the training run, plain types
    progress: dict  # epoch, val_map, ...: plain types
    run: dict | None = None  # what a run needs to go on, in last.pth alone: plain types and tensors


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a Checkpoint so that a crash or a power cut leaves either the old file or the new one.

    Raises UserError where the file cannot be written.
    """
    path = resolve(path)
    values = checkpoint._asdict() | {"format": FORMAT, "spec": checkpoint.spec.to_dict(),
                                     "class_names": list(checkpoint.class_names)}
    values["state_dict"] = {name: tensor.detach().cpu().contiguous()
                            for name, tensor in checkpoint.state_dict.items()}
    if checkpoint.run is None:
        del values["run"]
    with writing(path) as part:
        try:
            torch.save(values, part)
        except RuntimeError as error:  # PyTorch's own for a full disk and a missing folder
            full = part.exists() and shutil.disk_usage(part).free < 2 ** 20
            raise OSError("the disk is full" if full else first_line(error)) from None
        _sync(part, os.O_RDWR)
    if os.name == "posix":  # the new name too must reach the disk; not all file systems can
        with contextlib.suppress(OSError):
            _sync(path.parent, os.O_RDONLY)


def _sync(path, flags):
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def parse_checkpoint(values: object, path: str | Path) -> Checkpoint | None:
    """Return the Checkpoint in the contents of a file; None if they are something else.

    Raises UserError, naming the file, where something is missing or is not what it should be.
    """
    if not isinstance(values, dict) or "format" not in values or not (
            "spec" in values or str(values["format"]) == FORMAT):
        return None
    try:
        for part in ("spec", "state_dict", "settings", "progress"):
            if not isinstance(values[part], dict):
                raise ValueError(f"{part} is a {type(values[part]).__name__}")
        if values["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        spec, names = SSDSpec.from_dict(values["spec"]), values["class_names"]
        if not isinstance(names, (list, tuple)) or not 1 <= len(names) <= MAX_CLASSES:
            raise ValueError(f"class_names must be a list of 1..{MAX_CLASSES}")
        if not all(isinstance(name, str) and name and not UNSEEN.search(name) for name in names):
            raise ValueError("class_names must be lines of text")
        if len(set(names)) < len(names):
            raise ValueError("a class name stands twice")
        if not isinstance(values.get("run"), (dict, type(None))):
            raise ValueError("what it needs to go on is no dict")
        return Checkpoint(spec, tuple(names), values["state_dict"], values["settings"],
                          values["progress"], values.get("run"))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{shorten(path)}: an incomplete checkpoint ({first_line(error)}); "
                        "it is damaged or from another version.") from None


def check_tensors(own: dict, state_dict: dict, path: str | Path) -> None:
    """Compare a file's tensors with those of a network, whose own may be on the meta device.

    Counters of batch norm may be missing, as in files of old PyTorch; torch takes such files too.

    Raises UserError naming what is missing, does not belong, has another shape, or holds anything
    but finite real numbers.
    """
    known = [name for name in own if name in state_dict]
    faults = {
        "missing": [name for name in own if name not in state_dict and not name.endswith(COUNTER)],
        "unexpected": [name for name in state_dict if name not in own],
        "misshaped": [name for name in known
                      if not torch.is_tensor(state_dict[name]) or state_dict[name].is_nested
                      or state_dict[name].shape != own[name].shape]}
    for what, names in faults.items():
        if names:
            raise UserError(f"{shorten(path)}: {len(names)} tensors are {what}, "
                            f"{first_line(names[0])} among them; the file is damaged or of "
                            "another network.")
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
    if not value.float().isfinite().all():
        return "holds nan or infinite numbers"
    if name.endswith("running_var") and (value < 0).any():
        return "holds negative variances"
    return None


def newest_checkpoint(logs_dir: str | Path, name: str = "best.pth") -> Path | None:
    """Return the newest file of a name anywhere under a log folder, or None."""
    folder = resolve(logs_dir)
    # rglob follows no links to folders.
    found = {}
    for file in {*folder.rglob(name), *folder.glob(f"*/{name}")}:
        with contextlib.suppress(OSError):  # a run removed meanwhile
            if file.is_file():
                found[file] = (file.stat().st_mtime_ns, str(file))
    return max(found, key=found.get, default=None)
