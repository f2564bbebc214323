"""One optimizer step and one epoch of SSD training."""

import time

import torch
from tqdm import tqdm

from utils.cli import UserError, shorten
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import DetectionDataset, batches, make_loader
from utils.device import run_in
from utils.image import normalise
from utils.training.loss import loss_normaliser, multibox_loss
from utils.training.matching import make_targets
from utils.training.optim import (
    NOMINAL_BATCH,
    lr_factor,
    make_optimizer,
    set_frozen,
    set_learning_rate,
)


class Trainer:
    """The state of a run: network, optimizer, loaders and the count of steps.

    Args:
        settings: TrainSettings of train.py.
        network: SSDNet.
        records: list of annotations.Record to train on.
        device: torch.device.
        precision: "fp32" or "bf16".
    """

    def __init__(self, settings, network, records, device, precision):
        self.settings, self.device, self.precision = settings, device, precision
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.network = network.to(device, memory_format=layout)
        self.optimizer = make_optimizer(network, name=settings.optimizer,
                                        momentum=settings.momentum,
                                        weight_decay=settings.weight_decay)
        self.dataset = DetectionDataset(records, network.spec,
                                        AUGMENTATIONS[settings.augmentation], settings.seed)
        self.loaders = {}  # by batch size
        self.step, self.total_steps = 0, sum(map(self._steps_in, range(settings.epochs)))

    def train_epoch(self, epoch):
        """Train for one pass over the images.

        Returns:
            dict with the learning rate at the end and the means of the losses over the steps.
        """
        self.network.train()
        set_frozen(self.network.pretrained_layers, self._is_frozen(epoch))
        loader = self._loader(epoch)
        loader.batch_sampler.epoch = epoch
        sums, start = {"loss": 0.0, "loc": 0.0, "conf": 0.0}, time.perf_counter()
        title = f"epoch {epoch + 1}/{self.settings.epochs}"
        with tqdm(total=self._steps_in(epoch), desc=title, unit="step", disable=None) as bar:
            for done, group in enumerate(self._groups(loader), start=1):
                rate = self._set_rate(self._batch_size(epoch))
                loc, conf = self._train_step(group)
                for name, value in zip(sums, (loc + conf, loc, conf)):
                    sums[name] += value
                bar.update()
                bar.set_postfix_str(self._status(sums, done, rate, start, self._batch_size(epoch)))
        return {"learning_rate": rate} | {name: value / done for name, value in sums.items()}

    def _train_step(self, group):
        """Do one optimizer step over a list of batches; return its loc and conf loss.

        All targets are made first: the normaliser is that of the whole step.
        """
        mining = {"negatives_per_positive": self.settings.negatives_per_positive,
                  "background_negatives": self.settings.background_negatives}
        group = [batch.to(self.device) for batch in group]
        targets = [make_targets(batch.boxes, batch.labels, batch.difficult, self.network.priors,
                                iou_threshold=self.settings.match_iou,
                                variances=self.network.spec.variances,
                                train_on_difficult=self.settings.train_on_difficult)
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
        if self.settings.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return totals

    def _check_finite(self, parts, batch):
        """Stop the run on a loss that is not a number, saying where it came from."""
        bad = [name for name, part in zip(parts._fields, parts) if not part.isfinite()]
        if bad:
            paths = [shorten(self.dataset.records[k].path) for k in batch.indices]
            raise UserError(f"the {' and '.join(bad)} loss is not finite at step {self.step + 1}; "
                            "lower learning_rate, or look at the annotations of these images:\n"
                            + ", ".join(paths))

    def _is_frozen(self, epoch):
        return epoch < self.settings.freeze_epochs

    def _batch_size(self, epoch):
        wanted = (self.settings.freeze_batch_size if self._is_frozen(epoch)
                  else self.settings.batch_size)
        return min(wanted, len(self.dataset))

    def _steps_in(self, epoch):
        return -(-len(self.dataset) // (self._batch_size(epoch) * self.settings.accumulate))

    def _loader(self, epoch):
        """Return the loader for the epoch's batch size; the other phase's workers go."""
        size = self._batch_size(epoch)
        if size not in self.loaders:
            self.loaders = {size: make_loader(
                self.dataset, size, seed=self.settings.seed, num_workers=self.settings.num_workers,
                pin_memory=self.device.type == "cuda")}
        return self.loaders[size]

    def _groups(self, loader):
        """Yield lists of the batches of one optimizer step."""
        group = []
        for batch in batches(loader):
            group.append(batch)
            if len(group) == self.settings.accumulate:
                yield group
                group = []
        if group:
            yield group

    def _set_rate(self, batch_size):
        """Set the learning rate of the coming step and return it."""
        s = self.settings
        factor = lr_factor(self.step, self.total_steps, schedule=s.schedule,
                           warmup_steps=s.warmup_steps, min_lr_ratio=s.min_lr_ratio)
        rate = s.learning_rate * batch_size * s.accumulate / NOMINAL_BATCH * factor
        set_learning_rate(self.optimizer, rate)
        return rate

    def _status(self, sums, done, rate, start, batch_size):
        """Return the text behind the progress bar; "left" is for the whole run."""
        pace = (time.perf_counter() - start) / done
        left = int((self.total_steps - self.step) * pace)
        speed = batch_size * self.settings.accumulate / pace
        return (f"loc {sums['loc'] / done:.3f} conf {sums['conf'] / done:.3f} lr {rate:.1e} "
                f"{speed:.1f} img/s left {left // 3600}:{left // 60 % 60:02}:{left % 60:02}")
