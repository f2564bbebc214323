"""Work that threads do ahead of the caller."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


def ahead(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], depth: int
          ) -> Iterator[Result]:
    """Yield function(item) of each item in order, while a pool works at up to `depth` later ones.

    Items are taken in the calling thread, no earlier than they are needed.
    """
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def read_ahead(items: Iterable[Item], read: Callable[[Item], Item],
               work: Callable[[list[Item]], Iterable[Result]], *, batch_size: int
               ) -> Iterator[Result]:
    """Yield what `work` gives for batches of items that were read, item by item, in order.

    `read` runs in two threads and `work` in a third, ahead of the caller.
    """
    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(1) as runner:
        images = ahead(readers, read, items, batch_size)
        batches = iter(lambda: list(islice(images, batch_size)), [])  # until an empty one
        for results in ahead(runner, work, batches, 1):
            yield from results
