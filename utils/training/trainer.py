"""One optimizer step and one epoch of SSD training."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn
from tqdm import tqdm

from utils.cli import UserError, shorten
from utils.data.loader import Batch, DetectionDataset, batches, make_loader
from utils.device import run_in
from utils.image import normalise
from utils.training.loss import loss_normaliser, multibox_loss
from utils.training.matching import make_targets
from utils.training.optim import Schedule, set_frozen, set_learning_rate


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What the network learns from the ground truth (paper section 2.2)."""

    match_iou: float  # priors with at least this IoU to an object are positives
    negatives_per_positive: float
    background_negatives: int  # hard negatives of an image without positives
    train_on_difficult: bool


class Trainer:
    """The state of a run: network, optimizer, loaders and the count of steps.

    `network` is an SSDNet on `device`, `optimizer` one over its parameters, `schedule` one over as
    many images as `dataset` has; precision is "fp32" or "bf16"; a clip_grad_norm of 0 clips none.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer,
                 dataset: DetectionDataset, schedule: Schedule, objective: Objective, *,
                 device: torch.device, precision: str, num_workers: int, clip_grad_norm: float):
        self.network, self.optimizer, self.dataset = network, optimizer, dataset
        self.schedule, self.objective = schedule, objective
        self.device, self.precision = device, precision
        self.num_workers, self.clip_grad_norm = num_workers, clip_grad_norm
        self.loaders = {}  # by batch size
        self.step, self.total_steps = 0, schedule.total_steps()

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one pass over the images; epochs count from 0.

        Returns a dict of the epoch's number from 1, the learning rate at its end, the mean losses
        of a step, the mean positives of an image, and seconds. Raises UserError for an unreadable
        image, a loss that is not finite, a first epoch that had objects and no positives.
        """
        self.network.train()
        set_frozen(self.network.pretrained_layers, self.schedule.is_frozen(epoch))
        loader = self._loader(epoch)
        loader.batch_sampler.epoch = epoch
        sums = dict.fromkeys(("loss", "loc", "conf", "positives", "objects", "images"), 0.0)
        start = time.perf_counter()
        title = f"epoch {epoch + 1}/{self.schedule.epochs}"
        with tqdm(total=self.schedule.steps_in(epoch), desc=title, unit="step",
                  disable=None) as bar:
            for done, group in enumerate(self._groups(loader), start=1):
                rate = self.schedule.rate(self.step, epoch)
                set_learning_rate(self.optimizer, rate)
                for name, value in self.train_step(group).items():
                    sums[name] += value
                bar.update()
                bar.set_postfix_str(self._status(sums, done, rate, time.perf_counter() - start))
        self._check_positives(sums, epoch)
        return {"epoch": epoch + 1, "learning_rate": rate,
                **{name: sums[name] / done for name in ("loss", "loc", "conf")},
                "positives": round(sums["positives"] / sums["images"], 2),
                "train_seconds": round(time.perf_counter() - start, 1)}

    def train_step(self, group: list[Batch]) -> dict[str, float]:
        """Do one optimizer step over a list of batches, as if they were one batch.

        All targets are made first: the normaliser is that of the whole step. Returns a dict of the
        step's losses and of its positives, objects and images.
        """
        mining = {"negatives_per_positive": self.objective.negatives_per_positive,
                  "background_negatives": self.objective.background_negatives}
        group = [batch.to(self.device) for batch in group]
        targets = [make_targets(batch.boxes, batch.labels, batch.difficult, self.network.priors,
                                iou_threshold=self.objective.match_iou,
                                variances=self.network.spec.variances,
                                train_on_difficult=self.objective.train_on_difficult)
                   for batch in group]
        normaliser = max(1.0, sum(loss_normaliser(target.labels, **mining) for target in targets))
        totals = [0.0, 0.0]
        for batch, target in zip(group, targets):
            with run_in(self.precision, self.device):
                loc, conf = self.network(normalise(batch.images, self.network.spec))
            parts = multibox_loss(loc, conf, target, **mining)
            self._check_finite(parts, batch)
            ((parts.loc + parts.conf) / normaliser).backward()
            totals = [total + part.item() / normaliser for total, part in zip(totals, parts)]
        if self.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {"loss": sum(totals), "loc": totals[0], "conf": totals[1],
                "positives": sum(int((target.labels > 0).sum()) for target in targets),
                "objects": sum(int((batch.labels >= 0).sum()) for batch in group),
                "images": sum(len(batch.images) for batch in group)}

    def _check_finite(self, parts, batch):
        """Stop the run on a loss that is not a number, saying where it came from."""
        bad = [name for name, part in zip(parts._fields, parts) if not part.isfinite()]
        if bad:
            paths = [shorten(self.dataset.records[k].path) for k in batch.indices]
            raise UserError(f"the {' and '.join(bad)} loss is not finite at step {self.step + 1}; "
                            "lower learning_rate, or look at the annotations of these images:\n"
                            + ", ".join(paths))

    def _check_positives(self, sums, epoch):
        """Say aloud that an epoch had no positives; stop where the first had objects and none."""
        if sums["positives"]:
            return
        message = (f"epoch {epoch + 1}: none of {sums['objects']:.0f} objects matched a prior, so "
                   "no object is learnt. Leave anchors_size and aspect_ratios () for the paper's "
                   "priors, or take those that voc_annotation.py suggests.")
        if epoch == 0 and sums["objects"]:
            raise UserError(message)
        print(f"WARNING: {message}")

    def _loader(self, epoch):
        """Return the loader for the epoch's batch size; the other phase's workers go."""
        size = self.schedule.batch_size_in(epoch)
        if size not in self.loaders:
            self.loaders = {size: make_loader(
                self.dataset, size, seed=self.dataset.seed, num_workers=self.num_workers,
                pin_memory=self.device.type == "cuda")}
        return self.loaders[size]

    def _groups(self, loader) -> Iterator[list[Batch]]:
        """Yield lists of the batches of one optimizer step."""
        stream = batches(loader)
        while group := list(islice(stream, self.schedule.accumulate)):
            yield group

    def _status(self, sums, done, rate, seconds):
        """Return the text behind the progress bar; "left" is for the whole run."""
        left = int((self.total_steps - self.step) * seconds / done)
        return (f"loc {sums['loc'] / done:.3f} conf {sums['conf'] / done:.3f} lr {rate:.1e} "
                f"{sums['images'] / seconds:.1f} img/s "
                f"left {left // 3600}:{left // 60 % 60:02}:{left % 60:02}")
