"""Train SSD on the lists that voc_annotation.py wrote.

Edit the settings below, or give them as flags: python train.py --epochs 30 --batch_size 16
"""

import time
from dataclasses import asdict, dataclass
from typing import Literal

from nets.backbones import BACKBONES
from nets.build import continued_network, new_network
from nets.families import FAMILIES
from ssd import SSD, SSDSettings
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.cli import UserError, make_folder, run, settings_table, shorten
from utils.data.annotations import check_same_classes, read_class_names, read_list
from utils.device import pick_device, set_precision
from utils.evaluation.voc_ap import mean_ap
from utils.training.history import History, describe_epoch, plot_history
from utils.training.optim import has_batch_norm, seed_everything
from utils.training.trainer import Trainer


@dataclass(frozen=True)
class TrainSettings:
    """Every number of a training run."""

    # ---- Data: written by voc_annotation.py ----

    # Images to learn from.
    train_list: str = "2007_train.txt"
    # Images to choose the best epoch by.
    val_list: str = "2007_val.txt"
    # Leave "": the lists know their classes. A class list here must be the one they were made with.
    classes_path: str = ""

    # ---- Network ----

    # vgg is the paper's and the most accurate; mobilenetv2 is several times faster and small.
    backbone: Literal[tuple(BACKBONES)] = "vgg"
    # Height and width in pixels, the same. (300, 300) and (512, 512) are the paper's: 512 finds
    # smaller objects and has 2.9 times the pixels to compute.
    input_shape: tuple[int, int] = (300, 300)
    # Sides of the priors in pixels of the input, one a map and one more, as in the paper's
    # (30, 60, 111, 162, 213, 264, 315), which () takes. Smaller first numbers for small objects.
    anchors_size: tuple[float, ...] = ()
    # Width to height ratios of the priors, the same on every map, such as (2, 3); each stands for
    # its inverse too. () takes the paper's. voc_annotation.py suggests both for your objects.
    aspect_ratios: tuple[float, ...] = ()
    # True keeps the aspect ratio of images with grey bars; False squashes them, as the paper.
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

    # Small sets want more epochs: aim at 1,000 steps (epochs x images / batch_size) or more.
    epochs: int = 60
    # In the first epochs only the new layers train: gentler on the backbone, faster, less memory.
    freeze_epochs: int = 0
    # Batch size of those epochs; it may be larger, since less is kept in memory.
    freeze_batch_size: int = 16
    # Images a step. Lower it when memory runs out; accumulate makes up for it.
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
    # Steps of linear rise at the start, at most a fifth of the run; they keep the first large
    # gradients from doing harm.
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
    # "auto" is bf16 where the hardware has it, which is faster, else fp32.
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    # Memory layout that convolutions prefer on most machines.
    channels_last: bool = True
    # Processes that read and augment images, at most one a core. 0 reads in the main process.
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
    precision = set_precision(settings.precision, device)
    train_records, val_records, class_names = read_data(settings)
    network = build_network(settings, class_names)
    check_batch(settings, network, len(train_records))
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
        print(describe_epoch(row, settings.epochs, best))
    print(f"best val mAP@0.5 {best:.3f}; weights and curves are in {shorten(folder)}")


def check_settings(settings):
    """Raise UserError for settings that cannot work, before anything is read."""
    least = dict.fromkeys(("epochs", "batch_size", "accumulate", "freeze_batch_size"), 1)
    least |= dict.fromkeys(("num_workers", "freeze_epochs", "warmup_steps", "eval_period",
                            "save_period", "seed", "weight_decay", "clip_grad_norm",
                            "negatives_per_positive", "background_negatives"), 0)
    for name, value in least.items():
        if not getattr(settings, name) >= value:
            raise UserError(f"{name} must be at least {value}, got {getattr(settings, name)}.")
    for name, most in (("learning_rate", 10), ("match_iou", 1), ("min_lr_ratio", 1)):
        if not 0 < getattr(settings, name) <= most:
            raise UserError(f"{name} must lie in 0..{most}, 0 left out, "
                            f"got {getattr(settings, name)}.")
    if len(set(settings.input_shape)) != 1 or settings.input_shape[0] < 1:
        raise UserError("input_shape must be square, such as (300, 300), "
                        f"got {settings.input_shape}.")
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
            raise UserError(f"{name}: no objects in any image; there is nothing to learn from. "
                            "Run voc_annotation.py and read what it says.")
    print(f"data: {len(train_records)} train and {len(val_records)} val images, "
          f"{len(class_names)} classes: {', '.join(class_names)}")
    return train_records, val_records, class_names


def build_network(settings, class_names):
    """Return the SSDNet to train, filled with the weights that the settings name."""
    if not settings.model_path:
        return new_network(settings.backbone, settings.input_shape[0], len(class_names),
                           backbone_weights=settings.backbone_weights,
                           anchors_size=settings.anchors_size,
                           aspect_ratios=settings.aspect_ratios,
                           letterbox=settings.letterbox_image)
    old_names = None
    if settings.model_classes_path:
        old_names = read_class_names(settings.model_classes_path)
    return continued_network(settings.model_path, class_names, family=settings.weights_family,
                             old_names=old_names)


def check_batch(settings, network, num_images):
    """Raise UserError for batches of one where batch norm meets feature maps of one position."""
    frozen = settings.freeze_batch_size if settings.freeze_epochs else settings.batch_size
    if min(settings.batch_size, frozen, num_images) == 1 and has_batch_norm(network.extras):
        raise UserError("batch norm cannot train on one image at a time; set batch_size and "
                        "freeze_batch_size to 2 or more.")


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


def measure(settings, scorer, records, epoch):
    """Return the val mAP@0.5 (area) after an epoch, or None where it is not due."""
    last = epoch + 1 == settings.epochs
    due = settings.eval_period and (epoch + 1) % settings.eval_period == 0
    if not (due or last):
        return None
    scorer.network.eval()
    return mean_ap(scorer.evaluate(records)[0])


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
