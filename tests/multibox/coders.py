"""A box coder with priors of one's own."""

import torch

from utils.multibox.coder import BoxCoder
from utils.multibox.spec import SSDSpec


def coder_for(priors_cxcywh: torch.Tensor, spec: SSDSpec = SSDSpec()) -> BoxCoder:
    coder = BoxCoder(spec)
    coder.priors = priors_cxcywh
    return coder
