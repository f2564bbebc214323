"""Several processes that work on one training or measurement, as torchrun starts them.

Without torchrun there is one process, and nothing here costs anything.
"""

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
TIMEOUT = timedelta(minutes=30)  # rank 0 may download weights or measure while the others wait


def rank() -> int:
    """Return the number of this process among all, on all machines; 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes on all machines; 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Tensors on GPUs, one for each process of a machine, go by NCCL, all else by gloo. Only rank 0
    prints to the screen.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():  # Windows has none
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        dist.init_process_group(backend, store=_store(), rank=number, world_size=size,
                                timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the {size} processes that torchrun started do not reach each other "
                        f"({str(error).splitlines()[0][:200]}); check its --rdzv_endpoint, and "
                        "set GLOO_SOCKET_IFNAME to the network between the machines.") from None
    try:
        with (open(os.devnull, "w") as nowhere,
              contextlib.redirect_stdout(nowhere if number else sys.stdout)):
            yield
    finally:
        dist.destroy_process_group()


def _store():
    """Return the store where the processes meet.

    With --standalone torchrun hosts one store for all its restarts. Each restart needs keys of its
    own: the addresses of killed processes are still in it.
    """
    is_hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]),
                          is_master=os.environ["RANK"] == "0" and not is_hosted,
                          wait_for_workers=False, timeout=TIMEOUT)
    return dist.PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def share(value: Any) -> Any:
    """Return what rank 0 gave, a value of plain types, arrays or CPU tensors, on every rank."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def on_rank0(work: Callable[[], Result]) -> Result:
    """Have rank 0 alone do some work; its result, or its UserError, reaches every rank."""
    result = error = None
    if rank() == 0:
        try:
            result = work()
        except UserError as user_error:
            error = user_error
    result, error = share((result, error))
    if error:
        raise error
    return result


def rank0_first(work: Callable[[], Result]) -> Result:
    """Have rank 0 do some work, then the others too, which find what it downloaded."""
    results = []
    on_rank0(lambda: results.append(work()))
    return results[0] if results else work()


def gather(value: Any) -> list:
    """Return the values of all ranks, in their order, on every rank."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def share_out(items: Sequence, work: Callable[[Sequence], Iterable]) -> list:
    """Return a result for each item, in order, on every rank; each rank works on a part.

    `work` takes a rank's items and gives their results. A UserError of one rank is raised on all.
    """
    results, error = [], None
    try:
        results = list(work(items[rank()::world_size()]))
    except UserError as user_error:
        error = user_error
    parts = gather((results, error))
    for _, error in parts:
        if error:
            raise error
    return [parts[k % len(parts)][0][k // len(parts)] for k in range(len(items))]


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Return the sum over all ranks of each number."""
    if world_size() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()


def any_rank(flag: bool) -> bool:
    """Tell whether the flag is set on any rank."""
    return sum_over_ranks([float(flag)])[0] > 0


def broadcast_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Fill tensors of the same shapes on every rank with those of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def wrap_network(network: nn.Module) -> nn.Module:
    """Return a network whose gradients are the means over all ranks; rank 0's weights count.

    To be called again when layers were frozen or freed: the sums are planned once.
    """
    if world_size() == 1:
        return network
    device = next(network.parameters()).device
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None,
                                   gradient_as_bucket_view=True)


def without_sync(network: nn.Module) -> contextlib.AbstractContextManager:
    """Return a context in which backward adds up gradients on this rank alone."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else (
        contextlib.nullcontext())


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


def launcher() -> str:
    """Return what stands before a script's name in the command that started this process."""
    if world_size() == 1:
        return "python"
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = f"--nnodes={world_size() // local} " if world_size() > local else ""
    return f"torchrun {nodes}--nproc_per_node={local}"


# Names that get_map.py and predict.py still use.
on_first, first_ahead, shared_out = on_rank0, rank0_first, share_out
share_tensors, check_alike = broadcast_tensors, check_same_on_all_ranks
