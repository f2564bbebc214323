"""Records to batches: dataset, order, collating, and the loader of each step's batches."""

import os
import signal
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from utils.cli import UserError
from utils.data.annotations import Record
from utils.data.augment import (Augmentation, Geometry, apply_geometry, choose_geometry, move_boxes)
from utils.image import load_image, stack_inputs
from utils.multibox.spec import SSDSpec
from utils.tiling import cut_window, draw_window

WAIT_SECONDS = 300  # for a batch from the workers; longer means that it will never come
WORKER_LOST = ("a process that reads images was lost ({}). Lack of memory is the usual reason: "
               "lower num_workers or batch_size; in a container, start it with --shm-size=1g or set "
               "num_workers = 0.")


class Purpose(IntEnum):
    """What random numbers are drawn for: the first part of every generator's key."""

    ORDER = 1
    SAMPLE = 2


def make_rng(purpose: Purpose, seed: int, epoch: int, index: int = 0) -> np.random.Generator:
    """Return the generator of a purpose, a seed, an epoch and an image."""
    return np.random.default_rng((purpose, seed, epoch, index))


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
    """Training samples of a list of records.

    Indexed by (epoch, index): a sample depends on the seed and those two alone, not on the worker
    that makes it or on what that worker made before. Where the spec has a tile, a sample is made of
    one window of the image.
    """

    def __init__(self, records: Sequence[Record], spec: SSDSpec, augmentation: Augmentation | None,
                 seed: int):
        self.records, self.spec = records, spec
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Sample | UserError:
        """Return the Sample, or the UserError that names an image that cannot be used.

        Raised in a worker, the error would arrive as a page of tracebacks.
        """
        epoch, index = key
        try:
            return self._make_sample(index, make_rng(Purpose.SAMPLE, self.seed, epoch, index))
        except UserError as error:
            return error

    def _make_sample(self, index, rng):
        path, boxes_px, labels, difficult = self.records[index]
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
    most = max(len(sample.boxes) for sample in samples)
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.full((len(samples), most), -1)
    difficult = torch.zeros(len(samples), most, dtype=torch.bool)
    for k, sample in enumerate(samples):
        count = len(sample.boxes)
        boxes[k, :count] = torch.from_numpy(sample.boxes)
        labels[k, :count] = torch.from_numpy(sample.labels)
        difficult[k, :count] = torch.from_numpy(sample.difficult)
    return Batch(stack_inputs([sample.image for sample in samples]), boxes, labels, difficult,
                 tuple(sample.index for sample in samples))


def start_worker(worker_id: int) -> None:
    """Set up a worker: one OpenCV thread, since the workers are the parallelism, and no Ctrl-C.

    A terminal's Ctrl-C reaches workers too; only the script, which needs their batches, handles it.
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


# ---- Used until train.py has moved to Loader ----
# ruff: noqa: E402
import shutil
import threading
from functools import cache

from torch.utils.data import Sampler

from utils.distributed import processes_here, rank, world_size

PREFETCH = 2
SHARED_MEMORY = "/dev/shm"
WORKERS_FAILED = (
    "a process that reads images ended or hung ({}). Out of memory is the usual reason: lower "
    "num_workers or batch_size.\nIn a container " + SHARED_MEMORY + " may be too small: start it "
    "with --shm-size=1g, or set num_workers = 0.")


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
