"""The box coder: between boxes and the offsets from priors that the network predicts."""

import torch
from torch import nn

from utils.multibox.boxes import to_cxcywh, to_xyxy
from utils.multibox.priors import make_priors
from utils.multibox.spec import SSDSpec


class BoxCoder(nn.Module):
    """Encodes boxes as offsets from the priors of a spec, and decodes them (paper eq. 2).

    The variances that divide them are Caffe's. A module, so that its buffer `priors` (P, 4),
    float32 cxcywh as fractions of the input, moves to the device with the network that has it. It
    adds nothing to the state dict.
    """

    priors: torch.Tensor

    def __init__(self, spec: SSDSpec):
        super().__init__()
        self.register_buffer("priors", make_priors(spec), persistent=False)
        self.variances, self.log_size_clamp = spec.variances, spec.log_size_clamp
        self.clips_before_nms = spec.box_clip == "before_nms"

    def encode(self, boxes: torch.Tensor) -> torch.Tensor:
        """Return the loc targets (dx, dy, dw, dh) of one box per prior (Caffe `EncodeBBox`).

        `boxes` are (..., P, 4) float, xyxy in [0, 1], with positive width and height. The targets,
        (..., P, 4), are the centre's offset in prior sizes and the log of the size's ratio, each
        divided by its variance.
        """
        centre, size = to_cxcywh(boxes).split(2, -1)
        prior_centre, prior_size = self.priors.split(2, -1)
        offset = (centre - prior_centre) / prior_size
        log_size = torch.log(size / prior_size)
        return torch.cat([offset / self.variances[0], log_size / self.variances[1]], -1)

    def decode(self, loc: torch.Tensor) -> torch.Tensor:
        """Invert `encode`: (..., P, 4) offsets to xyxy boxes, not clipped (Caffe `DecodeBBox`).

        The log of the size's ratio is limited to `log_size_clamp`, if any. Without, exp() overflows
        at wild offsets, and its gradient is NaN: a loss on decoded boxes must first set the offsets
        of priors that are not positive to 0.
        """
        offset, log_size = loc.split(2, -1)
        prior_centre, prior_size = self.priors.split(2, -1)
        centre = offset * self.variances[0] * prior_size + prior_centre
        log_size = log_size * self.variances[1]
        if self.log_size_clamp is not None:
            log_size = log_size.clamp(max=self.log_size_clamp)
        return to_xyxy(torch.cat([centre, torch.exp(log_size) * prior_size], -1))
