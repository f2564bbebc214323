"""The multibox loss (paper section 2.2, eq. 1-3)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F



class LossParts(NamedTuple):
    """Sums over a batch, to be divided by the positives of the whole optimizer step."""

    loc: torch.Tensor  # scalar, smooth L1 over the positives
    conf: torch.Tensor  # scalar, cross entropy over the positives and the mined negatives


def multibox_loss(loc, conf, targets, *, negatives_per_positive):
    """Return the summed localisation and confidence losses of a batch, in float32.

    Nothing is divided here: the optimizer step that a batch belongs to may hold several batches,
    and its normaliser is the number of positives in all of them, at least 1.

    Args:
        loc: (B, P, 4) float tensor, raw offsets.
        conf: (B, P, C) float tensor, raw class scores before softmax, background first.
        targets: Targets of `make_targets`.
        negatives_per_positive: 3 in SSD; chosen per image, hardest first.

    Returns:
        LossParts; both are 0 and finite for a batch without any object.
    """
    positive = targets.labels > 0
    loc_loss = F.smooth_l1_loss(loc.float()[positive], targets.loc[positive], reduction="sum")
    each_conf = F.cross_entropy(conf.float().transpose(1, 2), targets.labels.clamp(min=0),
                                reduction="none")  # (B, P)
    negative = mine_hard_negatives(each_conf.detach(), targets.labels, negatives_per_positive)
    return LossParts(loc_loss, each_conf[positive | negative].sum())


def mine_hard_negatives(losses, labels, negatives_per_positive):
    """Choose the background priors with the highest loss, image by image (Caffe MAX_NEGATIVE).

    Args:
        losses: (B, P) float tensor, confidence loss of every prior.
        labels: (B, P) int64, 0 for background, > 0 positive, IGNORED neither.
        negatives_per_positive: how many to take for each positive of the same image.

    Returns:
        (B, P) bool mask of the chosen negatives.
    """
    candidate = labels == 0
    wanted = ((labels > 0).sum(1) * negatives_per_positive).long()
    wanted = torch.minimum(wanted, candidate.sum(1))  # (B,)
    order = losses.masked_fill(~candidate, -torch.inf).argsort(dim=1, descending=True, stable=True)
    chosen_rank = torch.arange(labels.shape[1], device=labels.device) < wanted[:, None]
    return torch.zeros_like(candidate).scatter(1, order, chosen_rank)
