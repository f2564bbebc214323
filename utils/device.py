"""Where the network runs and in which precision."""

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from utils.cli import UserError, first_line

Precision = Literal["bf16", "fp16", "fp32"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def pick_device(name: str) -> torch.device:
    """Return the torch.device of a name, "auto" for a GPU if there is one; UserError without it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:  # a GPU may be too old for this PyTorch
        return torch.zeros(1, device=name).add(1).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used here ({first_line(error)}); "
                        'take device "cpu", or another build of PyTorch.') from None


def set_precision(name: str, device: torch.device, *, tf32: bool = False) -> Precision:
    """Return the precision to run in, and make fp32 mean fp32; call it once, at the start.

    "auto" is bf16 where the hardware multiplies it natively, else fp16 on NVIDIA GPUs with units
    for it, and fp32 elsewhere. NVIDIA's TF32 is switched off for the whole process, so that
    numbers do not depend on the machine; with `tf32`, fp32 is that, which is several times faster.
    Raises UserError for fp16 without an NVIDIA GPU, and for bf16 on one that has none.
    """
    if name == "fp16" and device.type != "cuda":  # a processor is 15 times slower in it
        raise UserError(f'precision "fp16" is for NVIDIA GPUs, this is {device.type}; take "auto".')
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    generation = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 0
    if name == "bf16" and 0 < generation < 8:
        raise UserError('precision "bf16" is emulated on this GPU, and slow; take "auto".')
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if generation >= 8 else "fp16" if generation == 7 else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16():
    """Tell whether the processor has AVX512-BF16 or AMX; PyTorch 2.4 lacks the second test."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(hasattr(torch.cpu, check) and getattr(torch.cpu, check)() for check in checks)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory, so that a CPU step takes a tenth less time."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2 ** 30)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never


def run_in(precision: Precision, device: torch.device) -> torch.autocast:
    """Return a context in which the forward runs in that precision, in the calling thread alone."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


class HostCopy:
    """A copy of a tensor on its way to the host; only who reads its values waits for it."""

    def __init__(self, tensor: torch.Tensor):
        self.on_gpu = tensor.is_cuda
        self._values = tensor.detach().to("cpu", non_blocking=self.on_gpu)
        if self.on_gpu:
            self._event = torch.cuda.current_stream(tensor.device).record_event()

    def tolist(self) -> list[float] | float:
        """Return the values, of a tensor without axes the one."""
        if self.on_gpu:
            self._event.synchronize()
        return self._values.tolist()


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Have a network in eval mode inside, and every submodule in its own mode again afterwards."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
