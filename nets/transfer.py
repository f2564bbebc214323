"""Weights of one class list carried over to another."""

import torch

from nets.ssd import SSDNet

# COCO's names for VOC's classes; a name in common needs no entry.
COCO_NAMES = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
              "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"}


def source_rows(class_names: tuple[str, ...], old_names: tuple[str, ...]) -> dict[int, int]:
    """Find, for each class, where its conf rows come from.

    Args:
        class_names: tuple of the new names.
        old_names: tuple of the names that the weights were trained with.

    Returns:
        dict {new conf index: old conf index}, background (0) included; a class without a
        counterpart has no entry. Names count as the same when they are equal apart from letter
        case, or are VOC's and COCO's words for one thing.
    """
    old = {}
    for index, name in enumerate(old_names, start=1):
        old.setdefault(name.lower(), index)
    either = COCO_NAMES | {coco: voc for voc, coco in COCO_NAMES.items()}
    rows = {0: 0}
    for index, name in enumerate(class_names, start=1):
        for candidate in (name.lower(), either.get(name.lower())):
            if candidate in old:
                rows[index] = old[candidate]
                break
    return rows


@torch.no_grad()
def transfer(network: SSDNet, state_dict: dict, class_names: tuple[str, ...],
             old_names: tuple[str, ...]) -> str:
    """Fill a network from the weights of a detector with other classes.

    Backbone, L2Norm, extra layers and loc heads are copied; of the conf heads the background and
    the classes in common. The other rows stay as they are, random in a new network.

    Args:
        network: SSDNet for class_names, with the spec of the weights.
        state_dict: tensors of an SSDNet for old_names.
        class_names: tuple of the network's names.
        old_names: tuple of the weights' names.

    Returns:
        text for the user: what was kept, mapped, and left out.
    """
    rows = source_rows(class_names, old_names)
    own, filled = network.state_dict(), {}
    for name, value in state_dict.items():
        filled[name] = value
        if name.startswith("conf."):
            old = value.unflatten(0, (-1, len(old_names) + 1))  # (A, C_old, ...)
            new = own[name].unflatten(0, (-1, len(class_names) + 1)).clone()
            new[:, list(rows)] = old[:, list(rows.values())].to(new)
            filled[name] = new.flatten(0, 1)
    network.load_state_dict(filled)
    return _describe(rows, class_names, old_names)


def _describe(rows, class_names, old_names):
    mapped, fresh = [], []
    for index, name in enumerate(class_names, start=1):
        if index not in rows:
            fresh.append(name)
        else:
            old = old_names[rows[index] - 1]
            mapped.append(name if old == name else f"{name} (from {old})")
    unused = sum(name != "N/A" for name in old_names) - len(mapped)
    return ("kept: backbone, extra layers, box heads\n"
            f"classes with weights: {', '.join(mapped) or 'none'}\n"
            f"classes that start fresh: {', '.join(fresh) or 'none'}\n"
            f"classes of the weights left out: {unused}")
