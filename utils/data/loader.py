"""From records to the batches of each optimizer step."""

import os
import signal
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from utils.cli import UserError
from utils.data.annotations import Record
from utils.data.augment import (Augmentation, Geometry, apply_geometry, choose_geometry, move_boxes)
from utils.image import load_image, stack_inputs
from utils.multibox.spec import SSDSpec
from utils.tiling import cut_window, draw_window

# What random numbers are drawn for, the first part of their generator's key. The other parts are
# seed, epoch and image, so that no result depends on workers or ranks.
ORDER, SAMPLE = 1, 2
WAIT_SECONDS = 300  # for a batch from the workers; longer means that it will never come
WORKER_LOST = ("a process that reads images was lost ({!r}). The usual reason is lack of memory: "
               "lower num_workers or batch_size; in a container, start it with --shm-size=1g, or "
               "set num_workers = 0.")


class Sample(NamedTuple):
    """One training image, resized and augmented."""

    image: np.ndarray  # (S, S, 3) RGB pixel values, uint8 or float32
    boxes: np.ndarray  # (G, 4) float32 xyxy, fractions of the input
    labels: np.ndarray  # (G,) int64
    difficult: np.ndarray  # (G,) bool
    index: int  # of the record


class Batch(NamedTuple):
    """A padded batch; G is the largest number of objects in it."""

    images: torch.Tensor  # (B, 3, S, S) RGB pixel values, uint8 or float32
    boxes: torch.Tensor  # (B, G, 4) float32 xyxy, fractions of the input
    labels: torch.Tensor  # (B, G) int64, -1 for padding
    difficult: torch.Tensor  # (B, G) bool
    indices: tuple[int, ...]

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with its tensors on `device`."""
        return Batch(*(part.to(device, non_blocking=True) for part in self[:4]), self.indices)


class DetectionDataset(Dataset):
    """Training samples of records, indexed by (epoch, index), with the seed all they depend on.

    Where the spec has a tile, a sample is made of one window of the image.
    """

    def __init__(self, records: Sequence[Record], spec: SSDSpec, augmentation: Augmentation | None,
                 seed: int):
        self.records, self.spec = records, spec
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Sample | UserError:
        """Return the Sample; a UserError too, which would be a page of tracebacks when raised."""
        try:
            return self._make_sample(*key)
        except UserError as error:
            return error

    def _make_sample(self, epoch, index):
        path, boxes_px, labels, difficult = self.records[index]
        rng = np.random.default_rng((SAMPLE, self.seed, epoch, index))
        image = load_image(path)
        height, width = image.shape[:2]
        boxes = (boxes_px / (width, height, width, height)).clip(0, 1)
        if (boxes[:, 2:] <= boxes[:, :2]).any():
            raise UserError(f"{path}: the list has a box outside of this {width}x{height} image; "
                            "run voc_annotation.py again.")
        if self.spec.tile:  # from here on the window is the image
            window = draw_window(boxes_px, (width, height), self.spec.tile, rng)
            image = cut_window(image, window, self.spec)
            region = window / (width, height, width, height)
            boxes, indices = move_boxes(boxes, Geometry(region, flip=False))
            labels, difficult = labels[indices], difficult[indices]
        geometry = choose_geometry(boxes, self.augmentation, rng)
        image, boxes, indices = apply_geometry(image, boxes, geometry, self.spec,
                                               self.augmentation, rng)
        return Sample(image, boxes, labels[indices], difficult[indices], index)


def collate(samples: Sequence[Sample | UserError]) -> Batch | UserError:
    """Pad and stack Samples to a Batch; return the first UserError among them instead."""
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    images, boxes, labels, difficult, indices = zip(*samples)

    def pad(arrays, value):
        return pad_sequence([torch.from_numpy(array) for array in arrays], True, value)

    return Batch(stack_inputs(images), pad(boxes, 0), pad(labels, -1), pad(difficult, False),
                 indices)


def epoch_order(num_images: int, *, batch_size: int, seed: int, epoch: int, ranks: int = 1
                ) -> np.ndarray:
    """Return the images of an epoch's batches, of all ranks, as (N, B) indices.

    The order depends on (seed, epoch) alone. It wraps round, so that the last batch is full (batch
    norm never sees a batch of one because of a remainder) and N is a multiple of `ranks`.
    """
    order = np.random.default_rng((ORDER, seed, epoch, 0)).permutation(num_images)
    count = -(-num_images // batch_size)
    count += -count % ranks
    return order[np.arange(count * batch_size) % num_images].reshape(count, batch_size)


def start_worker(worker_id: int) -> None:
    """Limit a worker to one OpenCV thread, and leave a terminal's Ctrl-C to the main process."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Loader:
    """The Batches of each optimizer step, made by worker processes that live through all epochs.

    A step has `accumulate` Batches on each of `ranks`; each rank takes every ranks-th Batch. With
    `num_workers` 0 the main process makes the samples; there is at most one worker a core.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int, accumulate: int, seed: int,
                 num_workers: int, rank: int = 0, ranks: int = 1, pin_memory: bool = False):
        self.num_images, self.seed, self.rank, self.ranks = len(dataset), seed, rank, ranks
        self.batch_size, self.accumulate = min(batch_size, self.num_images), accumulate
        workers = min(num_workers, os.cpu_count() or 1)
        self._keys = []  # (epoch, index) of each image of each Batch to come
        self._data_loader = DataLoader(
            dataset, batch_sampler=self._keys, collate_fn=collate, num_workers=workers,
            # Its own, so that the script's random numbers do not depend on the workers.
            generator=torch.Generator().manual_seed(seed),
            worker_init_fn=start_worker, persistent_workers=workers > 0, pin_memory=pin_memory,
            timeout=WAIT_SECONDS if workers else 0)

    @property
    def images_per_step(self) -> int:
        """The images of an optimizer step, of all ranks."""
        return min(self.batch_size * self.accumulate * self.ranks, self.num_images)

    def __len__(self) -> int:
        """Return the optimizer steps of an epoch."""
        return -(-self.num_images // self.images_per_step)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[list[Batch]]:
        """Yield this rank's Batches of each step of an epoch, from `start_step` on.

        The last step may have fewer than `accumulate`, on all ranks equally many. Raises UserError
        for an image that cannot be read and for a worker that was killed or hangs.
        """
        order = epoch_order(self.num_images, batch_size=self.batch_size, seed=self.seed,
                            epoch=epoch, ranks=self.ranks)[self.rank::self.ranks]
        self._keys[:] = [[(epoch, index) for index in batch]
                         for batch in order[start_step * self.accumulate:].tolist()]
        batches = iter(self._data_loader)
        for _ in range(start_step, len(self)):
            try:
                step = list(islice(batches, self.accumulate))
            except (RuntimeError, OSError, EOFError) as error:
                if not self._data_loader.num_workers or str(error).startswith("Caught "):  # a bug
                    raise
                raise UserError(WORKER_LOST.format(error)) from None
            for batch in step:
                if isinstance(batch, UserError):
                    raise batch
            yield step
