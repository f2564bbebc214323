"""Train SSD on the lists that voc_annotation.py wrote.

Edit the settings below, or give them as flags: python train.py --epochs 30 --batch_size 16
"""

import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from nets.backbones import BACKBONES
from nets.build import continued_network, network_of, new_network
from nets.ssd import SSDNet
from nets.weights.families import FAMILIES
from ssd import SSD
from utils.cli import Settings, UserError, check_fields, settings_table
from utils.cli import run as run_script
from utils.data.annotations import Record, read_class_names
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import Batch, DetectionDataset, Loader
from utils.data.samples import choose_samples, draw_samples
from utils.device import keep_freed_memory, pick_device, run_in, set_precision
from utils.distributed import (broadcast_tensors, check_device, on_rank0, process_group,
                               rank, rank0_first, sum_over_ranks, without_sync, world_size,
                               wrap_network)
from utils.evaluation.measurement import format_results
from utils.evaluation.voc_ap import mean_ap
from utils.multibox.loss import Losses, MultiBoxLoss
from utils.training.logging import describe_end, describe_epoch, describe_start, has_stalled
from utils.training.optim import Schedule, make_optimizer, set_frozen, set_learning_rate
from utils.training.run import (Run, StopFlag, create_run_folder, merge_settings, read_lists,
                                read_run)


@dataclass(frozen=True)
class TrainSettings(Settings):
    """Every number of a training run."""

    # ---- Data: written by voc_annotation.py ----
    # Images to learn from.
    train_list: str = "2007_train.txt"
    # Images to choose the best epoch by. "" trains without: best.pth is then the last epoch.
    val_list: str = "2007_val.txt"
    # Leave "": the lists know their classes. A class list here must be the one they were made with.
    classes_path: str = ""

    # ---- Network ----
    # vgg is the paper's and the most accurate; mobilenetv2 is several times faster and small.
    backbone: Literal[tuple(BACKBONES)] = "vgg"
    # Height and width in pixels, the same. (300, 300) and (512, 512) are the paper's: 512 finds
    # smaller objects and has 2.9 times the pixels to compute.
    input_shape: tuple[int, int] = (300, 300)
    # For small objects in large images: side of the tiles of an image in pixels. Training takes one
    # random tile of each image an epoch; detection and val mAP take all tiles (raise eval_period
    # where that takes long). 0 takes images as a whole. voc_annotation.py says when to set it and
    # to what; with a model_path 0 keeps what that was trained with.
    tile: int = 0
    # Leave () unless voc_annotation.py prints other numbers. Sides of the priors in pixels of the
    # input, one a map and one more, as in the paper's (30, 60, 111, 162, 213, 264, 315).
    anchors_size: tuple[float, ...] = ()
    # Width to height ratios of the priors, the same on every map, such as (2, 3); each stands for
    # its inverse too. () takes the paper's. voc_annotation.py suggests both for your objects.
    aspect_ratios: tuple[float, ...] = ()
    # False squashes images to a square, as the paper: fine for most. True adds grey bars instead.
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
    # which needs far more images and epochs.
    backbone_weights: str = "imagenet"
    # Rescale new layers on a few images before the first step, so that training starts stably.
    # False is the paper's start. A model_path needs no rescaling.
    scale_new_layers: bool = True

    # ---- Length ----
    # Small sets want more of them: a warning says how many where the steps are few.
    epochs: int = 60
    # Stop after this many measurements without a better val mAP, such as 10; 0 trains all epochs.
    early_stopping: int = 0
    # In the first epochs only the new layers train: gentler on the backbone, faster, less memory.
    freeze_epochs: int = 0
    # Batch size of those epochs; it may be larger, since less is kept in memory.
    freeze_batch_size: int = 16
    # Images a batch, for each process. Lower it when memory runs out; accumulate makes up for it.
    batch_size: int = 8
    # Batches that make one step: 2 batches of 4 learn as one of 8, in less memory.
    accumulate: int = 1

    # ---- Optimizer ----
    # adamw settles in short runs; sgd is Caffe's, for long ones.
    optimizer: Literal["adamw", "sgd"] = "adamw"
    # For a batch of 32, scaled in proportion to the batch. Halve it when the loss jumps.
    learning_rate: float = 1e-3
    # cosine falls smoothly to min_lr_ratio; step drops to 0.1 and 0.01 as in the paper.
    schedule: Literal["cosine", "step"] = "cosine"
    # Where the cosine ends, as a part of the learning rate.
    min_lr_ratio: float = 0.01
    # Steps of linear rise at the start, at most a fifth of the run; they keep the first large
    # gradients from doing harm.
    warmup_steps: int = 100
    # Of sgd, and the first beta of adamw.
    momentum: float = 0.9
    # Leave it. sgd adds weight_decay x weight to the gradient: 5e-4 is the paper's. adamw shrinks
    # weights by learning rate x weight_decay a step: 5e-4 is next to nothing there.
    weight_decay: float = 5e-4
    # Largest gradient norm of a step; larger gradients are scaled down to it. 0 switches it off.
    clip_grad_norm: float = 10.0

    # ---- SSD ----
    # Priors with IoU >= this to an object are positives.
    match_iou: float = 0.5
    # Hard negatives for each positive.
    negatives_per_positive: float = 3.0
    # Hard negatives in an image without objects. More of them against false boxes; 0 leaves such
    # images unused, as the paper does.
    background_negatives: int = 30
    # False leaves objects marked difficult out: neither object nor background.
    train_on_difficult: bool = True
    # paper is made for long runs (tens of thousands of steps); light for small data and short
    # runs; none for debugging.
    augmentation: Literal["paper", "light", "none"] = "light"

    # ---- Machine ----
    # "auto" takes an NVIDIA GPU if there is one; else "cpu", "cuda", "cuda:1", "mps".
    device: str = "auto"
    # "auto" is bf16 where the hardware has it, which is faster, fp16 on older NVIDIA GPUs, or fp32.
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    # Memory layout that convolutions prefer on most machines.
    channels_last: bool = True
    # With several GPUs: batch norm takes its statistics over all of them. Slower, and worth it for
    # mobilenetv2 and resnet50 with batches of 4 or fewer on each GPU.
    sync_batch_norm: bool = False
    # Processes that read and augment images, at most one a core. 0 reads in the main process.
    num_workers: int = 2
    # The same seed gives the same samples in the same order.
    seed: int = 0

    # ---- Going on ----
    # "last" goes on with run run_name (begins it where it has no last.pth), else with the newest
    # under save_dir; a path goes on with that last.pth. All other settings are then the run's own.
    resume: str = ""
    # Steps between saves of last.pth within an epoch; 0 saves at the ends of epochs only.
    save_steps: int = 0

    # ---- Results ----
    # Every run gets a folder in it.
    save_dir: str = "logs"
    # Name of the run's folder; "" takes the date and time.
    run_name: str = ""
    # Epochs between measurements of mAP on the val list; 0 measures after the last epoch only.
    eval_period: int = 1
    # Epochs between kept checkpoints beside last.pth and best.pth; 0 keeps none.
    save_period: int = 0
    # Epochs between drawings of samples.jpg, a few val images with their detections; 0 draws none.
    sample_period: int = 5


# Lowest and highest values of settings; no number may be negative.
LIMITS = {name: (1, 10 ** 6) for name in ("epochs", "batch_size", "freeze_batch_size",
                                          "accumulate")}
LIMITS |= {"learning_rate": (1e-12, 10), "min_lr_ratio": (1e-12, 1), "momentum": (0, 0.9999),
           "match_iou": (0.01, 1)}
# What may change when a run goes on: nothing that its steps compute. Lists are compared by content.
MAY_CHANGE = {"train_list", "val_list", "classes_path", "device", "precision", "num_workers",
              "resume", "save_dir", "run_name", "eval_period", "save_period", "save_steps",
              "early_stopping", "sample_period"}
BATCHES = {"batch_size", "freeze_batch_size", "accumulate"}  # for as many images per step


def main(settings: TrainSettings) -> None:
    """Train, save and measure, epoch by epoch: alone, or as one of torchrun's processes."""
    with process_group():
        check_settings(settings)
        # The last.pth of a run to go on with, and its contents; None where a run begins.
        last, saved = on_rank0(partial(read_run, settings.resume, save_dir=settings.save_dir,
                                       run_name=settings.run_name))
        if saved:
            settings = resumed_settings(settings, saved.settings)
        torch.manual_seed(settings.seed)
        device = pick_device(settings.device)
        check_device(device, settings.device)
        precision = set_precision(settings.precision, device)
        keep_freed_memory()

        train_records, val_records, class_names = read_lists(
            settings.train_list, settings.val_list, settings.classes_path)
        network = network_of(saved, "this run", str(last)) if saved else rank0_first(
            partial(build_network, settings, class_names, train_records))
        network.to(device, memory_format=(torch.channels_last if settings.channels_last
                                          else torch.contiguous_format))
        if settings.sync_batch_norm and world_size() > 1:
            nn.SyncBatchNorm.convert_sync_batchnorm(network)
        criterion = MultiBoxLoss(network.coder, match_iou=settings.match_iou,
                                 negatives_per_positive=settings.negatives_per_positive,
                                 background_negatives=settings.background_negatives,
                                 train_on_difficult=settings.train_on_difficult)
        optimizer = make_optimizer(network, name=settings.optimizer, momentum=settings.momentum,
                                   weight_decay=settings.weight_decay)
        scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        loaders = make_loaders(settings, network, train_records, device)  # one an epoch
        schedule = Schedule(settings.learning_rate, sum(map(len, loaders)), kind=settings.schedule,
                            warmup_steps=settings.warmup_steps, min_lr_ratio=settings.min_lr_ratio)
        detector = SSD(network=network, class_names=class_names, device=str(device),
                       precision=precision)
        table = settings_table(settings)
        folder = last.parent if saved else on_rank0(partial(
            create_run_folder, settings.save_dir, settings.run_name, table,
            resume=bool(settings.resume)))
        run = Run(folder, network, optimizer, scaler, class_names, settings=asdict(settings),
                  lists={"train": train_records, "val": val_records},
                  save_period=settings.save_period)
        if saved:
            run.load(saved.run)
        print(describe_start(folder, table, f"{device} in {precision}", schedule.total_steps,
                             len(loaders[-1])))

        with run, StopFlag() as stop:
            for epoch in range(run.epoch, settings.epochs):
                if has_stalled(run.history, settings.early_stopping):
                    print("early stopping: val mAP has not improved lately")
                    break
                network.train()
                set_frozen(network.pretrained_layers, epoch < settings.freeze_epochs)
                wrapped_network = wrap_network(network)  # anew: it plans for what is not frozen
                images_per_step = loaders[epoch].images_per_step
                for batches in run.steps(loaders[epoch], settings.epochs):
                    set_learning_rate(optimizer, schedule.rate(run.step, images_per_step))
                    run.log(train_step(wrapped_network, criterion, optimizer, batches,
                                       scaler=scaler, precision=precision,
                                       clip_grad_norm=settings.clip_grad_norm))
                    stopping = sum_over_ranks([float(stop.requested)])[0] > 0
                    if stopping or settings.save_steps and run.step % settings.save_steps == 0:
                        run.save()
                    if stopping:
                        raise KeyboardInterrupt  # for any signal: the script ends as by Ctrl-C
                run.save()  # before the measurement, which takes its time
                broadcast_tensors(network.buffers())  # the statistics of batch norm are rank 0's
                is_last = epoch + 1 == settings.epochs
                val_map = None
                if val_records and (is_last or is_due(epoch, settings.eval_period)):
                    val_map = mean_ap(detector.evaluate(val_records))
                row = run.end_epoch(val_map)
                print(describe_epoch(row, settings.epochs, run.best_map))
                if settings.sample_period and (is_last or is_due(epoch, settings.sample_period)):
                    run.show(draw_samples(choose_samples(val_records or train_records), detector,
                                          f"epoch {epoch + 1}"))
            run.save()
        if val_records:
            results = SSD(str(folder / "best.pth"), device=str(device)).evaluate(val_records)
            print(format_results(results, class_names))
        print(describe_end(folder, run.history, run.best_epoch))


def train_step(network: nn.Module, criterion: MultiBoxLoss, optimizer: torch.optim.Optimizer,
               batches: list[Batch], *, scaler: torch.amp.GradScaler, precision: str,
               clip_grad_norm: float) -> dict[str, float]:
    """Do one optimizer step over the batches of all ranks, as if they were one batch.

    Args:
        network: of `wrap_network`.
        batches: this rank's; all ranks have equally many.
        clip_grad_norm: largest norm of the gradient; 0 clips none.

    Returns:
        sums over all ranks: "loss", its parts, and "positives", "objects", "images".

    Raises UserError for a loss or gradient that is not finite.
    """
    device = criterion.coder.priors.device
    batches = [batch.to(device) for batch in batches]
    # All targets first: the loss is divided by the positives of the whole step.
    targets = [criterion.make_targets(batch.boxes, batch.labels, batch.difficult)
               for batch in batches]
    [count] = sum_over_ranks([sum(map(criterion.count, targets))])
    normaliser = max(1.0, count)
    sums = dict.fromkeys(("loss", *Losses._fields, "positives", "objects", "images"), 0.0)
    for number, (batch, target) in enumerate(zip(batches, targets), start=1):
        with nullcontext() if number == len(batches) else without_sync(network):
            with run_in(precision, device):
                loc, conf = network(batch.images)
            losses = criterion(loc, conf, target, normaliser)
            loss = sum(losses)
            # wrap_network takes the mean over ranks; their sum is wanted.
            scaler.scale(loss * world_size()).backward()
        amounts = (loss, *losses, (target.labels > 0).sum(), (batch.labels >= 0).sum(),
                   torch.tensor(len(batch.images)))
        for name, amount in zip(sums, amounts, strict=True):
            sums[name] += amount.item()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(network.parameters(), clip_grad_norm or math.inf)
    if not math.isfinite(sums["loss"] + (0 if scaler.is_enabled() else norm)):
        # Lines count from 1, and the first has the class names.
        lines = sorted(index + 2 for batch in batches for index in batch.indices)
        raise UserError("the loss or its gradient is not finite; lower learning_rate, or check the "
                        f"annotations of these lines of the train list: {lines}")
    scaler.step(optimizer)  # leaves out steps that overflowed fp16
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return dict(zip(sums, sum_over_ranks(list(sums.values()))))


def is_due(epoch: int, period: int) -> bool:
    """Tell whether what is done every `period` epochs, 0 for never, follows an epoch from 0."""
    return period > 0 and (epoch + 1) % period == 0


def build_network(settings: TrainSettings, class_names: tuple[str, ...],
                  records: list[Record]) -> SSDNet:
    """Return the SSDNet to train, filled with the weights that the settings name."""
    if settings.model_path:
        names_path = settings.model_classes_path
        return continued_network(settings.model_path, class_names, family=settings.weights_family,
                                 old_names=read_class_names(names_path) if names_path else None,
                                 tile=settings.tile)
    images = [record[:2] for record in records] if settings.scale_new_layers else []
    return new_network(settings.backbone, settings.input_shape[0], len(class_names),
                       backbone_weights=settings.backbone_weights,
                       anchors_size=settings.anchors_size, aspect_ratios=settings.aspect_ratios,
                       letterbox=settings.letterbox_image, tile=settings.tile, images=images)


def make_loaders(settings: TrainSettings, network: SSDNet, records: list[Record],
                 device: torch.device) -> list[Loader]:
    """Return the Loader of each epoch; frozen epochs may have larger batches."""
    dataset = DetectionDataset(records, network.spec, AUGMENTATIONS[settings.augmentation],
                               settings.seed)
    frozen_loader, loader = (
        Loader(dataset, batch_size=batch_size, accumulate=settings.accumulate, seed=settings.seed,
               num_workers=settings.num_workers, rank=rank(), ranks=world_size(),
               pin_memory=device.type == "cuda")
        for batch_size in (settings.freeze_batch_size, settings.batch_size))
    return [frozen_loader if epoch < settings.freeze_epochs else loader
            for epoch in range(settings.epochs)]


def resumed_settings(settings: TrainSettings, saved: dict) -> TrainSettings:
    """Return the settings that a run goes on with: its own, but for those that may change."""
    sizes = ("batch_size", "freeze_batch_size") if saved["freeze_epochs"] else ("batch_size",)
    same_step = all(getattr(settings, size) * settings.accumulate
                    == saved[size] * saved["accumulate"] for size in sizes)
    return TrainSettings(**merge_settings(asdict(settings), saved, asdict(TrainSettings()),
                                          MAY_CHANGE | BATCHES if same_step else MAY_CHANGE))


def check_settings(settings: TrainSettings) -> None:
    """Raise UserError for settings that cannot work, before anything is read."""
    check_fields(settings, LIMITS)
    if settings.input_shape[0] != settings.input_shape[1]:
        raise UserError(f"input_shape must be square, got {settings.input_shape}.")
    if settings.early_stopping and not (settings.val_list and settings.eval_period):
        raise UserError("early_stopping needs a val_list, and an eval_period of 1 or more.")
    if settings.freeze_epochs and not (settings.model_path or settings.backbone_weights):
        raise UserError('freeze_epochs needs pretrained weights: backbone_weights = "imagenet".')
    if settings.backbone != "vgg" and settings.batch_size == 1:
        raise UserError("batch norm cannot train on one image at a time: raise batch_size.")


if __name__ == "__main__":
    run_script(main, TrainSettings)
