"""One optimizer step and one epoch of SSD training."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import nn
from tqdm import tqdm

from utils.cli import shorten
from utils.data.loader import Batch, DetectionDataset, batches, make_loader
from utils.device import run_in
from utils.distributed import batch_norm_alone, share_tensors, sum_floats, sum_gradients
from utils.multibox.loss import MultiBoxLoss
from utils.training.optim import Schedule, set_frozen, set_learning_rate
from utils.training.run_state import (CannotLearn, finite_number, generator_states, load_optimizer,
                                      set_generators, whole_number)

SUMS = ("loss", "loc", "conf", "positives", "objects", "images")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What the network learns from the ground truth (paper section 2.2)."""

    match_iou: float  # priors with at least this IoU to an object are positives
    negatives_per_positive: float
    background_negatives: int  # hard negatives of an image without positives
    train_on_difficult: bool


class Leaving(Exception):
    """All ranks leave the run before a step: a signal asked one of them to."""


class Trainer:
    """The state of a run: network, optimizer, loaders and how far it has come.

    `epoch` counts the epochs that are finished, `done` the steps of the one under way, `step` all;
    `sums` and `seconds` are of the epoch under way, `skipped` counts steps that overflowed fp16.

    `network` is an SSDNet on `device`, `optimizer` one over its parameters, `schedule` one over as
    many images as `dataset` has; `precision` is that of set_precision; a clip_grad_norm of 0 clips
    none.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer,
                 dataset: DetectionDataset, schedule: Schedule, objective: Objective, *,
                 device: torch.device, precision: str, num_workers: int, clip_grad_norm: float):
        self.network, self.optimizer, self.dataset = network, optimizer, dataset
        self.schedule, self.objective = schedule, objective
        self.device, self.precision = device, precision
        self.num_workers, self.clip_grad_norm = num_workers, clip_grad_norm
        self.loaders = {}  # by batch size
        # fp16 has so few small numbers that gradients are scaled up; other precisions need none.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.scaler.scale(torch.zeros((), device=device))  # it begins at its first loss: one rank
        # may have none, and a resumed run's is to go on with the scale that was saved
        self.step, self.total_steps = 0, schedule.total_steps()
        self.epoch, self.skipped = 0, 0
        self._begin_epoch()

    def _begin_epoch(self):
        self.done, self.seconds, self.sums = 0, 0.0, dict.fromkeys(SUMS, 0.0)

    def state_dict(self) -> dict:
        """Return what is needed beside the network's weights to go on exactly from here."""
        return {"epoch": self.epoch, "done": self.done, "step": self.step,
                "skipped": self.skipped, "seconds": self.seconds, "sums": dict(self.sums),
                "optimizer": self.optimizer.state_dict()["state"],
                "scaler": self.scaler.state_dict(), "generators": generator_states(self.device)}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` returned, perhaps read from a file.

        Raises ValueError, KeyError, TypeError or RuntimeError for what is no state of this run.
        """
        for name in ("epoch", "done", "step", "skipped"):
            setattr(self, name, whole_number(state[name]))
        self.seconds = finite_number(state["seconds"])
        self.sums = {name: finite_number(state["sums"][name]) for name in SUMS}
        left = self.schedule.epochs - self.epoch
        before = replace(self.schedule, epochs=self.epoch).total_steps()
        if (left < 0 or self.step != before + self.done
                or self.done >= (self.schedule.steps_in(self.epoch) if left else 1)):
            raise ValueError(f"step {self.done} of epoch {self.epoch + 1} is not in the run")
        load_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict({name: finite_number(state["scaler"][name])
                                         for name in self.scaler.state_dict()})
        set_generators(state["generators"], self.device)

    def train_epoch(self, *, fetch: Callable[[Callable], list[Batch] | None] = lambda work: work(),
                    after_step: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Train for the rest of a pass over the images, all of it where none is done.

        `fetch` is to return what its argument returns, the batches of a step, or None to leave:
        then Leaving is raised on all ranks. `after_step` is called after each step but the epoch's
        last. While they run, and at Leaving, the state is whole and may be saved.

        Returns a dict of the epoch's number from 1, the learning rate at its end, the mean losses
        of a step, the mean positives of an image, and seconds. Raises UserError for an unreadable
        image, a loss that is not finite, a first epoch that had objects and no positives.
        """
        epoch, start = self.epoch, time.perf_counter() - self.seconds
        self.network.train()
        set_frozen(self.network.pretrained_layers, self.schedule.is_frozen(epoch))
        loader = self._loader(epoch)
        loader.batch_sampler.epoch = epoch
        loader.batch_sampler.start = self.done * self.schedule.accumulate
        steps, title = self.schedule.steps_in(epoch), f"epoch {epoch + 1}/{self.schedule.epochs}"
        with tqdm(total=steps, initial=self.done, desc=title, unit="step", disable=None) as bar:
            stream = batches(loader)
            for _ in range(self.done, steps):
                # Fewer in the epoch's last step; of several ranks some may have none there.
                group = fetch(lambda: list(islice(stream, self.schedule.accumulate)))
                if group is None and self.schedule.ranks == 1:
                    raise Leaving  # with nobody else to tell
                rate = self.schedule.rate(self.step, epoch)
                set_learning_rate(self.optimizer, rate)
                for name, value in self.train_step(group).items():
                    self.sums[name] += value
                self.done, self.seconds = self.done + 1, time.perf_counter() - start
                bar.update()
                bar.set_postfix_str(self._status(rate))
                if self.done < steps:
                    after_step()
        share_tensors(self.network.buffers())  # batch norm's, to score the same network everywhere
        row = self._finish_epoch(rate)
        self._begin_epoch()
        return row

    def _finish_epoch(self, rate):
        """Count the epoch and return its row; see `train_epoch`."""
        self._check_positives(self.sums, self.epoch)
        if self.skipped:
            print(f"note: {self.skipped} of {self.step} steps overflowed fp16 and were skipped")
        self.epoch += 1
        return {"epoch": self.epoch, "learning_rate": rate,
                **{name: self.sums[name] / self.done for name in ("loss", "loc", "conf")},
                "positives": round(self.sums["positives"] / self.sums["images"], 2),
                "train_seconds": round(self.seconds, 1)}

    def train_step(self, group: list[Batch] | None) -> dict[str, float]:
        """Do one optimizer step over the batches of all ranks, as if they were one batch.

        `group` has this rank's; None raises Leaving on all ranks. All targets are made first: the
        normaliser is that of the whole step. Returns a dict of the step's losses and of its
        positives, objects and images.
        """
        leaving, group = group is None, group or []
        criterion = MultiBoxLoss(self.network.coder, **vars(self.objective))
        group = [batch.to(self.device) for batch in group]
        targets = [criterion.match(batch.boxes, batch.labels, batch.difficult) for batch in group]
        normaliser, num_batches, leaving = sum_floats(
            [sum(criterion.count(target) for target in targets),
             len(group), leaving])
        if leaving:
            raise Leaving
        normaliser, totals = max(1.0, normaliser), [0.0, 0.0]
        for k, (batch, target) in enumerate(zip(group, targets), start=1):
            all_have_one = k * self.schedule.ranks <= num_batches
            with (run_in(self.precision, self.device),
                  nullcontext() if all_have_one else batch_norm_alone(self.network)):
                loc, conf = self.network(batch.images)
            parts = criterion(loc, conf, target, normaliser)
            self._check_finite(parts, batch)
            self.scaler.scale(parts.loc + parts.conf).backward()
            totals = [total + part.item() for total, part in zip(totals, parts)]
        sums = sum_floats([*totals, sum(int((target.labels > 0).sum()) for target in targets),
                           sum(int((batch.labels >= 0).sum()) for batch in group),
                           sum(len(batch.images) for batch in group)])
        sum_gradients(self.network.parameters())
        self._update()
        return dict(zip(SUMS, [sums[0] + sums[1], *sums]))

    def _update(self):
        """Do the optimizer's part of a step."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(),
                                              self.clip_grad_norm or math.inf)
        if not norm.isfinite() and not self.scaler.is_enabled():  # which leaves such steps out
            raise CannotLearn(f"the gradient is not finite at step {self.step + 1}; lower "
                              "learning_rate.")
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)  # skipped where fp16 overflowed
        self.scaler.update()
        self.skipped += self.scaler.get_scale() < scale
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def _check_finite(self, parts, batch):
        """Stop the run on a loss that is not a number, saying where it came from."""
        bad = [name for name, part in zip(parts._fields, parts) if not part.isfinite()]
        if bad:
            paths = [shorten(self.dataset.records[k].path) for k in batch.indices]
            remedy = 'set precision = "fp32", ' if self.precision == "fp16" else ""
            raise CannotLearn(
                f"the {' and '.join(bad)} loss is not finite at step {self.step + 1}; {remedy}"
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
            raise CannotLearn(message)
        print(f"WARNING: {message}")

    def _loader(self, epoch):
        """Return the loader for the epoch's batch size; the other phase's workers go."""
        size = self.schedule.batch_size_in(epoch)
        if size not in self.loaders:
            self.loaders = {size: make_loader(
                self.dataset, size, seed=self.dataset.seed, num_workers=self.num_workers,
                pin_memory=self.device.type == "cuda", accumulate=self.schedule.accumulate)}
        return self.loaders[size]

    def _status(self, rate):
        """Return the text behind the progress bar; "left" is for the whole run."""
        sums, done, seconds = self.sums, self.done, self.seconds
        left = int((self.total_steps - self.step) * seconds / done)
        return (f"loc {sums['loc'] / done:.3f} conf {sums['conf'] / done:.3f} lr {rate:.1e} "
                f"{sums['images'] / seconds:.1f} img/s "
                f"left {left // 3600}:{left // 60 % 60:02}:{left % 60:02}")
