"""Several processes that work on one training or measurement, as torchrun starts them.

Without torchrun there is one process, and nothing here costs anything.
"""

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from utils.cli import PeerLeft, UserError
from utils.memory import is_out_of_memory

MEET_SECONDS = 600  # for all processes to start, on all machines


class _Group:
    """Which process this is, torchrun's store, and a group of this process alone."""

    rank, size = 0, 1
    job = alone = None


def rank() -> int:
    """Return the number of this process among all, on all machines; 0 without torchrun."""
    return _Group.rank


def world_size() -> int:
    """Return the number of processes on all machines; 1 without torchrun."""
    return _Group.size


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Tensors on GPUs, one for each process of a machine, go by NCCL, all else by gloo. Of the
    processes that fail the first one alone says why; the others end by SystemExit.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():  # Windows has none
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    try:
        job, start = _meet(number, size)
        dist.init_process_group(backend, store=start, rank=number, world_size=size)
    except RuntimeError as error:
        raise UserError(f"the {size} processes that torchrun started do not reach each other "
                        f"({_reason(error)}); check its --rdzv_endpoint, and set "
                        "GLOO_SOCKET_IFNAME to the network between the machines.") from None
    _Group.rank, _Group.size, _Group.job = number, size, job
    try:
        yield
        dist.destroy_process_group()
    except (Exception, KeyboardInterrupt):
        # The connections close when the process ends, so that its message comes before.
        with contextlib.suppress(RuntimeError):
            if start.add("said", 1) > 1:
                raise SystemExit(1) from None
        raise
    finally:
        _Group.rank, _Group.size, _Group.job = 0, 1, None


def _meet(number, size):
    """Return (store of the whole job, store of this start of its processes).

    torchrun's store lives through restarts, and its machines may count those differently. So each
    process shows a name of its own, and rank 0 repeats those that it saw until all have found
    theirs: what an earlier start left behind is taken by none.
    """
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    tcp = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]),
                        is_master=number == 0 and not hosted, wait_for_workers=False)
    job, name, end = dist.PrefixStore("ssd", tcp), uuid.uuid4().hex, time.monotonic() + MEET_SECONDS
    job.set(f"name/{number}", name)
    while time.monotonic() < end:
        if number == 0:
            names = [job.get(f"name/{k}").decode() for k in range(size)]
            job.set("names", json.dumps(names))
        else:
            names = json.loads(job.get("names"))
        if names[number:number + 1] == [name]:
            start = dist.PrefixStore(names[0], job)
            start.set(f"here/{number}", "")
            if number or start.check([f"here/{k}" for k in range(size)]):
                return job, start
        time.sleep(0.05)
    raise RuntimeError(f"not all came within {MEET_SECONDS} s")


def _reason(error):
    """Return the part of a message of PyTorch or gloo that says what happened."""
    line = str(error).strip().split("\n")[0]
    return re.sub(r"^(\[\S+:\d+\] *)+", "", line).split(". ")[0][:200]


@contextlib.contextmanager
def _together():
    """Raise PeerLeft where a collective fails inside: another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise PeerLeft(f"rank {rank()} ends because another process of this job has "
                       f"({_reason(error)})") from None


def share(value: Any) -> Any:
    """Return what rank 0 gave, a value of plain types, arrays or CPU tensors, on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    with _together():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def on_first(work: Callable[[], Any]) -> Any:
    """Have rank 0 alone do some work; its result, or its UserError, comes on every rank."""
    result = error = None
    if rank() == 0:
        try:
            result = work()
        except UserError as an_error:
            error = an_error
    result, error = share((result, error))
    if error:
        raise error
    return result


def first_ahead(work: Callable[[], Any]) -> Any:
    """Have rank 0 do some work, then the others too, which find what it downloaded."""
    result = work() if rank() == 0 else None
    share(None)
    return work() if rank() else result


def gather(value: Any) -> list:
    """Return the values of all ranks, in their order, on every rank."""
    values = [value] * world_size()
    if world_size() > 1:
        with _together():
            dist.all_gather_object(values, value)
    return values


def shared_out(items: Sequence, work: Callable[[Sequence], Iterable]) -> list:
    """Return a result for each item, in order, on every rank; the ranks share the items out.

    `work` takes a rank's items and gives their results. A UserError of one rank is raised on all.
    """
    results, error = [], None
    try:
        results = list(work(items[rank()::world_size()]))
    except UserError as an_error:
        error = an_error
    parts = gather((results, error))
    for _, error in parts:
        if error:
            raise error
    return [parts[k % len(parts)][0][k // len(parts)] for k in range(len(items))]


def sum_floats(values: list[float]) -> list[float]:
    """Return the sums of numbers over all ranks."""
    if world_size() == 1:
        return values
    sums = torch.tensor(values, dtype=torch.float64)
    with _together():
        dist.all_reduce(sums)
    return sums.tolist()


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients over all ranks, tensor by tensor; frozen parameters have none.

    A rank that had no batch adds zeros. The order of additions is that of every step, a resumed
    run's first included, which the buckets of DistributedDataParallel would not promise.
    """
    if world_size() == 1:
        return
    with _together():
        works = []
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                works.append(dist.all_reduce(parameter.grad, async_op=True))
        for work in works:
            work.wait()


def share_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Fill tensors of the same shapes on every rank with those of rank 0."""
    if world_size() > 1:
        with _together(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


def check_alike(values: dict[str, Any]) -> None:
    """Raise UserError naming the values that are not the same on all ranks."""
    first, *rest = gather(values)
    for number, others in enumerate(rest, start=1):
        names = [f"{name} ({others.get(name)!r:.60}, on rank 0 {value!r:.60})"
                 for name, value in first.items() if others.get(name) != value]
        if names:
            raise UserError(f"rank {number} has another {' and '.join(names)}; start torchrun with "
                            "the same command, lists and versions on every machine.")


def check_device(device: torch.device, asked: str) -> None:
    """Raise UserError where several processes cannot share the device, `asked` for by that name."""
    if world_size() == 1 or device.type == "cpu":
        return
    local, count = processes_here(), torch.cuda.device_count()
    if device.type != "cuda" or ":" in asked:
        raise UserError(f'device "{asked}" is one for {local} processes; take "auto", which gives '
                        'each a GPU of its own, or "cpu".')
    if local > count:
        raise UserError(f"torchrun started {local} processes for {count} GPUs here; start it with "
                        f'--nproc_per_node={count}, or set device = "cpu".')


def launcher() -> str:
    """Return what stands before a script's name in the command that starts it as it was now."""
    if world_size() == 1:
        return "python"
    local = processes_here()
    machines = f"--nnodes={world_size() // local} " if world_size() > local else ""
    return f"torchrun {machines}--nproc_per_node={local}"


def processes_here() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if world_size() > 1 else 1


def recall(name: str) -> str | None:
    """Return what `remember` kept under a name in this torchrun job, before a restart perhaps."""
    if _Group.job is None or not _Group.job.check([name]):
        return None
    return _Group.job.get(name).decode()


def remember(name: str, text: str) -> None:
    """Keep a text for as long as this torchrun job lives, through restarts of its processes."""
    if _Group.job is not None:
        _Group.job.set(name, text)


def join_batch_norm(network: nn.Module, device: torch.device) -> None:
    """Have batch norm take its statistics over all ranks, on GPUs; print a line if there is any.

    PyTorch has that for GPUs alone: on CPUs each process goes by its own images.
    """
    if world_size() == 1 or not any(isinstance(module, nn.modules.batchnorm._BatchNorm)
                                    for module in network.modules()):
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        _Group.alone = dist.new_subgroups(group_size=1)[0]
        print("batch norm: statistics over the images of all processes")
    else:
        print("batch norm: on CPUs each process goes by the statistics of its own images; "
              "rank 0's are saved and scored")


@contextlib.contextmanager
def batch_norm_alone(network: nn.Module) -> Iterator[None]:
    """Have batch norm ask no other rank inside: some have no batch and would not answer."""
    modules = [module for module in network.modules() if isinstance(module, nn.SyncBatchNorm)]
    for module in modules:
        module.process_group = _Group.alone
    try:
        yield
    finally:
        for module in modules:
            module.process_group = None
