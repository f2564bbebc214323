"""Weight files of others: recognised, and brought to our state dict and its spec."""

import re
from pathlib import Path

import torch

from nets.backbones import BACKBONES
from nets.weights.download import download
from nets.weights.families import COCO_DETECTOR, FAMILIES, PUBLISHED_NAMES
from nets.ssd import build_spec
from utils.checkpoint import MAX_CLASSES, Checkpoint, parse_checkpoint
from utils.cli import UserError, resolve, shorten
from utils.multibox.spec import COCO_SCALES, VOC_SCALES
from utils.tensor_files import check_unpacked, read_tensor_file


def read_detector(path: str | Path, *, family: str = "auto",
                  class_names: tuple[str, ...] | None = None) -> tuple[Checkpoint, str]:
    """Read a detector from a checkpoint of this project or a published weight file.

    Args:
        path: the file, or "coco" for torchvision's SSD300 trained on COCO, downloaded once.
        family: a name in FAMILIES; "auto" tells by the contents. Where several families name
            their tensors alike, their order tells, and what was taken is printed.
        class_names: for files with other classes than VOC's 20 or COCO's; None: by their count.

    Returns (Checkpoint, family), "this project" for its own; the tensors are still to be compared
    with a network. Raises UserError for an unreadable, unknown or unsafe file, or class names that
    do not fit it.
    """
    path = download(COCO_DETECTOR) if path == "coco" else resolve(path)
    values = read_tensor_file(path)
    if checkpoint := parse_checkpoint(values, path):
        return checkpoint, "this project"
    tensors = _unwrap(values, path)
    family = _recognise(tensors, path, family)
    state = FAMILIES[family].read(tensors)
    spec, num_classes = _describe(state, family, path)
    names = PUBLISHED_NAMES.get(num_classes) if class_names is None else tuple(class_names)
    if names is None:
        raise UserError(f"{shorten(path)}: has {num_classes} classes and no names; set "
                        "classes_path to the list that it was trained with.")
    if len(names) != num_classes:
        raise UserError(f"{shorten(path)}: has {num_classes} classes, classes_path has "
                        f"{len(names)}; name the list that it was trained with.")
    return Checkpoint(spec, names, state, {}, {}), family


def _unwrap(values, path):
    """Take the state dict out of wrappers and off the prefix of data-parallel training."""
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    if not isinstance(values, dict):
        raise UserError(f"{shorten(path)}: holds a {type(values).__name__}, not a state dict.")
    tensors = {name.removeprefix("module."): value for name, value in values.items()
               if isinstance(name, str) and torch.is_tensor(value)}
    if not tensors:
        raise UserError(f"{shorten(path)}: no tensors in it; is it a weights file?")
    # One number in the file may be a tensor of any size, by strides of 0.
    check_unpacked(4 * sum(value.numel() for value in tensors.values()), path)
    return tensors


def _recognise(tensors, path, family):
    """Return the family that a file belongs to; where that is a guess, print it."""
    if family not in ("auto", *FAMILIES):
        raise UserError(f"weights_family must be auto, {', '.join(FAMILIES)}; got {family!r}.")
    found = [name for name, entry in FAMILIES.items()
             if any(re.fullmatch(entry.signature, tensor) for tensor in tensors)]
    if not found:
        raise UserError(f"{shorten(path)}: not an SSD of a known family ({', '.join(FAMILIES)}); "
                        f"it begins with {next(iter(tensors))[:60]!r}. A classification network "
                        "goes into backbone_weights of train.py.")
    if family in found:
        return family
    if family != "auto":
        raise UserError(f"{shorten(path)}: weights_family is {family!r}, but the tensors are "
                        f"those of {' or '.join(found)}; leave it \"auto\".")
    if len(found) == 1:
        return found[0]
    # Modules register in the order of their code, and torch.save keeps it.
    groups = tuple(dict.fromkeys(name.split(".")[0] for name in tensors))
    fitting = [name for name in found if FAMILIES[name].order == groups]
    chosen = (fitting or found)[0]
    reason = (f"its tensors are in the order {', '.join(groups)}" if fitting
              else "the names fit and the order of the tensors is lost")
    others = " or ".join(f'"{other}"' for other in found if other != chosen)
    print(f"{shorten(path)}: taken for {chosen}'s, because {reason}; set weights_family to "
          f"{others} if that is wrong")
    return chosen


def _describe(state, family, path):
    """Tell (SSDSpec, number of classes without background) from our state dict and the family."""
    taken_for = f"{shorten(path)}: looks like {family}'s, but"
    backbone = next((name for name, entry in BACKBONES.items()
                     if any(key.startswith(f"{entry.prefix}.") for key in state)), None)
    loc, conf = state.get("loc.0.weight"), state.get("conf.0.weight")
    if backbone is None or loc is None or conf is None or min(loc.ndim, conf.ndim) != 4:
        raise UserError(f"{taken_for} is not a whole SSD; the backbone or the heads on its first "
                        "feature map are missing.")
    boxes = max(1, loc.shape[0] // 4)
    num_classes = conf.shape[0] // boxes - 1
    if not 1 <= num_classes <= MAX_CLASSES or conf.shape[0] % boxes or loc.shape[0] % 4:
        raise UserError(f"{taken_for} is not a whole SSD; its heads have {loc.shape[0]} and "
                        f"{conf.shape[0]} channels.")
    entry, size = FAMILIES[family], 512 if "conf.6.weight" in state else 300
    coco, changes = entry.uses_coco_sizes(num_classes), dict(entry.preset)
    if (size, coco) in entry.sizes:
        changes["anchors_size"] = entry.sizes[size, coco]
    try:
        spec = build_spec(backbone, size, scales=COCO_SCALES if coco else VOC_SCALES, **changes)
    except (ValueError, KeyError) as error:
        raise UserError(f"{taken_for} {error}.") from None
    return spec, num_classes
