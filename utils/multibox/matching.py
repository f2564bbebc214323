"""Ground truth to training targets: which priors are matched with which object."""

from typing import NamedTuple

import torch

from utils.multibox.boxes import encode, pairwise_iou, to_xyxy

IGNORED = -1  # label of a prior that is neither positive nor a candidate negative
MIN_FORCED_IOU = 1e-6  # an object that touches no free prior more than this gets none by force


class Targets(NamedTuple):
    """What the loss compares the network's outputs with."""

    labels: torch.Tensor  # (B, P) int64: 0 background, 1.. classes, IGNORED
    loc: torch.Tensor  # (B, P, 4) float32 encoded boxes; of positive priors only


@torch.no_grad()
def make_targets(boxes: torch.Tensor, labels: torch.Tensor, difficult: torch.Tensor,
                 priors_cxcywh: torch.Tensor, *, iou_threshold: float,
                 variances: tuple[float, float], train_on_difficult: bool = True) -> Targets:
    """Match a padded batch of objects to the priors and encode it (paper section 2.2).

    Args:
        boxes: (B, G, 4) float32, xyxy in [0, 1]; rows of padding may hold anything finite.
        labels: (B, G) int64 indices into class_names, -1 for padding.
        difficult: (B, G) bool.
        priors_cxcywh: (P, 4) float32.
        iou_threshold: priors with IoU >= this to an object are positives, 0.5 in SSD.
        variances: of the box coder.
        train_on_difficult: False ignores the priors that match difficult objects.

    Returns:
        Targets on the device of `boxes`; labels shifted by one, background being 0.
    """
    batch, num_objects = labels.shape
    num_priors = len(priors_cxcywh)
    if num_objects == 0:
        return Targets(labels.new_zeros(batch, num_priors), boxes.new_zeros(batch, num_priors, 4))
    matched = match(boxes, labels >= 0, priors_cxcywh, iou_threshold)  # (B, P)
    positive, index = matched >= 0, matched.clamp(min=0)
    target_labels = torch.where(positive, labels.gather(1, index) + 1, 0)
    matched_boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))  # (B, P, 4)
    if not train_on_difficult:
        ignored = positive & difficult.gather(1, index)
        target_labels = target_labels.masked_fill(ignored, IGNORED)
        positive = positive & ~ignored
    # log() of a padding box is not finite; such rows are replaced before they are encoded.
    safe_boxes = torch.where(positive[..., None], matched_boxes, to_xyxy(priors_cxcywh))
    return Targets(target_labels, encode(safe_boxes, priors_cxcywh, variances))


def match(boxes: torch.Tensor, valid: torch.Tensor, priors_cxcywh: torch.Tensor,
          iou_threshold: float) -> torch.Tensor:
    """Match every prior with an object, or none (Caffe `MatchBBox`, PER_PREDICTION).

    First greedy bipartite: the pair with the highest IoU is bound and removed, and so on, so that
    every object gets a prior of its own. Then every other prior takes its best object where their
    IoU is at least `iou_threshold`.

    `boxes` is (B, G, 4), G >= 1, and `valid` (B, G), False for padding. Returns the (B, P) int64
    index of the object, -1 for none.
    """
    iou = pairwise_iou(boxes, to_xyxy(priors_cxcywh))  # (B, G, P)
    iou = iou.masked_fill(~valid[..., None], -1)
    best_iou, best_object = iou.max(1)  # (B, P)
    matched = torch.where(best_iou >= iou_threshold, best_object, -1)
    forced = bipartite_match(iou)
    return torch.where(forced >= 0, forced, matched)


def bipartite_match(iou: torch.Tensor) -> torch.Tensor:
    """Bind each object to one prior greedily, highest IoU first, for a batch at once.

    A pair that is the best of both its object and its prior is what the greedy loop would bind at
    some point, whatever comes before, so all such pairs are bound in one round. Ties go to the
    lower object, then to the lower prior. `iou` is (B, G, P), its rows of padding hold -1. Returns
    the (B, P) int64 index of the object bound to each prior, -1 for none.
    """
    batch, num_objects, num_priors = iou.shape
    free = iou.clone()
    bound = torch.full((batch, num_priors), -1, device=iou.device)
    objects = torch.arange(num_objects, device=iou.device)
    for _ in range(num_objects):
        best_iou, best_prior = free.max(2)  # (B, G)
        rivals = free.gather(2, best_prior[:, None].expand(-1, num_objects, -1))  # (B, G, G)
        mutual = (rivals.argmax(1) == objects) & (best_iou > MIN_FORCED_IOU)
        image, winner = mutual.nonzero(as_tuple=True)
        if len(image) == 0:
            break
        prior = best_prior[image, winner]
        bound[image, prior] = winner
        free[image, winner] = -1
        free[image, :, prior] = -1
    return bound
