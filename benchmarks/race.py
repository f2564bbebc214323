"""Times of several ways to do one thing, in turns in one process, once all are seen to do the same.

    race({"theirs": run_theirs, "ours": run_ours}, turns=20, same=boxes_agree)
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from utils.cli import UserError


def race(tasks: Mapping[str, Callable[[], Any]], turns: int, same: Callable[[Any, Any], bool], *,
         rehearse: bool = True) -> dict[str, dict[str, float]]:
    """Run tasks in turns; print of each its times and the ratio to the first.

    Args:
        tasks: {name: call}; the first is what the others are compared with.
        turns: times that each is run twice, the second one counted, after one turn that is not.
        same: tells whether a task's result, its second argument, is that of the first task.
        rehearse: False has each run once a turn, for tasks of many seconds.

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
    for turn in range(rehearse + turns):
        for name, task in tasks.items():
            if rehearse:
                task()  # not counted: caches and free memory are as the task before left them
            start = time.perf_counter()
            task()
            if turn >= rehearse:
                times[name].append(time.perf_counter() - start)
    figures = {name: _summary(values, times[first]) for name, values in times.items()}
    for name, figure in figures.items():
        low, median, high = (1000 * figure[key] for key in ("low", "median", "high"))
        print(f"{name:<24} {median:8.2f} ms  ({low:.2f} to {high:.2f})  {figure['ratio']:5.2f} x",
              flush=True)
    return figures


def _summary(values, baseline):
    """Return the median of times, their tenth and nine tenths, and the ratio to a baseline."""
    low, high = np.quantile(values, (0.1, 0.9)).tolist()
    median = statistics.median(values)
    return {"median": median, "low": low, "high": high,
            "ratio": statistics.median(baseline) / median}
