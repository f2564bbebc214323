"""Times of several ways to do one thing, in turns in one process, once all are seen to do the same.

    race({"pycocotools": reference, "this project": ours}, turns=20, same=equal)
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from utils.cli import UserError


def race(tasks: Mapping[str, Callable[[], Any]], turns: int, same: Callable[[Any, Any], bool], *,
         rehearse: bool = True) -> dict[str, float]:
    """Run tasks in turns; print and return the median seconds of each.

    Args:
        tasks: {name: call}; the first is what the others are compared with.
        turns: times that each is run twice, the second one counted, after one turn that is not.
        same: tells whether a task's result, its second argument, is that of the first task.
        rehearse: False has each run once a turn, for tasks of many seconds.

    Raises UserError where results differ.
    """
    results = {name: task() for name, task in tasks.items()}
    first = next(iter(tasks))
    for name, result in results.items():
        if not same(results[first], result):
            raise UserError(f"{name} does not give what {first} gives; the times say nothing.")
    times = {name: [] for name in tasks}
    for _ in range(rehearse + turns):
        for name, task in tasks.items():
            if rehearse:
                task()  # not counted: caches and free memory are as the task before left them
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[-turns:]) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:<28} {1000 * median:9.2f} ms  {medians[first] / median:5.2f} x", flush=True)
    return medians
