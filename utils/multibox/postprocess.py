"""Raw network outputs to detections."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch

from utils.multibox.coder import BoxCoder
from utils.multibox.nms import nms

NmsRule = Literal["class", "agnostic"]  # NMS within each class (the paper), or across all
CANDIDATES_PER_KEPT = 4  # priors whose candidates are tried first, for each detection to keep


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What counts as a detection. The defaults are the paper's (section 3.7) and Caffe's."""

    confidence: float = 0.01  # scores must be above this
    nms_iou: float = 0.45  # of two boxes with IoU above this, the one with the lower score goes
    max_per_class: int = 400  # that enter NMS (not: that are kept), Caffe's `top_k`; 0: all
    max_per_image: int = 200  # detections kept per image; 0: all
    nms: NmsRule = "class"
    classes: tuple[int, ...] = ()  # class indices to look for; (): all

    def __post_init__(self):
        for name in ("confidence", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        for name in ("max_per_class", "max_per_image"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.nms not in get_args(NmsRule):
            raise ValueError(f"nms must be one of {get_args(NmsRule)}, got {self.nms!r}")


class Kept(NamedTuple):
    """What is kept of one image's outputs, highest score first, on the CPU."""

    boxes: torch.Tensor  # (N, 4) float32 xyxy, fractions of the network input
    scores: torch.Tensor  # (N,) float32 in (0, 1]
    labels: torch.Tensor  # (N,) int64 index into class_names


def decode_outputs(loc: torch.Tensor, conf: torch.Tensor, coder: BoxCoder
                   ) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode raw loc (B, P, 4) and conf (B, P, C), in float32; the exported graph contains this.

    Returns boxes (B, P, 4) xyxy in fractions of the input, clipped where the spec clips before NMS,
    and softmax scores (B, P, K) of the K = C - 1 classes without background.
    """
    boxes = coder.decode(loc.float())
    if coder.clips_before_nms:
        boxes = boxes.clamp(0, 1)
    return boxes, conf.float().softmax(-1)[..., 1:]


@torch.no_grad()
def select(boxes: torch.Tensor, scores: torch.Tensor, thresholds: Thresholds, *, clip: bool
           ) -> list[Kept]:
    """Threshold and suppress the outputs of `decode_outputs` (section 3.7, `DetectionOutput`).

    `clip` limits the boxes that are kept to the input; a spec with box_clip "after_nms" does.
    Returns one Kept per image. Equal scores come by class, then by prior.
    """
    if thresholds.classes:
        wanted = torch.zeros_like(scores[0, 0])
        wanted[list(thresholds.classes)] = 1
        scores = scores * wanted
    # The best candidates first, for speed alone. Only better boxes suppress a box: where
    # max_per_image of the best survive, NMS of all candidates would give the same.
    examined = CANDIDATES_PER_KEPT * thresholds.max_per_image
    if examined >= scores.shape[1]:
        examined = 0
    results = []
    for k, best in enumerate(_candidates(boxes, scores, _limits(scores, thresholds, examined))):
        kept = _suppress(*best, thresholds)
        # With fewer candidates than `examined`, the confidence left out the rest: these were all.
        if 0 < examined <= len(best[0]) and len(kept.scores) < thresholds.max_per_image:
            image = boxes[k:k + 1], scores[k:k + 1]
            kept = _suppress(*_candidates(*image, _limits(image[1], thresholds))[0], thresholds)
        results.append(kept._replace(boxes=kept.boxes.clamp(0, 1)) if clip else kept)
    return results


def _limits(scores, thresholds, examined=0):
    """Return what the scores of candidates have to reach, as (B or 1, 1, K or 1).

    That is the score of an image's prior number `examined`, best first; with 0, of a class's prior
    number max_per_class.
    """
    above = torch.nextafter(torch.tensor(thresholds.confidence), torch.tensor(torch.inf)).item()
    if examined:
        return scores.amax(2).topk(examined).values[:, -1, None, None].clamp(min=above)
    if 0 < thresholds.max_per_class < scores.shape[1]:
        return scores.topk(thresholds.max_per_class, 1).values[:, -1:].clamp(min=above)
    return scores.new_full((1, 1, 1), above)


def _candidates(boxes, scores, limits):
    """Return (boxes, scores, labels) of each image's candidates, by class, then by prior.

    They are copied to the CPU, where NMS compares boxes of one class of an image alone; a GPU would
    compare those of all. The host waits for it twice, however many images there are.
    """
    images, labels, priors = (scores >= limits).transpose(1, 2).nonzero(as_tuple=True)
    rows = torch.stack([*boxes[images, priors].unbind(1), scores[images, priors, labels], labels,
                        images], 1).cpu()  # (N, 7)
    counts = rows[:, 6].long().bincount(minlength=len(boxes)).tolist()
    return [(part[:, :4], part[:, 4], part[:, 5].long()) for part in rows.split(counts)]


def _suppress(boxes, scores, labels, thresholds):
    """Suppress non-maxima among the candidates of one image."""
    if not len(scores):
        return Kept(boxes, scores, labels)
    groups = _best_of_each_class(scores, labels, thresholds.max_per_class)
    sizes, order = [len(indices) for indices in groups], torch.cat(groups)
    if thresholds.nms == "agnostic":
        sizes = [len(order)]
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    kept, start = [], 0
    for group, group_scores in zip(boxes.split(sizes), scores.split(sizes)):
        kept.append(nms(group, group_scores, thresholds.nms_iou) + start)
        start += len(group)
    kept = torch.cat(kept).sort().values
    best_first = scores[kept].argsort(descending=True, stable=True)
    chosen = kept[best_first[:thresholds.max_per_image or None]]
    return Kept(boxes[chosen], scores[chosen], labels[chosen])


def _best_of_each_class(scores, labels, max_per_class):
    """Return the indices of each class's candidates, best first, at most `max_per_class`."""
    best_first = scores.argsort(descending=True, stable=True)
    by_class = best_first[labels[best_first].argsort(stable=True)]
    counts = labels.bincount().tolist()
    return [indices[:max_per_class or None] for indices in by_class.split(counts) if len(indices)]
