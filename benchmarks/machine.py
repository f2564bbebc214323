"""What the machine is, and what its processor gives at the most."""

import os
import platform
import re
import time
from pathlib import Path

import cv2
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

INSTRUCTIONS = {"AMX": "_is_amx_tile_supported", "AVX512-BF16": "_is_avx512_bf16_supported",
                "VNNI": "_is_vnni_supported", "AVX512": "_is_avx512_supported",
                "AVX2": "_is_avx2_supported"}
SIDE = 2048  # of the matrices
TRIES = 20
_peaks = {}


def machine(device: str = "cpu") -> str:
    """Return the processor, its threads and instructions, the GPU, and the versions that matter."""
    name = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")),
                    name)
    known = [text for text, check in INSTRUCTIONS.items()
             if getattr(torch.cpu, check, bool)()]
    gpu = f"; {torch.cuda.get_device_name()}" if device.startswith("cuda") else ""
    return (f"{name}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, "
            f"{' '.join(known) or 'no vector instructions known of'}{gpu}; Python "
            f"{platform.python_version()}, torch {torch.__version__}, torchvision "
            f"{torchvision.__version__}, OpenCV {cv2.__version__}")


def peak(precision: str, device: str = "cpu") -> float:
    """Return the operations a second of the best of a few multiplications of large matrices.

    `precision` is "fp32", "bf16", "fp16" or "int8"; a multiplication and an addition are two
    operations. NaN where PyTorch does not multiply such matrices.
    """
    if (precision, device) not in _peaks:
        _peaks[precision, device] = _measure(precision, device)
    return _peaks[precision, device]


def _measure(precision, device):
    """Multiply matrices a few times; the least time counts, since others can only slow it down."""
    matrix = torch.randn(SIDE, SIDE, device=device)
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision == "int8":
        matrix, multiply = (9 * matrix).to(torch.int8), getattr(torch, "_int_mm", None)
    else:
        matrix, multiply = matrix.to(types[precision]), torch.mm
    least = float("inf")
    try:
        for _ in range(TRIES):
            wait(device)
            start = time.perf_counter()
            multiply(matrix, matrix)
            wait(device)
            least = min(least, time.perf_counter() - start)
    except (RuntimeError, TypeError):
        return float("nan")
    return 2 * SIDE ** 3 / least


def wait(device: str) -> None:
    """Wait for what a GPU was given to do."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def operations(network: nn.Module, size: int, *, training: bool = False) -> int:
    """Return the operations that an SSDNet spends on one image, with `training` backward too."""
    device = next(network.parameters()).device
    counter = FlopCounterMode(display=False)
    with counter, torch.set_grad_enabled(training):
        loc, conf = network(torch.zeros(1, 3, size, size, device=device))
        if training:
            (loc.sum() + conf.sum()).backward()
    network.zero_grad()
    return counter.get_total_flops()


def most_memory(device: str = "cpu") -> float:
    """Return the most bytes that this process held at a time, on the GPU where `device` is one.

    NaN on Windows.
    """
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage has the parent's memory in it
        return 1024.0 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    try:
        import resource
    except ImportError:
        return float("nan")
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS
