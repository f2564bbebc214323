"""Records to batches: dataset, sampler, collate, loader."""

import io
import os
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.cli import UserError
from utils.data.augment import apply_geometry, choose_geometry, pixels_needed
from utils.image import decode_image, image_size, read_bytes, stack_inputs


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
    that makes it or on what that worker made before.
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
        rng = np.random.default_rng((self.seed, epoch, index))
        try:
            data = read_bytes(record.path)
            width, height = image_size(io.BytesIO(data), record.path)
            boxes = (record.boxes_px / (width, height, width, height)).clip(0, 1)
            if (boxes[:, 2:] <= boxes[:, :2]).any():
                raise UserError(f"{record.path}: the list has a box outside of this "
                                f"{width}x{height} image; run voc_annotation.py again.")
            geometry = choose_geometry(boxes, self.augmentation, rng)
            # Validation must see what prediction sees: the whole image, resized by the spec.
            enough = pixels_needed(geometry, self.spec) if self.augmentation else None
            image = decode_image(data, record.path, enough, (width, height))
        except UserError as error:
            # Raised in a worker it would arrive as a page of tracebacks; see `batches`.
            return error
        image, boxes, kept = apply_geometry(image, boxes, geometry, self.spec, self.augmentation,
                                            rng)
        return Sample(image, boxes, record.labels[kept], record.difficult[kept], index)


class EpochBatchSampler(Sampler):
    """Batches of (epoch, index) in an order that depends on (seed, epoch) alone.

    The last batch is filled up from the start of the epoch's order, so that batch norm never
    meets a batch of one because of a remainder.
    """

    def __init__(self, num_records, batch_size, seed):
        self.num_records, self.batch_size, self.seed = num_records, batch_size, seed
        self.epoch = 0

    def __len__(self):
        return -(-self.num_records // self.batch_size)

    def __iter__(self):
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_records)
        if self.num_records > self.batch_size:
            order = np.concatenate([order, order[:-self.num_records % self.batch_size]])
        for start in range(0, len(order), self.batch_size):
            yield [(self.epoch, int(k)) for k in order[start:start + self.batch_size]]


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
    """Keep OpenCV single-threaded in a worker: the workers are the parallelism."""
    cv2.setNumThreads(0)


def make_loader(dataset, batch_size, *, seed, num_workers, pin_memory):
    """Return a DataLoader of Batches; set `loader.batch_sampler.epoch` before each epoch."""
    workers = min(num_workers, os.cpu_count() or 1)
    return DataLoader(dataset, batch_sampler=EpochBatchSampler(len(dataset), batch_size, seed),
                      num_workers=workers, collate_fn=collate, worker_init_fn=start_worker,
                      pin_memory=pin_memory, persistent_workers=workers > 0)


def batches(loader):
    """Yield the loader's Batches; raise a worker's UserError here, in the main process."""
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
