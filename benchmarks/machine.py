"""What the machine is, and what its processor gives at the most."""

import os
import platform
import re
import time
from functools import partial
from pathlib import Path

import cv2
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

INSTRUCTIONS = {"AMX": "_is_amx_tile_supported", "AVX512-BF16": "_is_avx512_bf16_supported",
                "VNNI": "_is_vnni_supported", "AVX512": "_is_avx512_supported",
                "AVX2": "_is_avx2_supported"}
SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices
CHANNELS, MAP = 512, 38  # of the convolution, VGG16's conv4_2
SECONDS = 1.0  # of trying, each
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
    gpu = f"; {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else ""
    return (f"{name}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, "
            f"{' '.join(known) or 'no vector instructions known of'}{gpu}; Python "
            f"{platform.python_version()}, torch {torch.__version__}, torchvision "
            f"{torchvision.__version__}, OpenCV {cv2.__version__}")


def peak(precision: str, device: str = "cpu") -> float:
    """Return the operations a second of a large matrix product or convolution, whichever has more.

    `precision` is "fp32", "bf16", "fp16" or "int8", which has a matrix product alone; a
    multiplication and an addition are two operations. NaN where PyTorch has no such product.
    """
    if (precision, device) not in _peaks:
        _peaks[precision, device] = _measure(precision, device)
    return _peaks[precision, device]


def _measure(precision, device):
    """Return the most operations a second; the best of tries, since others can only slow it."""
    kind = device.partition(":")[0]
    side, found = SIDES.get(kind, SIDES["cpu"]), []
    matrix = torch.randn(side, side, device=device)
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    try:
        if precision == "int8":
            matrix = (9 * matrix).to(torch.int8)
            found.append(2 * side ** 3 / _least(partial(torch._int_mm, matrix, matrix), device))
        else:
            matrix = matrix.to(types[precision])
            found.append(2 * side ** 3 / _least(partial(torch.mm, matrix, matrix), device))
            layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).to(
                device, types[precision], memory_format=torch.channels_last)
            batch = torch.randn(8, CHANNELS, MAP, MAP, device=device, dtype=types[precision])
            batch = batch.to(memory_format=torch.channels_last)
            work = 2 * batch.numel() * CHANNELS * 9
            with torch.inference_mode():
                found.append(work / _least(partial(layer, batch), device))
    except (RuntimeError, TypeError, AttributeError):
        pass
    return max(found, default=float("nan"))


def _least(call, device):
    """Return the least seconds of calls, tried for SECONDS, at least twice."""
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < 2 or time.perf_counter() < end:
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def wait(device: str) -> None:
    """Wait for what a GPU was given to do."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


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
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage has the parent's memory in it
        return 1024.0 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    try:
        import resource
    except ImportError:
        return float("nan")
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS
