"""The scale of new layers, set on images of the task before the first step.

Xavier weights keep a deviation of 1, but the ImageNet layers in front of them do not end at 1:
behind Caffe's VGG16 fc6 answers ten times too strongly, and the first epochs are spent on undoing
that. As in "All you need is a good init" (Mishkin and Matas, 2016, arXiv 1511.06422, section 3),
each layer is measured and scaled, one after the other.
"""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nets.ssd import SSDNet
from utils.image import stack_inputs
from utils.tiling import sample_inputs

NUM_IMAGES = 12
# Deviation of a layer's output over the images: 1 keeps the signal; the heads begin with classes
# nearly as likely as each other and boxes near their priors.
LAYER_DEVIATION, HEAD_DEVIATION = 1.0, 0.3


def scale_new_layers(network: SSDNet, images: Sequence[tuple[str | Path, np.ndarray]],
                     filled: Collection[str]) -> str:
    """Scale the weights that still are random so that their outputs have the wanted deviation.

    Takes up to NUM_IMAGES of the images, spread over the list, or windows of them, as
    `sample_inputs`. Layers without bias are left alone: batch norm behind them sets their scale.
    `filled` names the tensors of the network that were read from a file. Changes only weights.
    Returns a line for the user; raises UserError for an image that cannot be read.
    """
    step = max(1, len(images) // NUM_IMAGES)
    images = list(sample_inputs(images[::step][:NUM_IMAGES], network.spec))
    # Batch norm takes no image alone.
    batch = stack_inputs(images * 2 if len(images) == 1 else images)
    new = [(name, module) for name, module in network.named_modules()
           if isinstance(module, nn.Conv2d) and module.bias is not None
           and f"{name}.weight" not in filled]
    factors = _scale_in_one_pass(network, batch, new)
    count = f"{len(images)} image{'s' * (len(images) > 1)}"
    return (f"start: {len(factors)} new layers scaled on {count}, by "
            f"{min(factors):.2g} to {max(factors):.2g}")


@torch.no_grad()
def _scale_in_one_pass(network, batch, new):
    """Scale (name, layer) pairs while a batch passes through; return the factors."""
    factors = []

    def scale(deviation, layer, inputs, output):
        bias = layer.bias[:, None, None]
        found = float(output.std())
        # Black images, or layers that are dead to these, tell nothing about the scale.
        factor = deviation / found if found > 1e-6 else 1.0
        factors.append(factor)
        layer.weight.mul_(factor)
        return (output - bias) * factor + bias  # what the layer answers now, for those behind it

    hooks = [layer.register_forward_hook(partial(
        scale, HEAD_DEVIATION if name.startswith(("loc.", "conf.")) else LAYER_DEVIATION))
        for name, layer in new]
    statistics = [value.clone() for value in network.buffers()]
    modes = [module.training for module in network.modules()]
    try:
        network.train()(batch)  # batch norm as in the first step
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in zip(network.modules(), modes):
            module.training = mode
        for value, before in zip(network.buffers(), statistics):
            value.copy_(before)
    return factors
