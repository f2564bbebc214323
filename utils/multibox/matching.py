"""Ground truth to training targets: which priors are matched with which object."""

from typing import NamedTuple

import torch

from utils.multibox.boxes import pairwise_iou, to_xyxy
from utils.multibox.coder import BoxCoder

IGNORED = -1  # label of a prior that is neither positive nor a candidate negative
MIN_FORCED_IOU = 1e-6  # as in Caffe: an object with no free prior above it stays unmatched


class Targets(NamedTuple):
    """What the loss compares the network's outputs with, of one image; (B, ...) of a batch."""

    labels: torch.Tensor  # (P,) int64: 0 background, 1.. classes, IGNORED
    loc: torch.Tensor  # (P, 4) float32 encoded boxes; about 0 where not positive


@torch.no_grad()
def make_image_targets(boxes: torch.Tensor, labels: torch.Tensor, difficult: torch.Tensor,
                       coder: BoxCoder, *, match_iou: float, train_on_difficult: bool = True
                       ) -> Targets:
    """Match the objects of an image to the priors and encode them (paper section 2.2).

    Args:
        boxes: (G, 4) float32, xyxy in [0, 1]; G may be 0.
        labels: (G,) int64 indices into class_names.
        difficult: (G,) bool.
        coder: owns the priors.
        match_iou: priors with IoU >= this to an object are positives; the paper says > 0.5.
        train_on_difficult: False ignores the priors that match difficult objects; in Caffe they are
            background then.

    Returns:
        Targets with labels shifted by one, background being 0.
    """
    priors = to_xyxy(coder.priors)
    if len(boxes) == 0:
        return Targets(labels.new_zeros(len(priors)), torch.zeros_like(priors))
    matched = match(boxes, priors, match_iou)
    indices = matched.clamp(min=0)
    target_labels = torch.where(matched >= 0, labels[indices] + 1, 0)
    if not train_on_difficult:
        target_labels[difficult[indices] & (matched >= 0)] = IGNORED
    positive = target_labels > 0
    return Targets(target_labels,
                   coder.encode(torch.where(positive[:, None], boxes[indices], priors)))


def match(boxes: torch.Tensor, priors: torch.Tensor, match_iou: float) -> torch.Tensor:
    """Match every prior with one object or none (Caffe `MatchBBox`, PER_PREDICTION).

    First the greedy bipartite matching gives every object a prior of its own. Then every other
    prior takes the object with which its IoU is highest, where that is at least `match_iou`.

    `boxes` are (G, 4) xyxy, G >= 1, `priors` (P, 4) xyxy in the same unit. Returns the (P,) int64
    index of the object, -1 for none.
    """
    iou = pairwise_iou(boxes, priors)  # (G, P)
    forced = bipartite_match(iou)
    best_iou, best_object = iou.max(0)
    matched = torch.where(best_iou >= match_iou, best_object, -1)
    return torch.where(forced >= 0, forced, matched)


def bipartite_match(iou: torch.Tensor) -> torch.Tensor:
    """Match each object with one prior greedily: of the pairs left the one with the highest IoU.

    Ties go to the lower object, then to the lower prior. `iou` is (G, P). Returns the (P,) int64
    index of the object matched with each prior, -1 for none.
    """
    iou = iou.clone()  # of the pairs left; others are -1
    matched = torch.full((iou.shape[1],), -1, device=iou.device)
    best_iou, best_prior = iou.max(1)  # (G,)
    while best_iou.max() > MIN_FORCED_IOU:
        k = best_iou.argmax()
        prior = best_prior[k].clone()
        matched[prior] = k
        iou[k] = iou[:, prior] = -1
        stale = best_prior == prior  # the objects that wanted this prior look for another
        best_iou[stale], best_prior[stale] = iou[stale].max(1)
    return matched
