"""Raw network outputs to detections."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch

from utils.multibox.boxes import decode, pairwise_iou
from utils.cli import UserError, check_value
from utils.multibox.nms import nms as nms_of
from utils.multibox.spec import SSDSpec

MAX_PER_CLASS, MAX_PER_IMAGE = 400, 200  # the paper's
# What suppresses what: a box others of its class, or of any class; or it takes a share of the
# scores of its class, which may then be too low (soft-NMS, Bodla et al. 2017, linear).
NmsRule = Literal["class", "agnostic", "soft"]
# Lowest and highest value of each threshold.
THRESHOLDS = {"confidence": (0, 1), "nms_iou": (0, 1), "max_per_class": (0, math.inf),
              "max_per_image": (0, math.inf)}
EXAMINED = 4  # candidates looked at first for each detection that may be kept


class Kept(NamedTuple):
    """What is kept of one image's outputs, highest score first; `Detections` are made of it."""

    boxes: torch.Tensor  # (N, 4) float32 xyxy, fractions of the network input
    scores: torch.Tensor  # (N,) float32 in (0, 1)
    labels: torch.Tensor  # (N,) int64 index into class_names


def check_thresholds(values: Mapping[str, Any]) -> None:
    """Raise UserError for a keyword of `select` that has another type, or is out of range."""
    for name, value in values.items():
        if name in THRESHOLDS:
            check_value(name, value, int if "max" in name else float, THRESHOLDS[name])
        elif name == "nms" and value not in get_args(NmsRule):
            raise UserError(f"nms must be one of {', '.join(get_args(NmsRule))}, got {value!r}.")


def decode_scores(loc: torch.Tensor, conf: torch.Tensor, priors_cxcywh: torch.Tensor,
                  spec: SSDSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode offsets and class scores, in float32; the exported graph has this in it.

    Args:
        loc: (B, P, 4) float, raw offsets.
        conf: (B, P, C) float, raw class scores, background first.
        priors_cxcywh: (P, 4) float32.
        spec: for the variances, the clamp and the clip rule.

    Returns:
        boxes (B, P, 4) xyxy in fractions of the input, clipped where the spec clips before NMS,
        and softmax scores (B, P, K) of the K = C - 1 classes without background.
    """
    boxes = decode(loc.float(), priors_cxcywh, spec.variances, spec.log_size_clamp)
    if spec.box_clip == "before_nms":
        boxes = boxes.clamp(0, 1)
    return boxes, conf.float().softmax(-1)[..., 1:]


@torch.no_grad()
def select(boxes: torch.Tensor, scores: torch.Tensor, spec: SSDSpec, *, confidence: float,
           nms_iou: float, max_per_class: int = MAX_PER_CLASS, max_per_image: int = MAX_PER_IMAGE,
           nms: NmsRule = "class", classes: Sequence[int] = ()) -> list[Kept]:
    """Threshold and suppress (paper section 3.1, Caffe `DetectionOutput`).

    Args:
        boxes, scores: (B, P, 4) and (B, P, K) of `decode_scores`, on any device.
        spec: for the clip rule.
        confidence: scores must be above this.
        nms_iou: of two boxes of one class with IoU above this, the lower score goes.
        max_per_class: candidates of each class that enter the suppression, best first; 0: all.
        max_per_image: detections kept of an image, best first; 0 keeps all.
        nms: the rule; "soft" changes scores.
        classes: those to look for, before anything is suppressed; (): all.

    Returns:
        list of B Kept on the CPU. Equal scores come by class, then by prior.
    """
    found = []
    if classes:
        wanted = torch.zeros_like(scores[0, 0])
        wanted[list(classes)] = 1
        scores = scores * wanted
    for image_boxes, image_scores in zip(boxes, scores):
        limits = max_per_class, max_per_image
        if nms == "class":
            kept = _select(image_boxes, image_scores, confidence, nms_iou, limits)
        else:
            kept = _suppress_otherwise(image_boxes, image_scores, confidence, nms_iou,
                                       (*limits, nms))
        if spec.box_clip == "after_nms":
            kept = kept._replace(boxes=kept.boxes.clamp(0, 1))
        found.append(kept)
    return found


def _select(boxes, scores, confidence, nms_iou, limits):
    """Select from one image's (P, 4) boxes and (P, K) scores.

    What a detection suppresses scores less. So where the best candidates leave as many as may be
    kept, the others need not be looked at.
    """
    max_per_class, max_per_image = limits
    above = scores > confidence
    number = EXAMINED * max_per_image
    if 0 < number < len(scores):
        # At least this many scores are not below that of the last of as many priors.
        least = scores.amax(1).topk(number).values[-1]
        if least > confidence:
            kept = suppress(boxes, scores, scores >= least, nms_iou, limits)
            if len(kept.scores) == max_per_image:
                return kept
    if 0 < max_per_class < len(scores):
        above &= scores >= scores.topk(max_per_class, 0).values[-1]
    return suppress(boxes, scores, above, nms_iou, limits)


def suppress(boxes, scores, mask, nms_iou, limits):
    """Suppress non-maxima of each class among the candidates that a (P, K) mask tells."""
    max_per_class, max_per_image = limits
    labels, priors = mask.t().nonzero(as_tuple=True)
    scores, boxes, labels = (part.cpu() for part in (scores[priors, labels], boxes[priors], labels))
    ranked = scores.argsort(descending=True, stable=True)  # best first; then by class and prior
    grouped = labels[ranked].argsort(stable=True)  # by class, best first: places in `ranked`
    order = ranked[grouped]
    counts, kept = labels.bincount().tolist(), [grouped[:0]]
    own = [part.split(counts) for part in (boxes[order], scores[order], grouped)]
    for class_boxes, class_scores, places in zip(*own):
        best = slice(max_per_class or None)
        if len(places):
            kept.append(places[nms_of(class_boxes[best], class_scores[best], nms_iou)])
    chosen = ranked[torch.cat(kept).sort().values[:max_per_image or None]]
    return Kept(boxes[chosen], scores[chosen], labels[chosen])


def _suppress_otherwise(boxes, scores, confidence, nms_iou, limits):
    """Select from one image's boxes and scores by another rule than "class"."""
    max_per_class, max_per_image, nms = limits
    above = scores > confidence
    if 0 < max_per_class < len(scores):
        above &= scores >= scores.topk(max_per_class, 0).values[-1]
    labels, priors = above.t().nonzero(as_tuple=True)
    boxes, scores, labels = (x.cpu() for x in (boxes[priors], scores[priors, labels], labels))
    if nms == "agnostic":
        chosen = nms_of(boxes, scores, nms_iou)
    else:
        scores = scores.clone()
        for label in labels.unique():
            own = labels == label
            scores[own] = _soften(boxes[own], scores[own], confidence, nms_iou)
        chosen = scores.argsort(descending=True, stable=True)
        chosen = chosen[scores[chosen] > confidence]
    chosen = chosen[:max_per_image or None]
    return Kept(boxes[chosen], scores[chosen], labels[chosen])


def _soften(boxes, scores, confidence, nms_iou):
    """Return the scores of one class by soft-NMS; 0 for what falls to `confidence`."""
    iou, left, final = pairwise_iou(boxes, boxes), scores.clone(), torch.zeros_like(scores)
    while left.max() > confidence:
        best = int(left.argmax())
        final[best], left[best] = left[best], 0
        left *= torch.where(iou[best] > nms_iou, 1 - iou[best], 1)
    return final
