"""What is found out before the first step."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # SyncBatchNorm is one too
from tqdm import tqdm

from utils.cli import UserError, resolve
from utils.data.annotations import Record, check_same_classes, read_class_names, read_list
from utils.distributed import rank, world_size
from utils.image import as_rgb_array
from utils.multibox.spec import TILES
from utils.training.optim import Schedule

# Lowest and highest value of train.py's numbers.
LIMITS = {
    "input_shape": (1, 4096), "tile": (0, TILES[1]), "anchors_size": (1, 10_000),
    "aspect_ratios": (0.01, 100),
    "epochs": (1, 1_000_000), "freeze_epochs": (0, 1_000_000),
    "batch_size": (1, 4096), "freeze_batch_size": (1, 4096), "accumulate": (1, 4096),
    "learning_rate": (1e-12, 10), "min_lr_ratio": (1e-12, 1), "warmup_steps": (0, 1_000_000),
    "momentum": (0, 0.9999), "weight_decay": (0, 1), "clip_grad_norm": (0, 1e6),
    "match_iou": (0.01, 1), "negatives_per_positive": (0, 1000), "background_negatives": (0, 1000),
    "seed": (0, 2 ** 32 - 1), "eval_period": (0, 1_000_000), "save_period": (0, 1_000_000),
    "save_steps": (0, 1_000_000_000),
    "early_stopping": (0, 1_000_000), "sample_period": (0, 1_000_000)}
ENOUGH_STEPS = 1000  # a detector of fewer steps has seen too little; the README names it too


def check_agreement(*, input_shape: tuple[int, int], stops_early: bool, measures: bool,
                    freezes: bool, pretrained: bool) -> None:
    """Raise UserError for settings that are fine one by one and cannot work together."""
    if len(set(input_shape)) != 1:
        raise UserError(f"input_shape must be square, such as (300, 300), got {input_shape}.")
    if stops_early and not measures:
        raise UserError("early_stopping needs a val_list, and an eval_period of 1 or more.")
    if freezes and not pretrained:
        raise UserError("freeze_epochs needs pretrained weights: frozen random layers learn "
                        'nothing. Set backbone_weights = "imagenet" or freeze_epochs = 0.')


def read_lists(train_list: str, val_list: str, *, classes_path: str, train_on_difficult: bool
               ) -> tuple[list[Record], list[Record], tuple[str, ...]]:
    """Return (train records, val records, class names) of lists that agree with each other.

    The val records are [] where val_list is "" or none of its objects counts; a line says so.
    Raises UserError for lists that cannot be read, disagree, or hold nothing to learn.
    """
    for name, path in (("train_list", train_list), ("val_list", val_list)):
        if path and not resolve(path).exists():
            raise UserError(f"{name}: there is no {resolve(path)}. Run voc_annotation.py, which "
                            'writes it; val_list = "" trains without val images.')
    train_records, class_names = read_list(train_list)
    if not any((train_on_difficult | ~record.difficult).any() for record in train_records):
        besides = "" if train_on_difficult else " but difficult ones"
        raise UserError(f"{train_list}: no objects in any image{besides}; there is nothing to "
                        "learn from. Run voc_annotation.py and read what it says.")
    if classes_path:
        check_same_classes(read_class_names(classes_path), classes_path, class_names, train_list)
    val_records = []
    if val_list:
        val_records, val_names = read_list(val_list)
        check_same_classes(class_names, train_list, val_names, val_list)
    if all(record.difficult.all() for record in val_records):
        reason = f"{val_list} has no object that is not difficult" if val_list else "no val list"
        print(f"note: {reason}, so there is no val mAP, best.pth is the last epoch, "
              "and early stopping has nothing to go by.")
        val_records = []
    print(f"data: {len(train_records)} train and {len(val_records)} val images, "
          f"{len(class_names)} classes: {', '.join(class_names)}")
    return train_records, val_records, class_names


def check_images(records: list[Record], list_path: str) -> None:
    """Raise UserError for an image that cannot be read: better now than after an epoch.

    Ranks share the records out.
    """
    own = records[rank()::world_size()]
    for record in tqdm(own, desc="val images", unit="image", leave=False, disable=None):
        try:
            as_rgb_array(record.path)
        except UserError as error:
            raise UserError(f"{list_path}: {error}\nvoc_annotation.py leaves such images out; "
                            "run it again.") from None


def check_batch_norm(network: nn.Module, schedule: Schedule) -> None:
    """Raise UserError for batches of one where batch norm meets feature maps of one position."""
    has_batch_norm = any(isinstance(module, _BatchNorm) for module in network.extras.modules())
    if has_batch_norm and 1 in map(schedule.batch_size_in, (0, schedule.epochs - 1)):
        remedy = ("set batch_size and freeze_batch_size to 2 or more" if schedule.num_images > 1
                  else "the train list has one image only: add images")
        raise UserError("batch norm cannot train on one image at a time; "
                        f'{remedy}, or take backbone = "vgg", which has none.')


def check_length(schedule: Schedule) -> None:
    """Say it before hours are spent where a run has so few steps that little will be learnt."""
    steps = schedule.total_steps()
    if steps < ENOUGH_STEPS:
        images = schedule.batch_size_in(schedule.epochs - 1) * schedule.batches_a_step
        print(f"WARNING: {steps:,} steps (epochs x images / {images} a step) are few to learn "
              f"from: {ENOUGH_STEPS:,} or more are worth their time. Set epochs = "
              f"{schedule.epochs_for(ENOUGH_STEPS)} or more.")
