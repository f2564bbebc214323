"""Records to batches: dataset, sampler, collate, loader."""

import io
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from enum import IntEnum
from functools import cache
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.cli import UserError
from utils.data.augment import (Geometry, apply_geometry, choose_geometry, may_halve_region,
                                move_boxes)
from utils.distributed import processes_here, rank, world_size
from utils.image import decode_image, read_bytes, read_header, stack_inputs
from utils.tiling import cut_window, draw_window

WAIT_SECONDS = 300  # for a batch from the workers; longer means that it will never come
PREFETCH = 2  # batches that a worker makes ahead
SHARED_MEMORY = "/dev/shm"  # where workers lay their batches down, on Linux
WORKERS_FAILED = (
    "a process that reads images ended or hung ({}). Out of memory is the usual reason: lower "
    "num_workers or batch_size.\nIn a container " + SHARED_MEMORY + " may be too small: start it "
    "with --shm-size=1g, or set num_workers = 0.")


WORKER_LOST = (
    "a process that reads images was lost ({}). Lack of memory is the usual reason: lower "
    "num_workers or batch_size. In a container, start it with --shm-size=1g or set num_workers = 0.")


class Purpose(IntEnum):
    """What random numbers are drawn for; the first part of every generator's key."""

    ORDER = 1
    SAMPLE = 2


def make_rng(purpose, seed, epoch, index=0):
    """Return the np.random.Generator of a purpose, a seed, an epoch and an image."""
    return np.random.default_rng((purpose, seed, epoch, index))


class Sample(NamedTuple):
    """One training image, resized and augmented."""

    image: np.ndarray  # (S, S, 3) RGB grey levels
    boxes: np.ndarray  # (G, 4) float32 xyxy, fractions of the input
    labels: np.ndarray  # (G,) int64
    difficult: np.ndarray  # (G,) bool
    index: int  # of the record


class Batch(NamedTuple):
    """A padded batch; G is the largest number of objects in it."""

    images: torch.Tensor  # (B, 3, S, S) RGB grey levels, not yet normalised
    boxes: torch.Tensor  # (B, G, 4) float32
    labels: torch.Tensor  # (B, G) int64, -1 for padding
    difficult: torch.Tensor  # (B, G) bool
    indices: tuple[int, ...]

    def to(self, device):
        """Return the batch with its tensors on `device`."""
        return Batch(*(part.to(device, non_blocking=True) for part in self[:4]), self.indices)


class DetectionDataset(Dataset):
    """Training samples of a list of records.

    Indexed by (epoch, index): a sample depends on the seed and those two alone, not on the worker
    that makes it or on what that worker made before. Where the spec has a tile, a sample is made of
    one window of the image: an epoch takes as many samples and steps as without.
    """

    def __init__(self, records, spec, augmentation, seed):
        self.records, self.spec = records, spec
        self.augmentation, self.seed = augmentation, seed

    def __len__(self):
        return len(self.records)

    def __getitem__(self, key):
        """Return the Sample, or the UserError that names an unreadable image."""
        epoch, index = key
        record = self.records[index]
        rng = make_rng(Purpose.SAMPLE, self.seed, epoch, index)
        try:
            data = read_bytes(record.path)
            header = read_header(io.BytesIO(data), record.path)
            width, height = header.size
            boxes = (record.boxes_px / (width, height, width, height)).clip(0, 1)
            if (boxes[:, 2:] <= boxes[:, :2]).any():
                raise UserError(f"{record.path}: the list has a box outside of this "
                                f"{width}x{height} image; run voc_annotation.py again.")
            labels, difficult, size, window = *record[2:], header.size, None
            if self.spec.tile:  # from here on the window is the image
                window = draw_window(record.boxes_px, size, self.spec.tile, rng)
                boxes, mine = move_boxes(boxes, Geometry(window / (size * 2), False))
                labels, difficult, size = labels[mine], difficult[mine], (self.spec.tile,) * 2
            geometry = choose_geometry(boxes, self.augmentation, rng)
            halve = window is None and header.can_be_halved and may_halve_region(
                geometry, size, self.spec)
            image = decode_image(data, record.path, header, halve=halve)
        except UserError as error:
            # Raised in a worker it would arrive as a page of tracebacks; see `batches`.
            return error
        if window is not None:
            image = cut_window(image, window, self.spec)
        image, boxes, kept = apply_geometry(image, boxes, geometry, self.spec, self.augmentation,
                                            rng, size=size)
        return Sample(image, boxes, labels[kept], difficult[kept], index)


class EpochBatchSampler(Sampler):
    """Batches of (epoch, index) in an order that depends on (seed, epoch) alone.

    The last batch is filled up from the start of the epoch's order, so that batch norm never
    meets a batch of one because of a remainder. Of several ranks each has every ranks-th batch;
    `start` of them are left out.
    """

    def __init__(self, num_records, batch_size, seed, rank=0, ranks=1):
        self.num_records, self.batch_size, self.seed = num_records, batch_size, seed
        self.rank, self.ranks = rank, ranks
        self.epoch = self.start = 0

    def _places(self):
        places = range(0, self.num_records, self.batch_size)
        return places[self.rank::self.ranks][self.start:]

    def __len__(self):
        return len(self._places())

    def __iter__(self):
        order = make_rng(Purpose.ORDER, self.seed, self.epoch).permutation(self.num_records)
        if self.num_records > self.batch_size:
            order = np.concatenate([order, order[:-self.num_records % self.batch_size]])
        for place in self._places():
            yield [(self.epoch, int(k)) for k in order[place:place + self.batch_size]]


def collate(samples):
    """Pad and stack Samples to a Batch; hand on the first UserError among them instead."""
    errors = [sample for sample in samples if isinstance(sample, UserError)]
    if errors:
        return errors[0]
    most = max(len(sample.boxes) for sample in samples)
    boxes = np.zeros((len(samples), most, 4), dtype=np.float32)
    labels = np.full((len(samples), most), -1, dtype=np.int64)
    difficult = np.zeros((len(samples), most), dtype=bool)
    for k, sample in enumerate(samples):
        count = len(sample.boxes)
        boxes[k, :count], labels[k, :count] = sample.boxes, sample.labels
        difficult[k, :count] = sample.difficult
    return Batch(stack_inputs([sample.image for sample in samples]), torch.from_numpy(boxes),
                 torch.from_numpy(labels), torch.from_numpy(difficult),
                 tuple(sample.index for sample in samples))


def start_worker(worker_id):
    """Keep OpenCV single-threaded in a worker: the workers are the parallelism.

    A terminal's Ctrl-C reaches workers too: they leave it to the script, which needs their batches.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def epoch_order(num_images: int, *, batch_size: int, seed: int, epoch: int, ranks: int = 1
                ) -> np.ndarray:
    """Return the images of an epoch's batches, of all ranks, as (N, B) indices.

    The order depends on (seed, epoch) alone. It wraps round, so that the last batch is full (batch
    norm never sees a batch of one because of a remainder) and N is a multiple of `ranks`. B is
    `batch_size`, or the number of images where that is smaller.
    """
    order = make_rng(Purpose.ORDER, seed, epoch).permutation(num_images)
    batch_size = min(batch_size, num_images)
    count = -(-num_images // batch_size)
    count += -count % ranks
    return order[np.arange(count * batch_size) % num_images].reshape(count, batch_size)


class Loader:
    """The batches of each optimizer step, made by worker processes that live through all epochs.

    Args:
        dataset: a DetectionDataset, or another one indexed by (epoch, index).
        batch_size: images of one Batch.
        accumulate: Batches of a step, of each rank.
        seed: of the order of the images.
        num_workers: processes that make samples, at most one a core; 0: the main process does.
        rank, ranks: this process among those that share the steps; it takes every ranks-th Batch.
        pin_memory: for copies to a GPU.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int, accumulate: int, seed: int,
                 num_workers: int, rank: int = 0, ranks: int = 1, pin_memory: bool = False):
        self.num_images, self.batch_size, self.accumulate = len(dataset), batch_size, accumulate
        self.seed, self.rank, self.ranks = seed, rank, ranks
        workers = min(num_workers, os.cpu_count() or 1)
        self._keys = []  # (epoch, index) of each image of each Batch to come
        self._data_loader = DataLoader(
            dataset, batch_sampler=self._keys, collate_fn=collate, num_workers=workers,
            # Its own, so that the script's random numbers do not depend on the workers.
            generator=torch.Generator().manual_seed(seed),
            worker_init_fn=start_worker, persistent_workers=workers > 0, pin_memory=pin_memory,
            timeout=WAIT_SECONDS if workers else 0)

    def __len__(self) -> int:
        """Return the optimizer steps of an epoch."""
        batches_a_step = self.accumulate * self.ranks
        return -(-self.num_images // (min(self.batch_size, self.num_images) * batches_a_step))

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[list[Batch]]:
        """Yield this rank's Batches of each step of an epoch, from `start_step` on.

        The last step may have fewer than `accumulate`, on all ranks equally many. Raises UserError
        for an image that cannot be read and for a worker that was killed or hangs.
        """
        order = epoch_order(self.num_images, batch_size=self.batch_size, seed=self.seed,
                            epoch=epoch, ranks=self.ranks)[self.rank::self.ranks]
        self._keys[:] = [[(epoch, int(index)) for index in batch]
                         for batch in order[start_step * self.accumulate:]]
        batches = self._batches()
        while step := list(islice(batches, self.accumulate)):
            yield step

    def _batches(self):
        """Yield the Batches of `_keys`; raise a worker's UserError in this process."""
        iterator = iter(self._data_loader)
        while True:
            try:
                batch = next(iterator, None)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader"):  # a bug, in a worker or here
                    raise
                raise UserError(WORKER_LOST.format(error)) from None
            if batch is None:
                return
            if isinstance(batch, UserError):
                raise batch
            yield batch


def make_loader(dataset, batch_size, *, seed, num_workers, pin_memory, accumulate=1):
    """Return a DataLoader of Batches; set `loader.batch_sampler.epoch` before each epoch.

    Reads in the main process where workers have no room to lay their batches down; `accumulate`
    of them are in use at a time.
    """
    workers = min(num_workers, os.cpu_count() or 1)
    if workers and not has_shared_memory(workers, batch_size, dataset.spec, accumulate):
        workers = 0
    sampler = EpochBatchSampler(len(dataset), batch_size, seed, rank(), world_size())
    return DataLoader(dataset, batch_sampler=sampler,
                      # of its own, so that the script's random numbers depend on no worker
                      generator=torch.Generator().manual_seed(seed),
                      num_workers=workers, collate_fn=collate, worker_init_fn=start_worker,
                      pin_memory=pin_memory, persistent_workers=workers > 0,
                      prefetch_factor=PREFETCH if workers else None,
                      timeout=WAIT_SECONDS if workers else 0)


def has_shared_memory(workers, batch_size, spec, accumulate=1):
    """Tell whether the batches that workers hold at a time fit; print a line where they do not."""
    if not os.path.isdir(SHARED_MEMORY):  # other systems have no such limit
        return True
    # What is ahead, one being made by each worker, in the main process those of a step and one
    # more, and as much again.
    batches_held = workers * (PREFETCH + 1) + accumulate + 1
    need = processes_here() * (2 * batches_held * batch_size * spec.size**2 * 3 + 2**20)
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < need:
        print(f"{SHARED_MEMORY} has {free / 2**20:.0f} MB free, {workers} workers need "
              f"{need / 2**20:.0f}: images are read in the main process, which is slower. Start "
              "the container with --shm-size=1g, or set num_workers = 0.")
    return free >= need


def batches(loader):
    """Yield the loader's Batches; raise a worker's UserError here, in the main process.

    Raises UserError too where a worker was killed or no batch comes.
    """
    iterator = iter(loader)
    if loader.num_workers:
        hear_deaths(death_handler)
    while True:
        try:
            batch = next(iterator, None)
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            raise (as_user_error(error) if loader.num_workers else error) from None
        if batch is None:
            return
        if isinstance(batch, UserError):
            raise batch
        yield batch


def as_user_error(error):
    """Return the UserError for a worker's end; the error itself where a worker met a bug."""
    text = str(error) or type(error).__name__
    if text.startswith("Caught "):  # what torch writes before a worker's own traceback
        return error
    hear_deaths(lambda: signal.SIG_DFL)  # else torch says it again whenever a process ends
    return UserError(WORKERS_FAILED.format(text.splitlines()[0].strip(". ")))


def hear_deaths(make_handler):
    """Set the handler of SIGCHLD where the system and the thread can."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, make_handler())


@cache
def death_handler():
    """Return torch's handler, which raises in the midst of anything, but with a UserError."""
    torch_handler = signal.getsignal(signal.SIGCHLD)

    def handler(number, frame):
        try:
            torch_handler(number, frame)
        except RuntimeError as error:
            raise as_user_error(error) from None

    return handler
