"""The multibox loss (paper section 2.2, eq. 1 to 3)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from utils.multibox.coder import BoxCoder
from utils.multibox.matching import IGNORED, Targets, make_image_targets


class Losses(NamedTuple):
    """The parts of eq. 1, divided by N. Their sum is minimised: a part brings its own weight."""

    loc: torch.Tensor  # scalar
    conf: torch.Tensor  # scalar


class MultiBoxLoss(nn.Module):
    """L(x, c, l, g) = (L_conf(x, c) + L_loc(x, l, g)) / N, eq. 1 with alpha = 1.

    An optimizer step may hold several batches, on several processes, and must match one large
    batch. So the targets of all of them are made first, N is summed over them, and each batch is
    divided by the sum:

        targets = [criterion.make_targets(...) for each batch]
        normaliser = max(1, sum(criterion.count(target) for target in targets))
        losses = criterion(*network(images), target, normaliser)

    Args:
        coder: has the priors to match. It stays on the CPU, where the loader's workers match:
            take one of its own, not the network's.
        match_iou: priors with IoU >= this to an object are positives (>= as in Caffe).
        negatives_per_positive: hard negatives of an image for each of its positives.
        background_negatives: hard negatives of an image without positives; 0 in the paper.
        train_on_difficult: False leaves difficult objects out: neither object nor background.
    """

    def __init__(self, coder: BoxCoder, *, match_iou: float = 0.5,
                 negatives_per_positive: float = 3.0, background_negatives: int = 0,
                 train_on_difficult: bool = True):
        super().__init__()
        self.coder, self.match_iou = coder, match_iou
        self.negatives_per_positive = negatives_per_positive
        self.background_negatives = background_negatives
        self.train_on_difficult = train_on_difficult

    def make_targets(self, boxes: torch.Tensor, labels: torch.Tensor, difficult: torch.Tensor
                     ) -> Targets:
        """Return the Targets of a batch of (B, G, ...) padded objects, whose labels are -1."""
        parts = [make_image_targets(
            *(part[k, labels[k] >= 0] for part in (boxes, labels, difficult)), self.coder,
            match_iou=self.match_iou, train_on_difficult=self.train_on_difficult)
                 for k in range(len(labels))]
        return Targets(*map(torch.stack, zip(*parts)))

    def count(self, targets: Targets) -> float:
        """Return what a batch adds to N, the number of positives (eq. 1).

        Background negatives are not in the paper: an image without positives counts as its
        background negatives / `negatives_per_positive`, so that each negative weighs as much as one
        of an image with objects.
        """
        positives = (targets.labels > 0).sum(1)
        share = self._num_negatives(targets.labels) / max(self.negatives_per_positive, 1.0)
        return float(torch.where(positives > 0, positives, share).sum())

    def forward(self, loc: torch.Tensor, conf: torch.Tensor, targets: Targets,
                normaliser: float) -> Losses:
        """Return the Losses of a batch, in float32.

        Args:
            loc: (B, P, 4) float, predicted offsets.
            conf: (B, P, C) float, scores of C = K + 1 classes before softmax, background first.
            targets: of `make_targets`.
            normaliser: N, at least 1: the sum of `count` over all batches of the step.
        """
        positive = targets.labels > 0  # (B, P)
        # Eq. 2: smooth L1 between predicted and encoded boxes, over the positives. Masks instead of
        # indices here and below, since a GPU would be waited for to know how many there are.
        smooth_l1 = F.smooth_l1_loss(loc.float(), targets.loc, reduction="none").sum(-1)  # (B, P)
        loc_loss = torch.where(positive, smooth_l1, 0).sum()
        # Eq. 3: cross entropy over the positives and the hard negatives.
        cross_entropy = F.cross_entropy(conf.float().transpose(1, 2), targets.labels,
                                        ignore_index=IGNORED, reduction="none")  # (B, P)
        negative = self.mine_hard_negatives(cross_entropy.detach(), targets.labels)
        conf_loss = torch.where(positive | negative, cross_entropy, 0).sum()
        # Eq. 1.
        return Losses(loc_loss / normaliser, conf_loss / normaliser)

    def mine_hard_negatives(self, losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the (B, P) bool mask of each image's negatives of highest loss (section 2.2).

        `losses` are the (B, P) confidence losses, `labels` (B, P) as in Targets. A weight by class
        would not change the order: all candidates are background.
        """
        candidate = labels == 0
        hardest_first = losses.masked_fill(~candidate, -torch.inf).argsort(
            dim=1, descending=True, stable=True)
        is_chosen = (torch.arange(labels.shape[1], device=labels.device)
                     < self._num_negatives(labels)[:, None])
        return torch.zeros_like(candidate).scatter(1, hardest_first, is_chosen)

    def _num_negatives(self, labels):
        """Return how many negatives each image of (B, P) labels contributes, (B,) int64."""
        positives, candidates = (labels > 0).sum(1), (labels == 0).sum(1)
        wanted = (positives * self.negatives_per_positive).long()
        return torch.where(positives > 0, wanted, self.background_negatives).minimum(candidates)
