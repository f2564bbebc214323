"""Reading and running at the same time: what comes next is read while a batch is being run."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

BATCHES_AHEAD = 2


def run_ahead(items: Iterable, batch_size: int, read: Callable[[Any], Any],
              run: Callable[[list], list]) -> Iterator:
    """Yield what `run` returns for batches of what `read` returns for items, in order.

    Two threads read and a third runs, two batches ahead of the caller.
    """
    def run_read(reads):
        return run([future.result() for future in reads])

    items, waiting = iter(items), deque()
    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(1) as runner:
        while batch := list(islice(items, batch_size)):
            waiting.append(runner.submit(run_read, [readers.submit(read, item) for item in batch]))
            if len(waiting) > BATCHES_AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
