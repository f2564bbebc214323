"""Detections of lists, shared out over processes."""

from collections.abc import Callable, Iterable
from itertools import chain

from tqdm import tqdm

from utils.cli import UserError
from utils.data.annotations import Record
from utils.detections import Detections
from utils.distributed import share_out


def detect_records(stream: Callable[..., Iterable[tuple]], records: list[Record], batch_size: int
                   ) -> list[Detections]:
    """Return the Detections of each record's image, on all ranks, which share the batches out.

    `stream` is `SSD.detect_stream` with its thresholds. Raises UserError for a bad image.
    """
    def work(batches):
        found = stream([record.path for batch in batches for record in batch],
                       batch_size=batch_size)
        for batch in tqdm(batches, desc="mAP", unit="batch", leave=False, disable=None):
            results = [next(found)[2] for _ in batch]
            for error in results:
                if isinstance(error, UserError):
                    raise error
            yield results

    batches = [records[k:k + batch_size] for k in range(0, len(records), batch_size)]
    return list(chain(*share_out(batches, work)))
