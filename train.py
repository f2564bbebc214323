"""Train SSD on the lists that voc_annotation.py wrote.

Edit the settings below, or give them as flags: python train.py --epochs 30 --batch_size 16
"""

import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from nets.backbones import BACKBONES
from nets.build import continued_network, network_of, new_network
from nets.weights.families import FAMILIES
from nets.ssd import SSDNet
from ssd import SSD, SSDSettings
from utils.checkpoint import Checkpoint
from utils.cli import check_fields, run, settings_table, shared_fields, shorten
from utils.data.annotations import Record, check_same_classes, read_class_names
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import DetectionDataset
from utils.device import keep_freed_memory, pick_device, set_precision
from utils.distributed import check_device, join_batch_norm, on_first, process_group, world_size
from utils.evaluation.scoring import score_best, val_map
from utils.memory import flags_for_less, out_of_memory
from utils.training.board import Board
from utils.training.checks import (LIMITS, check_agreement, check_batch_norm, check_images,
                                   check_length, read_lists)
from utils.training.optim import Schedule, make_optimizer
from utils.training.run_folder import (RunFolder, check_run_name, claim_folder, find_last,
                                       hold_folder, resume_restarted)
from utils.training.run_loop import restore, run_epochs
from utils.training.run_state import (check_basis, check_same_everywhere, describe_basis, read_run,
                                      resumed_values)
from utils.training.summary import describe_end, describe_start
from utils.training.trainer import Objective, Trainer


@dataclass(frozen=True)
class TrainSettings:
    """Every number of a training run."""

    # ---- Data: written by voc_annotation.py ----

    # Images to learn from.
    train_list: str = "2007_train.txt"
    # Images to choose the best epoch by; "" does without: the best is then the last epoch.
    val_list: str = "2007_val.txt"
    # Leave "": the lists know their classes. A class list here must be the one they were made with.
    classes_path: str = ""

    # ---- Network ----

    # vgg is the paper's and the most accurate; mobilenetv2 is several times faster and small.
    backbone: Literal[tuple(BACKBONES)] = "vgg"
    # Height and width in pixels, the same. (300, 300) and (512, 512) are the paper's: 512 finds
    # smaller objects and has 2.9 times the pixels to compute.
    input_shape: tuple[int, int] = (300, 300)
    # For small objects in large images: windows of this many pixels of the image are looked at, one
    # random one of each image an epoch in training, all of them in detection and for val mAP
    # (raise eval_period where that takes long). 0 looks at images as a whole. voc_annotation.py
    # says when to set it and to what; of a model_path 0 takes what that was trained with.
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

    # ---- Length ----

    # Small sets want more of them: a warning says how many where the steps are few.
    epochs: int = 60
    # Ends after so many measurements without a better val mAP, such as 10; 0 trains all epochs.
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

    # adamw settles in short runs; sgd is Caffe's, for long ones. "adam" is adamw's former name.
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
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
    # Processes that read and augment images, at most one a core. 0 reads in the main process.
    num_workers: int = 2
    # The same seed gives the same samples in the same order.
    seed: int = 0

    # ---- Going on ----

    # "last" goes on with run run_name (begins it where it has no last.pth), else with the newest
    # under save_dir; a path to a last.pth with that run. Other settings are then the run's own.
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
    # Epochs between drawings of samples.jpg, a few val images with what is found; 0 draws none.
    sample_period: int = 5


def main(settings: TrainSettings) -> None:
    """Train, save, measure, in one process or in those that torchrun started."""
    with process_group():
        check_settings(settings)
        settings = replace(settings, **on_first(resume_restarted))
        last = on_first(lambda: settings.resume and find_last(
            settings.resume, save_dir=settings.save_dir, run_name=settings.run_name))
        if not last:
            return train(settings)
        with hold_folder(last.parent):
            saved = on_first(lambda: read_run(last))
            train(resumed_settings(settings, saved, last), saved, last)


def resumed_settings(settings: TrainSettings, saved: Checkpoint, last: Path) -> TrainSettings:
    """Return the settings that a saved run goes on with; UserError for those it cannot take."""
    settings = TrainSettings(**resumed_values(asdict(settings), saved, asdict(TrainSettings()),
                                              shorten(last)))
    check_settings(settings)
    return settings


def train(settings: TrainSettings, saved: Checkpoint | None = None, last: Path | None = None):
    """Train from the beginning, or go on from a last.pth in whose folder nobody else writes."""
    torch.manual_seed(settings.seed)
    device = pick_device(settings.device)
    check_device(device, settings.device)
    precision = set_precision(settings.precision, device)
    keep_freed_memory()
    train_records, val_records, class_names = read_lists(
        settings.train_list, settings.val_list, classes_path=settings.classes_path,
        train_on_difficult=settings.train_on_difficult)
    basis = describe_basis({"train": train_records, "val": val_records}, device, precision,
                           asdict(TrainSettings()))
    check_same_everywhere(asdict(settings), basis)
    if saved:
        check_same_classes(saved.class_names, shorten(last), class_names, settings.train_list)
        check_basis(basis, saved.run, shorten(last))
        network = network_of(saved, "this run", shorten(last))
    else:
        network = on_first(lambda: build_network(settings, class_names, train_records))
    trainer = make_trainer(settings, network, train_records, device, precision)
    check_batch_norm(network, trainer.schedule)
    check_images(val_records, settings.val_list)
    scorer, exact_scorer = (
        SSD(SSDSettings(device=str(device), precision=kind), network=network,
            class_names=class_names) for kind in (precision, "fp32"))
    table = settings_table(settings)

    def make_checkpoint():
        progress = {"epoch": trainer.epoch, "step": trainer.done}
        return Checkpoint(network.spec, class_names, network.state_dict(),
                          asdict(settings) | {"resume": ""}, progress, basis | trainer.state_dict())

    with (nullcontext(last.parent) if saved else claim_folder(
            settings.save_dir, settings.run_name, table, again=bool(settings.resume))) as folder:
        print(describe_start(folder, table, f"{device} in {precision}"))
        results = RunFolder(folder, save_period=settings.save_period)
        if saved:
            restore(trainer, results, saved, basis["machine"],
                    early_stopping=settings.early_stopping)
        else:
            check_length(trainer.schedule)
        board = Board(folder, scorer, val_records or train_records, num_images=len(train_records),
                      kind="val" if val_records else "train", sample_period=settings.sample_period)
        run_epochs(trainer, results, make_checkpoint,
                   partial(val_map, scorer, val_records) if val_records else None,
                   show=board.show, early_stopping=settings.early_stopping,
                   eval_period=settings.eval_period, save_steps=settings.save_steps,
                   memory_advice=(out_of_memory(settings), flags_for_less(settings)))
        best = results.describe_best()
        if val_records:
            best += score_best(exact_scorer, val_records, folder / "best.pth")
        print(describe_end(folder, results.history, best=best, num_images=len(train_records)))


def check_settings(settings: TrainSettings) -> None:
    """Raise UserError for settings that cannot work, before anything is read."""
    check_fields(settings, LIMITS | {"num_workers": (0, max(16, 4 * (os.cpu_count() or 1)))})
    check_run_name(settings.run_name)
    check_agreement(input_shape=settings.input_shape,
                    stops_early=settings.early_stopping > 0, freezes=settings.freeze_epochs > 0,
                    measures=bool(settings.val_list and settings.eval_period),
                    pretrained=bool(settings.model_path or settings.backbone_weights))


def build_network(settings: TrainSettings, class_names: tuple[str, ...],
                  records: list[Record]) -> SSDNet:
    """Return the SSDNet to train, filled with the weights that the settings name."""
    if not settings.model_path:
        return new_network(settings.backbone, settings.input_shape[0], len(class_names),
                           backbone_weights=settings.backbone_weights,
                           anchors_size=settings.anchors_size,
                           aspect_ratios=settings.aspect_ratios,
                           letterbox=settings.letterbox_image, tile=settings.tile,
                           images=[record[:2] for record in records])
    path = settings.model_classes_path
    return continued_network(settings.model_path, class_names, family=settings.weights_family,
                             old_names=read_class_names(path) if path else None,
                             tile=settings.tile)


def make_trainer(settings: TrainSettings, network: SSDNet, records: list[Record],
                 device: torch.device, precision: str) -> Trainer:
    """Return the Trainer of a network, which moves to the device; settings end here."""
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    network.to(device, memory_format=layout)
    join_batch_norm(network, device)
    optimizer = make_optimizer(network, name=settings.optimizer, momentum=settings.momentum,
                               weight_decay=settings.weight_decay)
    dataset = DetectionDataset(records, network.spec, AUGMENTATIONS[settings.augmentation],
                               settings.seed)
    schedule = Schedule(num_images=len(records), kind=settings.schedule, ranks=world_size(),
                        **shared_fields(settings, Schedule))
    objective = Objective(**shared_fields(settings, Objective))
    return Trainer(network, optimizer, dataset, schedule, objective, device=device,
                   precision=precision, num_workers=settings.num_workers,
                   clip_grad_norm=settings.clip_grad_norm)


if __name__ == "__main__":
    run(main, TrainSettings)
