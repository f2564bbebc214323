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
from utils.checkpoint import Checkpoint
from utils.cli import Settings, UserError, check_fields, settings_table
from utils.cli import run as run_script
from utils.data.annotations import Record, read_class_names
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import Batch, DetectionDataset, Loader
from utils.data.samples import choose_samples, draw_samples
from utils.device import (HostCopy, Precision, keep_freed_memory, pick_device, run_in,
                          set_precision)
from utils.distributed import (add_over_ranks, broadcast_tensors, check_device, on_rank0,
                               process_group, rank, rank0_first, sum_over_ranks, without_sync,
                               world_size, wrap_network)
from utils.evaluation.measurement import format_results, val_figures
from utils.multibox.coder import BoxCoder
from utils.multibox.loss import Losses, MultiBoxLoss
from utils.training.logging import describe_end, describe_epoch, describe_start, has_stalled
from utils.training.optim import Schedule, make_optimizer, set_frozen, set_learning_rate
from utils.training.run import Run, StepResult, StopFlag
from utils.training.start import create_run_folder, merge_settings, read_lists, read_run


@dataclass(frozen=True)
class TrainSettings(Settings):
    """Every number of a training run."""

    # ---- Data: written by voc_annotation.py ----
    train_list: str = "2007_train.txt"  # images to learn from
    # Images to choose the best epoch by. "" trains without: best.pth is then the last epoch.
    val_list: str = "2007_val.txt"
    # Leave "": the lists know their classes. A class list here must be the one they were made with.
    classes_path: str = ""

    # ---- Network ----
    # vgg is the paper's and the most accurate; mobilenetv2 and mobilenetv3 are small and several
    # times faster. mobilenetv3 is torchvision's SSDLite, made for input_shape (320, 320).
    backbone: Literal[tuple(BACKBONES)] = "vgg"
    # Height and width, the same. The paper has (300, 300) and (512, 512), which finds smaller
    # objects and has 2.9 times the pixels to compute.
    input_shape: tuple[int, int] = (300, 300)
    # For small objects in large images: side of the tiles of an image in pixels, 0 for none.
    # Training takes a random tile of each image, detection all tiles. voc_annotation.py says when
    # to set it and to what; with a model_path 0 keeps what that was trained with.
    tile: int = 0
    # Leave () unless voc_annotation.py prints other numbers. Sides of the priors in pixels of the
    # input, such as the paper's (30, 60, 111, 162, 213, 264, 315).
    anchors_size: tuple[float, ...] = ()
    # Width to height ratios of the priors, the same on every map, such as (2, 3); each stands for
    # its inverse too. () takes the paper's. voc_annotation.py suggests both for your objects.
    aspect_ratios: tuple[float, ...] = ()
    # False squashes images to a square, as the paper: fine for most. True adds grey bars instead.
    letterbox_image: bool = False

    # ---- What the weights start from ----
    # A detector: a checkpoint of this project, a published file, "coco" or "coco-light" (see the
    # README). Its input size, priors and colours win over the settings above. Other classes than
    # yours are no obstacle: what they have in common is kept. "" starts from the backbone alone.
    model_path: str = ""
    weights_family: Literal[("auto", *FAMILIES)] = "auto"  # of a published file; see predict.py
    # The class list of a published file of other classes than VOC's or COCO's.
    model_classes_path: str = ""
    # "imagenet" downloads torchvision's; a file with torchvision's names; "" starts from nothing,
    # which needs far more images and epochs.
    backbone_weights: str = "imagenet"
    # Rescale new layers on a few images, so that training starts stably. False is the paper's way.
    scale_new_layers: bool = True

    # ---- Length ----
    # Small sets want more of them: a warning says how many where the steps are few.
    epochs: int = 60
    # Stop after this many measurements without a better val mAP, such as 10; 0 trains all epochs.
    early_stopping: int = 0
    # In the first epochs only the new layers train: gentler on the backbone, faster, less memory.
    freeze_epochs: int = 0
    freeze_batch_size: int = 16  # batch size of those epochs; it may be larger
    # Images a batch, for each process. Lower it when memory runs out; accumulate makes up for it.
    batch_size: int = 8
    accumulate: int = 1  # batches a step: 2 batches of 4 learn as one of 8, in less memory

    # ---- Optimizer ----
    # adamw settles in short runs; sgd is Caffe's, for long ones.
    optimizer: Literal["adamw", "sgd"] = "adamw"
    # For 32 images a step, scaled in proportion to those there are. Halve it when the loss jumps.
    learning_rate: float = 1e-3
    # cosine falls smoothly to min_lr_ratio; step drops to 0.1 and 0.01, as in the paper.
    schedule: Literal["cosine", "step"] = "cosine"
    min_lr_ratio: float = 0.01  # where the cosine ends, as a part of the learning rate
    # Steps of linear rise at the start, at most a fifth of the run, against large first gradients.
    warmup_steps: int = 100
    momentum: float = 0.9  # of sgd, and the first beta of adamw
    # Leave it. sgd adds weight_decay x weight to the gradient: 5e-4 is the paper's. adamw shrinks
    # weights by learning rate x weight_decay a step: 5e-4 is next to nothing there.
    weight_decay: float = 5e-4
    clip_grad_norm: float = 10.0  # larger gradients are scaled down to this norm; 0: none are

    # ---- SSD ----
    match_iou: float = 0.5  # priors with IoU >= this to an object are positives
    negatives_per_positive: float = 3.0  # hard negatives for each positive
    # Hard negatives in an image without objects, against false boxes; 0 leaves such images unused,
    # as the paper does.
    background_negatives: int = 30
    train_on_difficult: bool = True  # False: difficult objects are neither object nor background
    # paper for long runs (tens of thousands of steps), light for short ones, none for debugging.
    augmentation: Literal["paper", "light", "none"] = "light"

    # ---- Machine ----
    device: str = "auto"  # an NVIDIA GPU if there is one; or "cpu", "cuda", "cuda:1", "mps"
    # "auto" is bf16 where the hardware has it, which is faster, fp16 on older NVIDIA GPUs, or fp32.
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    # Batch norm over all GPUs: slower; for all but vgg with 4 or fewer images a GPU.
    sync_batch_norm: bool = False
    # Processes that read, augment and match images, at most one a core. 0: the main process does.
    num_workers: int = 8
    seed: int = 0  # the same seed gives the same samples in the same order

    # ---- Going on ----
    # "last" goes on with run_name (begins it where it has no last.pth) or the newest run; a path
    # goes on with that last.pth. All other settings are then the run's own.
    resume: str = ""
    save_steps: int = 0  # steps between saves of last.pth within an epoch; 0: at its end alone

    # ---- Results ----
    save_dir: str = "logs"  # every run gets a folder in it
    run_name: str = ""  # name of the run's folder; "" takes the date and time
    # Epochs between measurements of mAP on the val list; 0 measures after the last epoch only.
    eval_period: int = 1
    save_period: int = 0  # epochs between checkpoints kept beside last.pth and best.pth; 0: none
    # Epochs between drawings of samples.jpg, a few val images with their detections; 0 draws none.
    sample_period: int = 5


# Lowest and highest values of settings; no number may be negative.
LIMITS = {name: (1, 10 ** 6) for name in ("epochs", "batch_size", "freeze_batch_size",
                                          "accumulate")}
LIMITS |= {"learning_rate": (1e-12, 10), "min_lr_ratio": (1e-12, 1), "momentum": (0, 0.9999),
           "match_iou": (0.01, 1)}
# What may change when a run goes on: nothing that its steps depend on, but for rounding.
MAY_CHANGE = {"train_list", "val_list", "classes_path", "device", "precision", "num_workers",
              "resume", "save_dir", "run_name", "eval_period", "save_period", "save_steps",
              "early_stopping", "sample_period"}
BATCHES = {"batch_size", "freeze_batch_size", "accumulate"}  # may: for as many images a step


def main(settings: TrainSettings) -> None:
    """Train, save and measure, epoch by epoch: alone, or as one of torchrun's processes."""
    with process_group():
        check_settings(settings)
        # The last.pth of a run to go on with, and its contents; None where a run begins.
        last, saved = on_rank0(partial(read_run, settings.resume, save_dir=settings.save_dir,
                                       run_name=settings.run_name))
        if saved:
            settings = resumed_settings(settings, saved.settings)
        device, precision = prepare_machine(settings)

        train_records, val_records, class_names = read_lists(
            settings.train_list, settings.val_list, settings.classes_path)
        network = rank0_first(partial(build_network, settings, class_names, train_records, saved))
        network.to(device, memory_format=torch.channels_last)
        if settings.sync_batch_norm and world_size() > 1:
            nn.SyncBatchNorm.convert_sync_batchnorm(network)
        criterion = MultiBoxLoss(BoxCoder(network.spec), match_iou=settings.match_iou,
                                 negatives_per_positive=settings.negatives_per_positive,
                                 background_negatives=settings.background_negatives,
                                 train_on_difficult=settings.train_on_difficult)
        optimizer = make_optimizer(network, name=settings.optimizer, momentum=settings.momentum,
                                   weight_decay=settings.weight_decay)
        scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        dataset = DetectionDataset(train_records, network.spec,
                                   AUGMENTATIONS[settings.augmentation], settings.seed)
        loaders = make_loaders(settings, dataset, criterion, device)  # one an epoch
        schedule = Schedule(settings.learning_rate, sum(map(len, loaders)), kind=settings.schedule,
                            warmup_steps=settings.warmup_steps, min_lr_ratio=settings.min_lr_ratio)
        detector = SSD(network=network, class_names=class_names, device=str(device),
                       precision=precision)
        folder = last.parent if saved else on_rank0(partial(
            create_run_folder, settings.save_dir, settings.run_name, settings_table(settings),
            resume=bool(settings.resume)))
        run = Run(folder, network, optimizer, scaler, class_names, settings=asdict(settings),
                  lists={"train": train_records, "val": val_records},
                  save_period=settings.save_period)
        if saved:
            run.load(saved.run)
        print(describe_start(folder, f"{device} in {precision}", schedule.total_steps,
                             len(loaders[-1])))

        with run, StopFlag() as stop:
            for epoch in range(run.epoch, settings.epochs):
                if has_stalled(run.history, settings.early_stopping):
                    print("early stopping: val mAP has not improved lately")
                    break
                network.train()
                set_frozen(network.pretrained_layers, epoch < settings.freeze_epochs)
                wrapped_network = wrap_network(network)  # anew: it plans for what is not frozen
                loader = loaders[epoch]
                for batches in run.steps(loader, settings.epochs):
                    set_learning_rate(optimizer, schedule.rate(run.step, loader.images_per_step))
                    run.log(train_step(wrapped_network, criterion, optimizer, batches,
                                       scaler=scaler, precision=precision,
                                       clip_grad_norm=settings.clip_grad_norm))
                    run.save_or_stop(settings.save_steps, stop)
                run.save()  # before the measurement, which takes its time
                broadcast_tensors(network.buffers())  # the statistics of batch norm are rank 0's
                finish_epoch(settings, run, detector, train_records, val_records)
            run.save()
        if val_records:  # in fp32, as predict.py has it; val mAP was in the run's precision
            scored = rank0_first(partial(SSD, str(folder / "best.pth"), device=str(device)))
            print(format_results(scored.evaluate(val_records), class_names))
        print(describe_end(folder, run.history, run.best_epoch))


def train_step(network: nn.Module, criterion: MultiBoxLoss, optimizer: torch.optim.Optimizer,
               batches: list[Batch], *, scaler: torch.amp.GradScaler, precision: str,
               clip_grad_norm: float) -> StepResult:
    """Do one optimizer step over the batches of all ranks, as if they were one batch.

    Args:
        network: of `wrap_network`.
        batches: this rank's; all ranks have equally many.
        clip_grad_norm: largest norm of the gradient; 0 clips none.

    Nothing here waits for a GPU: what a step needs to know was counted where its batches were
    loaded, and its losses are on their way to the host when it returns.
    """
    device = next(network.parameters()).device
    counts = [(criterion.count(batch.targets), int((batch.targets.labels > 0).sum()),
               int((batch.labels >= 0).sum()), len(batch.images)) for batch in batches]
    normaliser, *totals = sum_over_ranks([sum(column) for column in zip(*counts)])
    losses = torch.zeros(len(Losses._fields), device=device)
    for number, batch in enumerate(batches, start=1):
        images, targets = batch.to(device)
        with nullcontext() if number == len(batches) else without_sync(network):
            with run_in(precision, device):
                loc, conf = network(images)
            parts = criterion(loc, conf, targets, max(1.0, normaliser))
            # wrap_network takes the mean over ranks; their sum is wanted.
            scaler.scale(sum(parts) * world_size()).backward()
        losses += torch.stack(parts).detach()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(network.parameters(), clip_grad_norm or math.inf)
    scaler.step(optimizer)  # leaves out steps that overflowed fp16
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    add_over_ranks(losses)
    indices = [index for batch in batches for index in batch.indices]
    # An infinite norm is a fault but in fp16, where the scaler leaves such steps out.
    finite = losses if scaler.is_enabled() else torch.cat([losses, norm[None]])
    return StepResult(*totals, HostCopy(finite), indices)


def finish_epoch(settings: TrainSettings, run: Run, detector: SSD, train_records: list[Record],
                 val_records: list[Record]) -> None:
    """Measure val mAP and draw samples where they are due; print the line of the epoch."""
    number, figures = run.epoch + 1, {}

    def is_due(period):
        return number == settings.epochs or period > 0 and number % period == 0

    if val_records and is_due(settings.eval_period):
        figures = val_figures(detector.evaluate(val_records), run.class_names)
    row = run.end_epoch(figures)
    print(describe_epoch(row, settings.epochs, run.best_map))
    if settings.sample_period and is_due(settings.sample_period):
        samples = choose_samples(val_records or train_records)
        confidence = figures.get("confidence", detector.thresholds.confidence)
        run.show(draw_samples(samples, detector, f"epoch {number}", confidence=confidence))


def prepare_machine(settings: TrainSettings) -> tuple[torch.device, Precision]:
    """Seed PyTorch; return the device and the precision to train in."""
    torch.manual_seed(settings.seed)
    device = pick_device(settings.device)
    check_device(device, settings.device)
    keep_freed_memory()
    torch.backends.cudnn.benchmark = True  # inputs have one shape: the fastest algorithm for it
    return device, set_precision(settings.precision, device)


def build_network(settings: TrainSettings, class_names: tuple[str, ...],
                  records: list[Record], saved: Checkpoint | None) -> SSDNet:
    """Return the SSDNet to train: that of a saved run, or with the weights that settings name."""
    if saved:
        return network_of(saved, "this run", "last.pth")
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


def make_loaders(settings: TrainSettings, dataset: DetectionDataset, criterion: MultiBoxLoss,
                 device: torch.device) -> list[Loader]:
    """Return the Loader of each epoch; frozen epochs may have larger batches."""
    frozen_loader, loader = (
        Loader(dataset, batch_size=batch_size, accumulate=settings.accumulate, seed=settings.seed,
               num_workers=settings.num_workers, make_targets=criterion.make_targets, rank=rank(),
               ranks=world_size(), pin_memory=device.type == "cuda")
        for batch_size in (settings.freeze_batch_size, settings.batch_size))
    return [frozen_loader if epoch < settings.freeze_epochs else loader
            for epoch in range(settings.epochs)]


def resumed_settings(settings: TrainSettings, saved: dict) -> TrainSettings:
    """Return the settings that a run goes on with: its own, but for those that may change."""
    given, defaults = asdict(settings), asdict(TrainSettings())
    sizes = ("batch_size", "freeze_batch_size") if saved["freeze_epochs"] else ("batch_size",)
    if any(given[name] != defaults[name] for name in BATCHES) and all(
            given[size] * given["accumulate"] == saved[size] * saved["accumulate"]
            for size in sizes):
        saved = saved | {name: given[name] for name in BATCHES}  # accumulate = 1 counts as given
    resumed = TrainSettings(**merge_settings(given, saved, defaults, MAY_CHANGE))
    check_settings(resumed)
    return resumed


def check_settings(settings: TrainSettings) -> None:
    """Raise UserError for settings that cannot work, before anything is read."""
    check_fields(settings, LIMITS)
    if settings.input_shape[0] != settings.input_shape[1]:
        raise UserError(f"input_shape must be square, got {settings.input_shape}.")
    if settings.early_stopping and not (settings.val_list and settings.eval_period):
        raise UserError("early_stopping needs a val_list, and an eval_period of 1 or more.")
    if settings.backbone != "vgg" and settings.batch_size == 1:
        raise UserError("batch norm cannot train on one image at a time: raise batch_size.")


if __name__ == "__main__":
    run_script(main, TrainSettings)
