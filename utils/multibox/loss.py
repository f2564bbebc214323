"""The multibox loss (paper section 2.2, eq. 1-3)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F


class LossParts(NamedTuple):
    """Sums over a batch, to be divided by the normaliser of the whole optimizer step."""

    loc: torch.Tensor  # scalar, smooth L1 over the positives
    conf: torch.Tensor  # scalar, cross entropy over the positives and the mined negatives


def multibox_loss(loc: torch.Tensor, conf: torch.Tensor, targets: NamedTuple, *,
                  negatives_per_positive: float, background_negatives: int = 0) -> LossParts:
    """Return the summed localisation and confidence losses of a batch, in float32.

    Nothing is divided here: the optimizer step that a batch belongs to may hold several batches,
    and `loss_normaliser` is summed over all of them. Finite, and 0 where nothing is chosen.

    Args:
        loc: (B, P, 4) float tensor, raw offsets.
        conf: (B, P, C) float tensor, raw class scores before softmax, background first.
        targets: Targets of `make_targets`.
        negatives_per_positive: 3 in SSD; chosen per image, hardest first.
        background_negatives: chosen in an image without positives; none in Caffe.
    """
    positive = targets.labels > 0
    loc_loss = F.smooth_l1_loss(loc.float()[positive], targets.loc[positive], reduction="sum")
    each_conf = F.cross_entropy(conf.float().transpose(1, 2), targets.labels.clamp(min=0),
                                reduction="none")  # (B, P)
    negative = mine_hard_negatives(each_conf.detach(), targets.labels, negatives_per_positive,
                                   background_negatives)
    return LossParts(loc_loss, each_conf[positive | negative].sum())


def count_negatives(labels: torch.Tensor, negatives_per_positive: float,
                    background_negatives: int = 0) -> torch.Tensor:
    """Return how many negatives each image of (B, P) labels contributes, (B,) int64."""
    positives, candidates = (labels > 0).sum(1), (labels == 0).sum(1)
    wanted = (positives * negatives_per_positive).long()
    return torch.where(positives > 0, wanted, background_negatives).minimum(candidates)


def loss_normaliser(labels: torch.Tensor, negatives_per_positive: float,
                    background_negatives: int = 0) -> float:
    """Return what a batch with (B, P) labels adds to the divisor of its optimizer step.

    An image counts as its positives, one without any as a third of its negatives (one in
    negatives_per_positive): so a batch of mostly background is no heavier than another.
    """
    positives = (labels > 0).sum(1)
    negatives = count_negatives(labels, negatives_per_positive, background_negatives)
    share = negatives / max(negatives_per_positive, 1.0)
    return float(torch.maximum(positives, share).sum())


def mine_hard_negatives(losses: torch.Tensor, labels: torch.Tensor, negatives_per_positive: float,
                        background_negatives: int = 0) -> torch.Tensor:
    """Choose the background priors with the highest loss, image by image (Caffe MAX_NEGATIVE).

    `losses` (B, P) are the confidence losses, `labels` (B, P) as in Targets. Returns a (B, P) bool
    mask of the chosen negatives.
    """
    candidate = labels == 0
    wanted = count_negatives(labels, negatives_per_positive, background_negatives)  # (B,)
    order = losses.masked_fill(~candidate, -torch.inf).argsort(dim=1, descending=True, stable=True)
    chosen_rank = torch.arange(labels.shape[1], device=labels.device) < wanted[:, None]
    return torch.zeros_like(candidate).scatter(1, order, chosen_rank)
