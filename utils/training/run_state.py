"""What a run needs to go on exactly where it stopped, and whether it may."""

import contextlib
import hashlib
import math
from collections.abc import Container, Iterator
from functools import partial
from numbers import Real
from pathlib import Path

import torch

from utils.checkpoint import Checkpoint, parse_checkpoint, read_torch_file, tensor_fault
from utils.cli import UserError, first_line, shorten, typeable, typed_flags
from utils.data.annotations import Record
from utils.distributed import check_alike, world_size

# What Adam and SGD keep of a parameter.
KEPT = ({"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"})

# What may change when a run goes on: nothing that its steps compute. Lists are compared by content.
MAY_CHANGE = {"train_list", "val_list", "classes_path", "device", "precision", "num_workers",
              "resume", "save_dir", "run_name", "eval_period", "save_period", "save_steps",
              "early_stopping", "sample_period"}
# These too, where a step has as many images as before: memory may have run out.
BATCHES = {"batch_size", "freeze_batch_size", "accumulate"}
# What each process of a run may have its own of, on its own machine.
OWN = {"train_list", "val_list", "classes_path", "model_path", "model_classes_path",
       "backbone_weights", "num_workers", "resume", "save_dir", "run_name", "threads"}


class CannotLearn(UserError):
    """A training that would end in the same way again, however often one goes on with it."""


def read_run(path: Path) -> Checkpoint:
    """Return the Checkpoint of a last.pth; UserError for any file that holds weights alone."""
    checkpoint = parse_checkpoint(read_torch_file(path), path)
    if checkpoint is None or checkpoint.run is None:
        raise UserError(f"{shorten(path)}: weights alone, only a last.pth holds what a run needs "
                        f"to go on.\nName that, {_new_run(path)}")
    return checkpoint


def describe_basis(lists: dict[str, list[Record]], device: torch.device, precision: str,
                   defaults: dict) -> dict:
    """Return what the numbers of a run depend on beside its settings, as last.pth keeps it.

    `lists` are the records by name of their list, `defaults` those of the settings today. The
    machine decides the last bits only.
    """
    machine = {"device": device.type, "precision": precision, "torch": str(torch.__version__),
               "threads": torch.get_num_threads()}
    return {"data": {name: fingerprint(records) for name, records in lists.items()},
            "machine": machine, "ranks": world_size(), "defaults": defaults}


def fingerprint(records: list[Record]) -> list:
    """Return [number of images, digest] of a list: its file names and objects, in their order.

    Folders do not count, so that data may be moved.
    """
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.path.name.encode("utf-8", "surrogateescape") + b"\0")
        for part in record[1:]:
            digest.update(part.tobytes() + b"\0")
    return [len(records), digest.hexdigest()]


def check_basis(now: dict, then: dict, place: str) -> None:
    """Raise UserError unless a run goes on with the lists and as many processes as it began with.

    Both are what `describe_basis` returned, `then` from a file: it may lack anything.
    """
    _check_data(now["data"], then.get("data"), place)
    ranks = then.get("ranks", 1)
    if ranks != world_size():
        raise UserError(f"{place}: the run began with {ranks!r:.20} processes, now there "
                        f"are {world_size()}, and the number is part of what its numbers depend "
                        f"on.\nGo on with torchrun and as many processes, {_new_run(place)}")


def _check_data(now, then, place):
    changed = []
    for name, figures in now.items():
        before = then.get(name) if isinstance(then, dict) else None
        if before != figures:
            count = before[0] if isinstance(before, list) and before else "unknown"
            changed.append(f"the {name} list ({count} images then, {figures[0]} now)")
    if changed:
        raise UserError(f"{place}: since the run began {' and '.join(changed)} has changed in its "
                        "images, their order or their objects.\nPut the old list back, "
                        f"{_new_run(place)}")


def check_same_everywhere(settings: dict, basis: dict) -> None:
    """Raise UserError naming the settings, lists or machine that are others than rank 0's."""
    values = settings | basis["data"] | basis["machine"]
    check_alike({name: value for name, value in values.items() if name not in OWN})


def resumed_values(given: dict, saved: Checkpoint, defaults: dict, place: str) -> dict:
    """Return the settings that a saved run goes on with, by those given and today's defaults.

    UserError for a file that is damaged, and for settings that the run cannot take.
    """
    with restoring(place):
        merge = partial(merge_settings, given, saved.settings, typed=typed_flags(),
                        defaults=(defaults, saved.run["defaults"]), place=place)
        same = images_a_step(merge(free=given.keys())) == images_a_step(saved.settings)
        values = merge(free=MAY_CHANGE | (BATCHES if same else set()))
        if any(values[name] != saved.settings[name] for name in BATCHES):
            print("note: steps have as many images as before, in other batches: the numbers will "
                  "not be those of one run to the last bits")
        return values


def images_a_step(settings: dict) -> tuple[int, int]:
    """Return the images that a process has a step, in frozen epochs (0 without) and in others."""
    frozen, whole, batches = (settings[name] for name in (
        "freeze_batch_size", "batch_size", "accumulate"))
    return bool(settings["freeze_epochs"]) * frozen * batches, whole * batches


def merge_settings(given: dict, saved: dict, *, defaults: tuple[dict, dict], typed: Container[str],
                   free: Container[str], place: str) -> dict:
    """Return the settings that a run goes on with: its own, but those in `free` that are asked for.

    A setting is asked for where it was typed, is not its default, or has another default than when
    the run began with it. `defaults` are today's and those of that time. Raises UserError naming
    each setting asked for that is neither free nor the run's.
    """
    merged, clashes = dict(given), []
    for name in given.keys() & saved.keys():
        default, old_default = defaults[0][name], defaults[1].get(name, defaults[0][name])
        edited = default != old_default and saved[name] == old_default
        asked = name in typed or given[name] != default or edited
        if not (asked and name in free):
            merged[name] = saved[name]
            if asked and given[name] != saved[name]:
                clashes.append(f"{name} {saved[name]!r} (now {given[name]!r})")
    if clashes:
        less = ("batch_size and freeze_batch_size may shrink where accumulate grows as much. "
                if any(clash.partition(" ")[0] in BATCHES for clash in clashes) else "")
        raise UserError(f"{place}: the run began with {', '.join(sorted(clashes))}.\n{less}A run "
                        f"goes on with the numbers it began with: take those, {_new_run(place)}")
    return merged


def _new_run(place):
    return f"or begin a new run from its weights: --model_path {typeable(place)}"


@contextlib.contextmanager
def restoring(place: str) -> Iterator[None]:
    """Make one UserError of whatever a damaged or foreign state of a run leads to inside."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError,
            OverflowError) as error:
        raise UserError(f"{place}: what it holds of the run is damaged or of another version "
                        f"({first_line(error)});\ngo on from a copy, {_new_run(place)}"
                        ) from None


def whole_number(value: object) -> int:
    """Return an int >= 0 from a file as it is; ValueError for anything else."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no count")
    return value


def finite_number(value: object) -> Real:
    """Return a number from a file as it is; ValueError for anything else."""
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is no number")
    return value


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Fill an optimizer from the "state" of another one's state dict; its settings stay.

    Memory layouts are kept: sums over other layouts could differ in their last bits. Raises
    ValueError, KeyError or IndexError for what does not belong to its parameters.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = KEPT["momentum" in optimizer.defaults]
    for index, values in state.items():
        if set(values) != kept:
            raise ValueError(f"it keeps {sorted(values)} of a parameter, not {sorted(kept)}")
        for name, value in values.items():
            shape = () if name == "step" else parameters[whole_number(index)].shape
            if (value.shape != shape or value.dtype != torch.float32 or tensor_fault(name, value)
                    or torch.empty_like(value).stride() != value.stride()):
                raise ValueError(f"{name} of parameter {index} does not fit")
    # What an earlier version did not keep yet stays as it begins.
    optimizer.load_state_dict({"state": optimizer.state_dict()["state"] | state,
                               "param_groups": optimizer.state_dict()["param_groups"]})


def generator_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of torch's generators, of the CPU and of a GPU."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Set the generators to what `generator_states` returned, perhaps on another device."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
