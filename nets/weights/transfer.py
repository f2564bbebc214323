"""Weights put into a network: of a backbone alone, or of a detector with other classes."""

import torch
from torch import nn

from nets.ssd import SSDNet
from nets.weights.weight_files import BackboneWeights
from utils.checkpoint import COUNTER, check_tensors

# COCO's names for VOC's classes; a name in common needs no entry.
COCO_NAMES = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
              "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"}


def load_backbone(network: SSDNet, weights: BackboneWeights) -> int:
    """Copy backbone weights into a network; return the number of tensors copied.

    Raises UserError where a tensor of the pretrained layers is missing, has another shape, or
    holds no weights.
    """
    own, needed = network.state_dict(), backbone_names(network.pretrained_layers, network)
    fitting = {name: value for name, value in weights.state_dict.items() if name in own}
    check_tensors({name: own[name] for name in (*needed, *fitting)}, fitting, "backbone_weights")
    network.load_state_dict(fitting, strict=False)
    return len(fitting)


def backbone_names(layers: nn.Module, network: SSDNet) -> list[str]:
    """Return the network's names of these layers' tensors, counters of batch norm left out."""
    return [f"{network.backbone_spec.prefix}.{name}" for name in layers.state_dict()
            if not name.endswith(COUNTER)]


def source_rows(class_names: tuple[str, ...], old_names: tuple[str, ...]) -> dict[int, int]:
    """Return {new conf index: old conf index}, background (0) included.

    A class without a counterpart has no entry. Names are the same when they are equal apart from
    letter case, or are VOC's and COCO's words for one thing.
    """
    old = {name.lower(): index for index, name in reversed(list(enumerate(old_names, start=1)))}
    other_words = COCO_NAMES | {coco: voc for voc, coco in COCO_NAMES.items()}
    rows = {0: 0}
    for index, name in enumerate(map(str.lower, class_names), start=1):
        row = old.get(name) or old.get(other_words.get(name))
        if row:
            rows[index] = row
    return rows


@torch.no_grad()
def transfer(network: SSDNet, state_dict: dict, class_names: tuple[str, ...],
             old_names: tuple[str, ...]) -> str:
    """Fill a network from the weights of a detector with other classes; return text for the user.

    All but the conf heads is copied; of these the background and the classes in common. The other
    rows stay as they are, random in a new network. `network` is for class_names and has the spec
    of the weights, `state_dict` is for old_names.
    """
    rows = source_rows(class_names, old_names)
    own, filled = network.state_dict(), dict(state_dict)
    for name in filled:
        if name.startswith("conf."):
            old = filled[name].unflatten(0, (-1, len(old_names) + 1))  # (A, C_old, ...)
            new = own[name].unflatten(0, (-1, len(class_names) + 1)).clone()
            new[:, list(rows)] = old[:, list(rows.values())].to(new)
            filled[name] = new.flatten(0, 1)
    network.load_state_dict(filled)
    mapped = [new if new == old else f"{new} (from {old})" for new, old in
              ((class_names[k - 1], old_names[rows[k] - 1]) for k in rows if k)]
    fresh = [name for k, name in enumerate(class_names, start=1) if k not in rows]
    return (f"classes with weights: {', '.join(mapped) or 'none'}\n"
            f"classes that start fresh: {', '.join(fresh) or 'none'}")
