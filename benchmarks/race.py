"""Times of several ways to do one thing, in turns in one process, once all are seen to do the same.

    race({"theirs": run_theirs, "ours": run_ours}, turns=20, same=boxes_agree)
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision

from utils.cli import UserError

WARM_UP = 1  # turns that are not counted
INSTRUCTIONS = {"AMX": "_is_amx_tile_supported", "AVX512-BF16": "_is_avx512_bf16_supported",
                "VNNI": "_is_vnni_supported", "AVX512": "_is_avx512_supported",
                "AVX2": "_is_avx2_supported"}


def race(tasks: Mapping[str, Callable[[], Any]], turns: int, same: Callable[[Any, Any], bool],
         *, json_path: str | Path = "") -> dict[str, dict[str, float]]:
    """Run tasks in turns; print the machine, and of each task its times and the ratio to the first.

    Args:
        tasks: {name: call}; the first is what the others are compared with.
        turns: times that each is run twice, the second one counted.
        same: tells whether a task's result, its second argument, is that of the first task.
        json_path: file for the figures too; "" for none.

    Returns:
        {name: {"median": seconds, "low": of a tenth of the turns, "high", "ratio": how many
        times as fast as the first task by medians}}. Raises UserError where results differ.
    """
    results = {name: task() for name, task in tasks.items()}
    first = next(iter(tasks))
    for name, result in results.items():
        if not same(results[first], result):
            raise UserError(f"{name} does not give what {first} gives; the times say nothing.")
    times = {name: [] for name in tasks}
    for turn in range(WARM_UP + turns):
        for name, task in tasks.items():
            task()  # not counted: caches and free memory are as the task before left them
            start = time.perf_counter()
            task()
            if turn >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    print(machine())
    figures = {name: _summary(values, times[first]) for name, values in times.items()}
    for name, figure in figures.items():
        low, median, high = (1000 * figure[key] for key in ("low", "median", "high"))
        print(f"{name:<24} {median:8.2f} ms  ({low:.2f} to {high:.2f})  {figure['ratio']:5.2f} x",
              flush=True)
    if json_path:
        Path(json_path).write_text(json.dumps(
            {"machine": machine(), "turns": turns, "tasks": figures}, indent=2), encoding="utf-8")
    return figures


def _summary(values, baseline):
    """Return the median of times, their tenth and nine tenths, and the ratio to a baseline."""
    low, high = np.quantile(values, (0.1, 0.9)).tolist()
    median = statistics.median(values)
    return {"median": median, "low": low, "high": high,
            "ratio": statistics.median(baseline) / median}


def machine() -> str:
    """Return the processor, its threads and instructions, and the versions that matter."""
    name = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")),
                    name)
    known = [text for text, check in INSTRUCTIONS.items()
             if getattr(torch.cpu, check, bool)()]
    return (f"{name}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, "
            f"{' '.join(known) or 'no vector instructions known of'}; Python "
            f"{platform.python_version()}, torch {torch.__version__}, torchvision "
            f"{torchvision.__version__}, OpenCV {cv2.__version__}")
