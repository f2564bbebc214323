"""Checkpoints: weights with everything needed to use them, as plain types."""

import contextlib
import os
import pickle
import re
import struct
import zipfile
from typing import NamedTuple

import torch

from utils.cli import UserError, resolve, shorten
from utils.spec import SSDSpec

FORMAT = "ssd-checkpoint-1"


class Checkpoint(NamedTuple):
    """The contents of a checkpoint file."""

    spec: SSDSpec
    class_names: tuple[str, ...]
    state_dict: dict  # name -> tensor
    settings: dict  # of the training run, plain types
    progress: dict  # epoch, val_map, ...: plain types


def save_checkpoint(path, checkpoint):
    """Write a Checkpoint so that a crash leaves either the old file or the new one.

    Raises UserError where the file cannot be written.
    """
    path = resolve(path)
    values = checkpoint._asdict() | {"format": FORMAT, "spec": checkpoint.spec.to_dict(),
                                     "class_names": list(checkpoint.class_names)}
    values["state_dict"] = {name: tensor.detach().cpu().contiguous()
                            for name, tensor in checkpoint.state_dict.items()}
    part = path.with_name(path.name + ".part")
    try:
        torch.save(values, part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise UserError(f"{shorten(path)}: cannot be written ({error}); "
                        "is the disk full or the folder read-only?") from None


def read_tensor_file(path):
    """Load a PyTorch file without running any code that it may hold.

    Returns:
        whatever plain object was saved, on the CPU.

    Raises:
        UserError: missing, empty, a web page, damaged, not a PyTorch file, or holding code.
    """
    path = check_weights_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # "Unsupported operand" is what garbage gives; code is named as a global or a class.
        # A pickle of a newer protocol than torch.save's is not from there; old PyTorch stops
        # at its first byte.
        if re.search(r"GLOBAL|Unsupported (global|class)|REDUCE", str(error)) or is_pickle(path):
            raise UserError(f"{shorten(path)}: refused, loading it would run code that it holds "
                            "beside its tensors; ask its author for a plain state dict.") from None
        reason = "not a weights file"
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError,
            TypeError, AssertionError, zipfile.BadZipFile, struct.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0][:120]
    raise UserError(f"{shorten(path)}: cannot be read ({reason}); the file is damaged, incomplete, "
                    "or of another kind.")


def is_pickle(path):
    """Tell whether a file is a bare pickle of protocol 3 or later, which may hold any code."""
    with open(path, "rb") as file:
        return file.read(2) in (b"\x80\x03", b"\x80\x04", b"\x80\x05")


def check_weights_file(path):
    """Return the absolute path of a file that is at least not a failed download.

    Raises UserError for a missing or empty file, a folder, and a web page.
    """
    path = resolve(path)
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(f"{shorten(path)}: {reason}; check the path.") from None
    if not start:
        raise UserError(f"{shorten(path)}: the file is empty; get it again.")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{shorten(path)}: a web page, not weights: the download failed; "
                        "get it again.")
    return path


def is_checkpoint(values):
    """Tell whether the contents of a file are a checkpoint of this project."""
    return isinstance(values, dict) and values.get("format") == FORMAT


def parse_checkpoint(values, path):
    """Return the Checkpoint in the contents of a file.

    Raises UserError, naming the file, where something is missing.
    """
    try:
        return Checkpoint(SSDSpec.from_dict(values["spec"]), tuple(values["class_names"]),
                          values["state_dict"], values["settings"], values["progress"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{shorten(path)}: an incomplete checkpoint ({error}).") from None


def load_strictly(network, state_dict, path):
    """Load all tensors of a network or none.

    Raises UserError naming what is missing, does not belong, or has another shape.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in state_dict]
    unexpected = [name for name in state_dict if name not in own]
    misshaped = [name for name in own if name in state_dict
                 and own[name].shape != state_dict[name].shape]
    for names, what in ((missing, "missing"), (unexpected, "unexpected"), (misshaped, "misshaped")):
        if names:
            raise UserError(f"{shorten(path)}: {len(names)} tensors are {what}, {names[0]} among "
                            "them; a detector needs all of its weights.")
    network.load_state_dict(state_dict)


def newest_checkpoint(logs_dir):
    """Return the newest best.pth under a log folder, or None."""
    files = list(resolve(logs_dir).glob("*/best.pth"))
    return max(files, key=lambda file: file.stat().st_mtime, default=None)
