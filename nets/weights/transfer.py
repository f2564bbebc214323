"""Weights put into a network: of a backbone alone, or of a detector with other classes."""

import re

import torch

from nets.ssd import SSDNet
from utils.checkpoint import check_tensors

# COCO's names for VOC's classes; a name in common needs no entry.
COCO_NAMES = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
              "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"}
OTHER_NAMES = COCO_NAMES | {coco: voc for voc, coco in COCO_NAMES.items()}


def load_backbone(network: SSDNet, weights: dict) -> int:
    """Copy backbone weights, {name: tensor}, into a network; return the number of them.

    Raises UserError where a tensor of the pretrained layers is missing or does not fit.
    """
    needed = network.pretrained_layers.state_dict(prefix=f"{network.backbone_entry.prefix}.")
    old = network.state_dict()
    fitting = {name: value for name, value in weights.items() if name in old}
    check_tensors(needed | {name: old[name] for name in fitting}, fitting, "backbone_weights")
    network.load_state_dict(fitting, strict=False)
    return len(fitting)


@torch.no_grad()
def transfer(network: SSDNet, state_dict: dict, class_names: tuple[str, ...],
             old_names: tuple[str, ...]) -> str:
    """Fill a network for class_names from a detector's weights for old_names; return a summary.

    All but the conf heads is copied; of these the rows of the background and of the classes whose
    names are equal apart from case, or VOC's and COCO's for one thing. The other rows stay random.
    """
    old_rows = {name.lower(): row for row, name in enumerate(old_names, start=1)}
    rows = {0: 0}  # new conf row -> old conf row
    for row, name in enumerate(map(str.lower, class_names), start=1):
        old_row = old_rows.get(name) or old_rows.get(OTHER_NAMES.get(name))
        if old_row:
            rows[row] = old_row
    random, filled = network.state_dict(), dict(state_dict)
    for name in filled:
        if re.fullmatch(r"conf\.\d+\.(1\.)?(weight|bias)", name):  # SSDLite's rows are in "1."
            old = filled[name].unflatten(0, (-1, len(old_names) + 1))  # (A, C_old, ...)
            new = random[name].unflatten(0, (-1, len(class_names) + 1)).clone()
            new[:, list(rows)] = old[:, list(rows.values())].to(new)
            filled[name] = new.flatten(0, 1)
    network.load_state_dict(filled)
    kept = [class_names[row - 1] for row in rows if row]
    fresh = [name for row, name in enumerate(class_names, start=1) if row not in rows]
    return (f"classes with weights: {', '.join(kept) or 'none'}\n"
            f"classes that start fresh: {', '.join(fresh) or 'none'}")
