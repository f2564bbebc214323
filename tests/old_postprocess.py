"""Decoding and suppression class by class, as the project did it first: an oracle for tests."""

import torch
import torchvision

from utils.multibox.boxes import decode
from utils.multibox.postprocess import Kept


@torch.no_grad()
def postprocess(loc, conf, priors_cxcywh, spec, *, confidence, nms_iou, max_per_class=400,
                max_per_image=200):
    """Decode, threshold and suppress (paper section 3.1, Caffe `DetectionOutput`), in float32.

    Args:
        loc: (B, P, 4) float tensor, raw offsets.
        conf: (B, P, C) float tensor, raw class scores, background first.
        priors_cxcywh: (P, 4) float32.
        spec: SSDSpec, for the variances, the clamp and the clip rule.
        confidence: softmax scores must be above this.
        nms_iou: of two boxes of one class with IoU above this, the lower score goes.
        max_per_class: candidates of each class that enter the suppression, best first; 0: all.
        max_per_image: detections kept of an image, best first; 0 keeps all.

    Returns:
        list of B Kept; labels start at 0 with the first class that is not background.
    """
    scores = conf.float().softmax(-1)[..., 1:]  # (B, P, C - 1)
    boxes = decode(loc.float(), priors_cxcywh, spec.variances, spec.log_size_clamp)
    if spec.box_clip == "before_nms":
        boxes = boxes.clamp(0, 1)
    found = []
    for image_boxes, image_scores in zip(boxes, scores):
        kept = suppress(image_boxes, image_scores, confidence, nms_iou, max_per_class)
        order = kept.scores.argsort(descending=True, stable=True)[:max_per_image or None]
        kept = Kept(*(part[order] for part in kept))
        if spec.box_clip == "after_nms":
            kept = kept._replace(boxes=kept.boxes.clamp(0, 1))
        found.append(kept)
    return found


def suppress(boxes, scores, confidence, nms_iou, max_per_class):
    """Suppress non-maxima of each class in one image; the rest as in `postprocess`.

    From (P, 4) xyxy boxes and (P, K) scores, K classes without background, come Kept
    grouped by class, not yet sorted across classes.
    """
    parts = [(boxes[:0], scores[:0].amax(1), scores[:0].argmax(1))]
    # Most classes have no candidate: asking for all maxima at once skips them cheaply.
    for label in (scores.amax(0) > confidence).nonzero()[:, 0].tolist():
        candidates = (scores[:, label] > confidence).nonzero()[:, 0]
        order = scores[candidates, label].argsort(descending=True, stable=True)
        candidates = candidates[order[:max_per_class or None]]
        keep = torchvision.ops.nms(boxes[candidates], scores[candidates, label], nms_iou)
        kept = candidates[keep]
        parts.append((boxes[kept], scores[kept, label], torch.full_like(kept, label)))
    return Kept(*(torch.cat(part) for part in zip(*parts)))
