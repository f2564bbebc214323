"""torchvision's non-maximum suppression, without the rest of torchvision.

Importing torchvision takes a second, longer than detecting the objects of an image: it brings data
sets, video and PyTorch's compiler along. Its operators lie in a library of their own beside it.
"""

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou: float) -> torch.Tensor:
    """Return the indices that remain of (N, 4) xyxy boxes with (N,) scores, best first.

    Of two boxes with IoU above `iou` the one with the lower score goes; of equal scores the later.
    """
    return _operator()(boxes, scores, iou)


@functools.cache
def _operator() -> Callable:
    """Return the operator; where its library cannot be loaded alone, torchvision brings it."""
    if "torchvision" not in sys.modules:
        folder = Path(importlib.util.find_spec("torchvision").origin).parent
        for file in (*folder.glob("_C*.so"), *folder.glob("_C*.pyd")):
            with contextlib.suppress(OSError):
                torch.ops.load_library(str(file))
    if not hasattr(torch.ops.torchvision, "nms"):
        importlib.import_module("torchvision")
    return torch.ops.torchvision.nms
