"""Checkpoints: weights with everything needed to use them, as plain types."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from utils.cli import UserError, check_file, first_line, resolve, shorten, writing
from utils.multibox.spec import SSDSpec

FORMAT = "ssd-checkpoint-1"
COUNTER = "num_batches_tracked"  # of batch norm; nothing that is computed depends on it


class Checkpoint(NamedTuple):
    """The contents of a checkpoint file."""

    spec: SSDSpec
    class_names: tuple[str, ...]
    state_dict: dict  # name -> tensor
    settings: dict  # of the training run, plain types
    progress: dict  # epoch, val_map, ...: plain types
    run: dict | None = None  # of last.pth alone: what a run needs to go on, plain types and tensors


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a Checkpoint, or UserError; a power cut leaves either the old file or the new one."""
    path = resolve(path)
    values = checkpoint._asdict() | {"format": FORMAT, "spec": checkpoint.spec.to_dict(),
                                     "class_names": list(checkpoint.class_names)}
    values = on_cpu(values)  # else plain torch.load would want the GPU again
    values["state_dict"] = {name: tensor.contiguous()
                            for name, tensor in values["state_dict"].items()}
    with writing(path) as part, open(part, "wb") as file:
        torch.save(values, file)
        file.flush()
        os.fsync(file.fileno())


def on_cpu(value: Any) -> Any:
    """Return a value with the tensors in its dicts on the CPU; those of a GPU are copied."""
    if isinstance(value, dict):
        return {name: on_cpu(part) for name, part in value.items()}
    return value.detach().cpu() if torch.is_tensor(value) else value


def read_torch_file(path: str | Path) -> object:
    """Return the plain object that torch.save wrote, on the CPU; no code of the file is run.

    Raises UserError for a file that is missing, damaged, of another kind, or that holds other
    Python objects than tensors and plain types.
    """
    path = check_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged bytes PyTorch raises exceptions of many types
        raise UserError(f"{shorten(path)}: cannot be read ({first_line(error)}); it is empty or "
                        "damaged, no weights file (a web page instead of the download?), or holds "
                        "code, which is not run; get it again.") from None


def parse_checkpoint(values: object, path: str | Path) -> Checkpoint | None:
    """Return the Checkpoint in the contents of a file; None if they are something else.

    Raises UserError, naming the file, where a part is missing or the spec is wrong.
    """
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return None
    try:
        return Checkpoint(SSDSpec.from_dict(values["spec"]), tuple(values["class_names"]),
                          values["state_dict"], values["settings"], values["progress"],
                          values.get("run"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{shorten(path)}: an incomplete checkpoint ({first_line(error)}); "
                        "it is damaged or from another version.") from None


def check_tensors(expected: dict, state_dict: dict, path: str | Path) -> None:
    """Compare a file's tensors with those of a network, which may be on the meta device.

    Counters of batch norm may be missing, as in files of old PyTorch. Raises UserError naming a
    tensor that is missing, does not belong, has another shape, or is not finite numbers.
    """
    for name in expected | state_dict:
        value = state_dict.get(name)
        if name not in expected:
            fault = "does not belong to this network"
        elif value is None:
            fault = None if name.endswith(COUNTER) else "is missing"
        elif not torch.is_tensor(value) or value.shape != expected[name].shape:
            fault = f"does not have the shape {tuple(expected[name].shape)}"
        elif value.float().isfinite().all():  # float64 may exceed the range of float32
            fault = None
        else:
            fault = "holds nan or infinite numbers"
        if fault:
            raise UserError(f"{shorten(path)}: {first_line(name)} {fault}; the file is damaged or "
                            "of another network.")


def newest_checkpoint(logs_dir: str | Path, name: str = "best.pth") -> Path | None:
    """Return the newest file of a name anywhere under a log folder, or None."""
    return max(resolve(logs_dir).rglob(name), key=lambda file: file.stat().st_mtime_ns,
               default=None)
