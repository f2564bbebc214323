"""Ground truth to training targets: which priors are matched with which object."""

from typing import NamedTuple

import torch

from utils.multibox.boxes import pairwise_iou, to_xyxy
from utils.multibox.coder import BoxCoder

IGNORED = -1  # label of a prior that is neither positive nor a candidate negative
MIN_FORCED_IOU = 1e-6  # as in Caffe: an object that overlaps no free prior more stays unmatched


class Targets(NamedTuple):
    """What the loss compares the network's outputs with."""

    labels: torch.Tensor  # (B, P) int64: 0 background, 1.. classes, IGNORED
    loc: torch.Tensor  # (B, P, 4) float32 encoded boxes; about 0 where not positive, always finite


@torch.no_grad()
def make_targets(boxes: torch.Tensor, labels: torch.Tensor, difficult: torch.Tensor,
                 coder: BoxCoder, *, match_iou: float, train_on_difficult: bool = True) -> Targets:
    """Match a padded batch of objects to the priors and encode it (paper section 2.2).

    Args:
        boxes: (B, G, 4) float32, xyxy in [0, 1]; rows of padding may hold anything finite.
        labels: (B, G) int64 indices into class_names, -1 for padding.
        difficult: (B, G) bool.
        coder: owns the priors.
        match_iou: priors with IoU >= this to an object are positives; the paper says > 0.5.
        train_on_difficult: False ignores the priors that match difficult objects; in Caffe they are
            background then.

    Returns:
        Targets on the device of `boxes`; labels shifted by one, background being 0.
    """
    num_images, num_objects = labels.shape
    if num_objects == 0:
        num_priors = len(coder.priors)
        return Targets(labels.new_zeros(num_images, num_priors),
                       boxes.new_zeros(num_images, num_priors, 4))
    matched = match(boxes, labels >= 0, coder.priors, match_iou)  # (B, P)
    positive, indices = matched >= 0, matched.clamp(min=0)
    target_labels = torch.where(positive, labels.gather(1, indices) + 1, 0)
    matched_boxes = boxes.gather(1, indices[..., None].expand(-1, -1, 4))  # (B, P, 4)
    if not train_on_difficult:
        ignored = positive & difficult.gather(1, indices)
        target_labels = target_labels.masked_fill(ignored, IGNORED)
        positive = positive & ~ignored
    # The log() of a padding box is not finite; the prior itself takes its place.
    safe_boxes = torch.where(positive[..., None], matched_boxes, to_xyxy(coder.priors))
    return Targets(target_labels, coder.encode(safe_boxes))


def match(boxes: torch.Tensor, valid: torch.Tensor, priors_cxcywh: torch.Tensor,
          match_iou: float) -> torch.Tensor:
    """Match every prior with one object or none (Caffe `MatchBBox`, PER_PREDICTION).

    First the greedy bipartite matching gives every object a prior of its own. Then every other
    prior takes the object with which its IoU is highest, where that is at least `match_iou`.

    `boxes` are (B, G, 4) xyxy, G >= 1, `valid` (B, G) bool, False for padding, `priors_cxcywh`
    (P, 4) in the unit of the boxes. Returns the (B, P) int64 index of the object, -1 for none.
    """
    iou = pairwise_iou(boxes, to_xyxy(priors_cxcywh))  # (B, G, P)
    iou = iou.masked_fill(~valid[..., None], -1)
    best_iou, best_object = iou.max(1)  # (B, P)
    matched = torch.where(best_iou >= match_iou, best_object, -1)
    forced = bipartite_match(iou)
    return torch.where(forced >= 0, forced, matched)


def bipartite_match(iou: torch.Tensor) -> torch.Tensor:
    """Match each object with one prior greedily: the pair with the highest IoU first.

    The plain loop takes one pair a round, G rounds. A pair in which each is the other's best stays
    so until the loop reaches it, so here a round takes all such pairs of a batch at once; two to
    five rounds do. Ties go to the lower object, then to the lower prior.

    `iou` is (B, G, P), the rows of padding hold -1. Returns the (B, P) int64 index of the object
    matched with each prior, -1 for none.
    """
    num_images, num_objects, num_priors = iou.shape
    free_iou = iou.clone()
    matched = torch.full((num_images, num_priors), -1, device=iou.device)
    objects = torch.arange(num_objects, device=iou.device)
    for _ in range(num_objects):
        best_iou, best_prior = free_iou.max(2)  # (B, G)
        # The IoUs of all objects with each object's best prior: (B, objects, best priors).
        rivals = free_iou.gather(2, best_prior[:, None].expand(-1, num_objects, -1))
        mutual = (rivals.argmax(1) == objects) & (best_iou > MIN_FORCED_IOU)
        images, winners = mutual.nonzero(as_tuple=True)
        if len(images) == 0:
            break
        priors = best_prior[images, winners]
        matched[images, priors] = winners
        free_iou[images, winners] = -1
        free_iou[images, :, priors] = -1
    return matched
