"""Several processes that work on one training or measurement, as torchrun starts them."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils.cli import UserError

Result = TypeVar("Result")
# Of values on the host: rank 0 may download weights or measure while the others wait.
TIMEOUT = timedelta(minutes=30)
STEP_TIMEOUT = timedelta(minutes=5)  # of tensors, to which all ranks come together
_host_group = None  # set by `process_group`


def rank() -> int:
    """Return the number of this process among all, on all machines; 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes on all machines; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it did; only rank 0 prints to the screen."""
    global _host_group
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # of srun, for one
            raise UserError("several processes must be started by torchrun; see docs/training.md.")
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():  # Windows has none
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, store=_store(), rank=number, world_size=size,
                            timeout=STEP_TIMEOUT)
    _host_group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(
            nowhere if number else sys.stdout):
        yield
    dist.destroy_process_group()  # not after an error: it waits for the others, which may hang


def _store():
    """Return the store of torchrun, with keys for this restart: it holds those of killed ones."""
    is_hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]),
                          is_master=os.environ["RANK"] == "0" and not is_hosted,
                          wait_for_workers=False, timeout=TIMEOUT)
    return dist.PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def on_rank0(work: Callable[[], Result]) -> Result:
    """Have rank 0 alone do some work; its result, or its UserError, reaches every rank."""
    results = [None]
    if rank() == 0:
        try:
            results = [work()]
        except UserError as error:
            results = [error]
    if world_size() > 1:
        dist.broadcast_object_list(results, src=0, group=_host_group)
    if isinstance(results[0], UserError):
        raise results[0]
    return results[0]


def rank0_first(work: Callable[[], Result]) -> Result:
    """Have rank 0 do some work, then the others too, which find what it downloaded."""
    results = []
    on_rank0(lambda: results.append(work()))
    return results[0] if results else work()


def gather(value: Any) -> list:
    """Return the values of all ranks, in their order, on every rank."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value, group=_host_group)
    return values


def share_out(items: Sequence, work: Callable[[Sequence], Iterable]) -> list:
    """Return what `work` gives for items, in order, on every rank; each works on a part."""
    try:
        part = list(work(items[rank()::world_size()]))
    except UserError as error:
        part = error
    parts = gather(part)
    for error in parts:
        if isinstance(error, UserError):
            raise error
    return [parts[k % len(parts)][k // len(parts)] for k in range(len(items))]


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Return the sum over all ranks of each number."""
    if world_size() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums, group=_host_group)
    return sums.tolist()


def add_over_ranks(tensor: torch.Tensor) -> None:
    """Replace a tensor on any device by its sum over all ranks."""
    if world_size() > 1:
        dist.all_reduce(tensor)


def broadcast_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Fill tensors of the same shapes on every rank with those of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def wrap_network(network: nn.Module) -> nn.Module:
    """Return a network with the mean gradients of all ranks; call again when layers are frozen."""
    if world_size() == 1:
        return network
    return DistributedDataParallel(network, gradient_as_bucket_view=True)


def without_sync(network: nn.Module) -> contextlib.AbstractContextManager:
    """Return a context in which backward adds up gradients on this rank alone."""
    return network.no_sync() if world_size() > 1 else contextlib.nullcontext()


def check_same_on_all_ranks(values: dict[str, Any]) -> None:
    """Raise UserError naming the values that differ between ranks."""
    first, *rest = gather(values)
    for number, others in enumerate(rest, start=1):
        names = [name for name in first if others.get(name) != first[name]]
        if names:
            raise UserError(f"rank {number} has another {', '.join(names)} than rank 0; start "
                            "torchrun with the same command, lists and files on every machine.")


def check_device(device: torch.device, name: str) -> None:
    """Raise UserError where several processes cannot share a device, given in the settings."""
    if world_size() == 1 or device.type == "cpu":
        return
    local, count = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if device.type != "cuda" or ":" in name or local > count:
        raise UserError(f"device {name!r} and {count} GPUs are not enough for {local} processes; "
                        f'take device "auto" and --nproc_per_node={count}, or device "cpu".')
