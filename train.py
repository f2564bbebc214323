"""Train SSD on the lists that voc_annotation.py wrote.

Edit the settings below, or give them as flags: python train.py --epochs 30 --batch_size 16
"""

import time
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from tqdm import tqdm

from nets.backbone_weights import load_backbone, read_backbone
from nets.ssd import SSDNet, build_spec
from nets.transfer import transfer
from nets.weights import read_detector
from ssd import SSD, SSDSettings
from utils.annotations import check_same_classes, read_class_names, read_list
from utils.augment import AUGMENTATIONS
from utils.checkpoint import Checkpoint, load_strictly, save_checkpoint
from utils.cli import UserError, make_folder, run, settings_table, shorten
from utils.dataloader import DetectionDataset, batches, make_loader
from utils.device import pick_device, pick_precision, run_in
from utils.evaluation import mean_ap
from utils.image import normalise
from utils.loss import loss_normaliser, multibox_loss
from utils.matching import make_targets
from utils.report import plot_history
from utils.spec import FAMILIES
from utils.training import (NOMINAL_BATCH, History, has_batch_norm, lr_factor, make_optimizer,
                            seed_everything, set_frozen, set_learning_rate)


@dataclass(frozen=True)
class TrainSettings:
    """Every number of a training run."""

    # ---- Data: written by voc_annotation.py ----

    # Pictures to learn from.
    train_list: str = "2007_train.txt"
    # Pictures to choose the best epoch by.
    val_list: str = "2007_val.txt"
    # Leave "": the lists know their classes. A class list here must be the one they were made with.
    classes_path: str = ""

    # ---- Network ----

    # vgg is the paper's and the most accurate; mobilenetv2 is several times faster and small.
    backbone: Literal["vgg", "mobilenetv2", "resnet50"] = "vgg"
    # Height and width in pixels, the same. (300, 300) and (512, 512) are the paper's: 512 finds
    # smaller objects and takes three times as long.
    input_shape: tuple[int, int] = (300, 300)
    # Sides of the priors in pixels of the input, one a map and one more, such as the paper's
    # (30, 60, 111, 162, 213, 264, 315). Smaller first numbers for small objects; () takes the
    # paper's for the input size.
    anchors_size: tuple[float, ...] = ()
    # True keeps the aspect ratio of pictures with grey bars; False squashes them, as the paper.
    letterbox_image: bool = False

    # ---- What the weights start from ----

    # A detector: a checkpoint of this project, a published file, or "coco" (see the README). Its
    # input size, priors and colours win over the settings above. Other classes than yours are no
    # obstacle: what they have in common is kept. "" starts from the backbone alone.
    model_path: str = ""
    # Whose conventions a published file needs; see predict.py --help.
    weights_family: Literal[("auto", *FAMILIES)] = "auto"
    # The class list of a published file with other classes than VOC's or COCO's.
    model_classes_path: str = ""
    # "imagenet" downloads torchvision's; a file with torchvision's names; "" starts from nothing,
    # which needs far more pictures and epochs.
    backbone_weights: str = "imagenet"

    # ---- Length ----

    # Small sets want more epochs: aim at 1,000 steps (epochs x pictures / batch_size) or more.
    epochs: int = 60
    # In the first epochs only the new layers train: gentler on the backbone, faster, less memory.
    freeze_epochs: int = 0
    # Batch size of those epochs; it may be larger, since less is kept in memory.
    freeze_batch_size: int = 16
    # Pictures a step. Lower it when memory runs out; accumulate makes up for it.
    batch_size: int = 8
    # Batches whose gradients are added up to one step.
    accumulate: int = 1

    # ---- Optimizer ----

    # adam (with decoupled weight decay) settles in short runs; sgd is the paper's, for long ones.
    optimizer: Literal["adam", "sgd"] = "adam"
    # For a batch of 32, scaled in proportion to the batch. Halve it when the loss jumps.
    learning_rate: float = 1e-3
    # cosine falls smoothly to min_lr_ratio; step drops to 0.1 and 0.01 as in the paper.
    schedule: Literal["cosine", "step"] = "cosine"
    # Where the cosine ends, as a part of the learning rate.
    min_lr_ratio: float = 0.01
    # Steps of linear rise at the start; they keep the first large gradients from doing harm.
    warmup_steps: int = 100
    # Of sgd, and the first beta of adam.
    momentum: float = 0.9
    # Pull of the weights towards zero.
    weight_decay: float = 5e-4
    # Longest gradient of a step; longer ones are scaled down. 0 switches it off.
    clip_grad_norm: float = 10.0

    # ---- SSD ----

    # Least IoU at which a prior answers for an object.
    match_iou: float = 0.5
    # Hard negatives for each positive.
    negatives_per_positive: float = 3.0
    # Hard negatives in a picture without objects. More of them against false boxes; 0 leaves such
    # pictures unused, as the paper does.
    background_negatives: int = 30
    # False leaves objects marked difficult out: neither object nor background.
    train_on_difficult: bool = True
    # paper is made for long runs (tens of thousands of steps); light for small data and short
    # runs; none for debugging.
    augmentation: Literal["paper", "light", "none"] = "light"

    # ---- Machine ----

    # "auto" takes an NVIDIA GPU if there is one; else "cpu", "cuda", "cuda:1", "mps".
    device: str = "auto"
    # "auto" is bf16 where the hardware has it (about twice as fast), else fp32.
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    # Memory layout that convolutions prefer on most machines.
    channels_last: bool = True
    # Processes that read and augment pictures, at most one a core. 0 reads in the main process.
    num_workers: int = 2
    # The same seed gives the same samples in the same order.
    seed: int = 0

    # ---- Results ----

    # Every run gets a folder in it.
    save_dir: str = "logs"
    # Name of the run's folder; "" takes the date and time.
    run_name: str = ""
    # Epochs between measurements of mAP on the val list; 0 measures after the last epoch only.
    eval_period: int = 1
    # Epochs between kept checkpoints beside last.pth and best.pth; 0 keeps none.
    save_period: int = 0


def main(settings):
    """Train, measure, save."""
    check_settings(settings)
    seed_everything(settings.seed)
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    train_records, val_records, class_names = read_data(settings)
    network = build_network(settings, class_names)
    folder = start_run(settings, device, precision)
    trainer = Trainer(settings, network, train_records, device, precision)
    scorer = SSD(SSDSettings(device=str(device)), network=network, class_names=class_names)
    history, best = History(folder / "history.csv"), -1.0
    for epoch in range(settings.epochs):
        start = time.perf_counter()
        losses = trainer.train_epoch(epoch)
        trained = time.perf_counter()
        val_map = measure(settings, scorer, val_records, epoch)
        row = {"epoch": epoch + 1, **losses, "val_map": val_map,
               "train_seconds": round(trained - start, 1),
               "eval_seconds": round(time.perf_counter() - trained, 1)}
        history.append(row)
        plot_history(history.rows, folder)
        checkpoint = Checkpoint(network.spec, class_names, network.state_dict(), asdict(settings),
                                {"epoch": epoch + 1, "val_map": val_map})
        best = save(settings, folder, checkpoint, best)
        print(describe(settings, row, best))
    print(f"best val mAP@0.5 {best:.3f}; weights and curves are in {shorten(folder)}")


def check_settings(settings):
    """Raise UserError for settings that cannot work, before anything is read."""
    least = {"epochs": 1, "batch_size": 1, "accumulate": 1, "freeze_batch_size": 1, "num_workers": 0,
             "freeze_epochs": 0, "warmup_steps": 0, "eval_period": 0, "save_period": 0, "seed": 0,
             "weight_decay": 0, "clip_grad_norm": 0, "negatives_per_positive": 0,
             "background_negatives": 0}
    for name, value in least.items():
        if not getattr(settings, name) >= value:
            raise UserError(f"{name} must be at least {value}, got {getattr(settings, name)}.")
    for name, most in (("learning_rate", 10), ("match_iou", 1), ("min_lr_ratio", 1)):
        if not 0 < getattr(settings, name) <= most:
            raise UserError(f"{name} must lie in 0..{most}, 0 left out, "
                            f"got {getattr(settings, name)}.")
    if len(set(settings.input_shape)) != 1 or settings.input_shape[0] < 1:
        raise UserError(f"input_shape must be square, such as (300, 300), got {settings.input_shape}.")
    if settings.freeze_epochs and not (settings.model_path or settings.backbone_weights):
        raise UserError("freeze_epochs needs pretrained weights: frozen random layers learn "
                        'nothing. Set backbone_weights = "imagenet" or freeze_epochs = 0.')


def read_data(settings):
    """Return (train records, val records, class names) of lists that agree with each other."""
    train_records, class_names = read_list(settings.train_list)
    val_records, val_names = read_list(settings.val_list)
    check_same_classes(class_names, settings.train_list, val_names, settings.val_list)
    if settings.classes_path:
        check_same_classes(read_class_names(settings.classes_path), settings.classes_path,
                           class_names, settings.train_list)
    for records, name in ((train_records, settings.train_list), (val_records, settings.val_list)):
        if not any(len(record.labels) for record in records):
            raise UserError(f"{name}: no objects in any picture; there is nothing to learn from. "
                            "Run voc_annotation.py and read what it says.")
    print(f"data: {len(train_records)} train and {len(val_records)} val pictures, "
          f"{len(class_names)} classes: {', '.join(class_names)}")
    return train_records, val_records, class_names


def build_network(settings, class_names):
    """Return the SSDNet to train, filled with the weights that the settings name."""
    if settings.model_path:
        return continue_from(settings, class_names)
    changes = {"letterbox": settings.letterbox_image}
    if settings.anchors_size:
        changes["anchors_size"] = settings.anchors_size
    weights = None
    if settings.backbone_weights:
        weights = read_backbone(settings.backbone_weights, settings.backbone)
        changes |= {"mean": weights.mean, "std": weights.std}
    try:
        spec = build_spec(settings.backbone, settings.input_shape[0], **changes)
        network = SSDNet(len(class_names) + 1, spec)
    except ValueError as error:
        raise UserError(f"{error}; change it in the settings.") from None
    if weights:
        count = load_backbone(network, weights)
        print(f"weights: {count} tensors of {settings.backbone} from {settings.backbone_weights}")
    else:
        print(f"weights: none, {settings.backbone} starts from random numbers")
    return network


def continue_from(settings, class_names):
    """Return the network of a detector file; its spec wins over the settings.

    The conf rows of classes in common are taken over where the class lists differ.
    """
    given = None
    if settings.model_classes_path:
        given = read_class_names(settings.model_classes_path)
    checkpoint, family = read_detector(settings.model_path, family=settings.weights_family,
                                       class_names=given)
    print(f"weights: {settings.model_path}: {family}, {checkpoint.spec.summary()}")
    network = SSDNet(len(class_names) + 1, checkpoint.spec)
    if checkpoint.class_names == class_names:
        load_strictly(network, checkpoint.state_dict, settings.model_path)
    else:
        complete = SSDNet(len(checkpoint.class_names) + 1, checkpoint.spec)
        load_strictly(complete, checkpoint.state_dict, settings.model_path)
        print(transfer(network, complete.state_dict(), class_names, checkpoint.class_names))
    return network


def start_run(settings, device, precision):
    """Make the run's folder, write the settings there, print them; return the folder."""
    name = settings.run_name or time.strftime("%Y-%m-%d_%H-%M-%S")
    folder = make_folder(f"{settings.save_dir}/{name}")
    if (folder / "history.csv").exists():
        raise UserError(f"{shorten(folder)}: holds the results of another run; choose another "
                        "run_name or remove the folder.")
    table = settings_table(settings)
    (folder / "settings.txt").write_text(table + "\n", encoding="utf-8")
    print(f"settings:\n{table}\nrunning on {device} in {precision}, results in {shorten(folder)}")
    return folder


class Trainer:
    """The state of a run: network, optimizer, loaders and the count of steps."""

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
        """Train for one pass over the pictures.

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
                            "lower learning_rate, or look at the annotations of these pictures:\n"
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


def measure(settings, scorer, records, epoch):
    """Return the val mAP@0.5 (area) after an epoch, or None where it is not due."""
    last = epoch + 1 == settings.epochs
    due = settings.eval_period and (epoch + 1) % settings.eval_period == 0
    if not (due or last):
        return None
    scorer.network.eval()
    return mean_ap(scorer.evaluate(records)[0])


def describe(settings, row, best):
    """Return the line that sums up an epoch."""
    scored = "" if row["val_map"] is None else f", val mAP@0.5 {row['val_map']:.3f}, best {best:.3f}"
    return (f"epoch {row['epoch']}/{settings.epochs}: loss {row['loss']:.3f} (loc {row['loc']:.3f}, "
            f"conf {row['conf']:.3f}){scored}, {row['train_seconds'] + row['eval_seconds']:.0f} s")


def save(settings, folder, checkpoint, best):
    """Write last.pth, and best.pth where val mAP did not fall; return the best mAP so far."""
    epoch, val_map = checkpoint.progress["epoch"], checkpoint.progress["val_map"]
    save_checkpoint(folder / "last.pth", checkpoint)
    if settings.save_period and epoch % settings.save_period == 0:
        save_checkpoint(folder / f"epoch_{epoch}.pth", checkpoint)
    if val_map is None or val_map < best:
        return best
    save_checkpoint(folder / "best.pth", checkpoint)
    return val_map


if __name__ == "__main__":
    run(main, TrainSettings)
