"""Checkpoints: weights with everything needed to use them, as plain types."""

import os
import pickle
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
        part.unlink(missing_ok=True)
        raise UserError(f"{shorten(path)}: cannot be written ({error}); "
                        "is the disk full or the folder read-only?") from None


def read_tensor_file(path):
    """Load a PyTorch file without running any code that it may hold.

    Returns:
        whatever plain object was saved, on the CPU.

    Raises:
        UserError: missing, damaged, not a PyTorch file, or holding code.
    """
    path = resolve(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{shorten(path)}: no such file; check the path.") from None
    except pickle.UnpicklingError as error:
        reason = "it holds code beside its tensors" if "GLOBAL" in str(error) else "not a weights file"
        raise UserError(f"{shorten(path)}: refused, {reason}; get the file again from a source "
                        "you trust.") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{shorten(path)}: cannot be read ({reason}); "
                        "the file may be damaged or incomplete.") from None


def load_checkpoint(path):
    """Read a Checkpoint that `save_checkpoint` wrote.

    Raises UserError for anything else.
    """
    values = read_tensor_file(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{shorten(resolve(path))}: not a checkpoint of this project; "
                        "use a best.pth or last.pth from logs/.")
    try:
        return Checkpoint(SSDSpec.from_dict(values["spec"]), tuple(values["class_names"]),
                          values["state_dict"], values["settings"], values["progress"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{shorten(resolve(path))}: an incomplete checkpoint ({error}).") from None


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
