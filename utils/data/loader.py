"""From records to the batches of each optimizer step."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from utils.cli import UserError
from utils.data.annotations import Record
from utils.data.augment import Augmentation, Geometry, apply_geometry, choose_geometry, move_boxes
from utils.image import load_image
from utils.multibox.matching import Targets
from utils.multibox.spec import SSDSpec
from utils.tiling import cut_window, draw_window

ORDER, SAMPLE = 1, 2  # what random numbers are for: the first part of their generator's key


class Batch(NamedTuple):
    """A padded batch; G is the largest number of objects in it, P the number of priors."""

    images: torch.Tensor  # (B, 3, S, S) RGB pixel values, uint8 or float32
    boxes: torch.Tensor  # (B, G, 4) float32 xyxy, fractions of the input
    labels: torch.Tensor  # (B, G) int64, -1 for padding
    difficult: torch.Tensor  # (B, G) bool
    indices: tuple[int, ...]
    targets: Targets | None = None  # of these objects

    def to(self, device: torch.device | str) -> tuple[torch.Tensor, Targets]:
        """Return images and targets on `device`."""
        images, labels, loc = (part.to(device, non_blocking=True)
                               for part in (self.images, *self.targets))
        return images, Targets(labels, loc)


class DetectionDataset(Dataset):
    """Training samples of records; each depends on (seed, epoch, index) alone."""

    def __init__(self, records: Sequence[Record], spec: SSDSpec, augmentation: Augmentation | None,
                 seed: int):
        self.records, self.spec = records, spec
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        """Return a row of a Batch for (epoch, index), as arrays, the image (S, S, 3)."""
        epoch, index = key
        path, boxes_px, labels, difficult, _, size = self.records[index]
        rng = np.random.default_rng((SAMPLE, self.seed, epoch, index))
        image = load_image(path)
        height, width = image.shape[:2]
        boxes = (boxes_px / (width, height, width, height)).clip(0, 1)
        if size not in (None, (width, height)) or (boxes[:, 2:] <= boxes[:, :2]).any():
            raise UserError(f"{path}: its list is of another image; run voc_annotation.py again.")
        if self.spec.tile:  # from here on the window is the image
            window = draw_window(boxes_px, (width, height), self.spec.tile, rng)
            image = cut_window(image, window, self.spec)
            region = window / (width, height, width, height)
            boxes, indices = move_boxes(boxes, Geometry(region, flip=False))
            labels, difficult = labels[indices], difficult[indices]
        geometry = choose_geometry(boxes, self.augmentation, rng)
        image, boxes, indices = apply_geometry(image, boxes, geometry, self.spec,
                                               self.augmentation, rng)
        return image, boxes, labels[indices], difficult[indices], index


def collate(samples: Sequence[tuple], make_targets: Callable | None = None) -> Batch:
    """Pad and stack samples to a Batch; `make_targets` is that of a MultiBoxLoss."""
    images, *targets, indices = zip(*samples)
    boxes, labels, difficult = (
        pad_sequence([torch.from_numpy(array) for array in arrays], True, padding)
        for arrays, padding in zip(targets, (0, -1, False)))
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    targets = make_targets(boxes, labels, difficult) if make_targets else None
    return Batch(images, boxes, labels, difficult, indices, targets)


def epoch_order(num_images: int, *, batch_size: int, seed: int, epoch: int, ranks: int = 1
                ) -> np.ndarray:
    """Return the images of an epoch's batches, of all ranks, as (N, B) indices.

    The order wraps round, so that the last batch is full and N is a multiple of `ranks`.
    """
    order = np.random.default_rng((ORDER, seed, epoch, 0)).permutation(num_images)
    count = -(-num_images // batch_size)
    count += -count % ranks
    return np.resize(order, (count, batch_size))


def start_worker(worker_id: int) -> None:
    """Limit a worker to one OpenCV thread, and leave signals to the main process."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.name == "posix":  # away from the group that a terminal, `timeout` or a scheduler signals
        os.setpgid(0, 0)


class Loader:
    """The Batches of each step, `accumulate` on each rank, made by at most a worker a core.

    The workers match objects and priors too, by the `make_targets` of a MultiBoxLoss.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int, accumulate: int, seed: int,
                 num_workers: int, make_targets: Callable | None = None, rank: int = 0,
                 ranks: int = 1, pin_memory: bool = False):
        self.num_images, self.seed, self.rank, self.ranks = len(dataset), seed, rank, ranks
        self.batch_size, self.accumulate = min(batch_size, self.num_images), accumulate
        cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # of torchrun
        workers = min(num_workers, max(1, cores))
        self._keys = []  # (epoch, index) of each image of each Batch to come
        self._data_loader = DataLoader(
            dataset, batch_sampler=self._keys, num_workers=workers,
            collate_fn=partial(collate, make_targets=make_targets),
            generator=torch.Generator().manual_seed(seed),  # leaves the script's numbers alone
            worker_init_fn=start_worker, persistent_workers=workers > 0, pin_memory=pin_memory)

    @property
    def images_per_step(self) -> int:
        """The images of an optimizer step, of all ranks."""
        return min(self.batch_size * self.accumulate * self.ranks, self.num_images)

    def __len__(self) -> int:
        """Return the optimizer steps of an epoch."""
        return -(-self.num_images // self.images_per_step)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[list[Batch]]:
        """Yield this rank's Batches of each step; UserError for an image that cannot be read."""
        order = epoch_order(self.num_images, batch_size=self.batch_size, seed=self.seed,
                            epoch=epoch, ranks=self.ranks)[self.rank::self.ranks]
        self._keys[:] = [[(epoch, index) for index in batch]
                         for batch in order[start_step * self.accumulate:].tolist()]
        batches = iter(self._data_loader)
        try:
            while step := list(islice(batches, self.accumulate)):
                yield step
        except UserError as error:  # of a worker it holds a page of tracebacks
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
