"""The scale of new layers, set on images of the task before the first step.

Behind Caffe's VGG16 the output of fc6 with Xavier weights is ten times too large, and the first
epochs are spent on undoing that. As in "All you need is a good init" (Mishkin and Matas, 2015,
arXiv 1511.06422, section 3), each layer is measured and scaled, one after the other.
"""

import copy
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nets.ssd import SSDNet
from utils.tiling import sample_inputs

NUM_IMAGES = 12
# Standard deviation of a layer's output over the images: 1 keeps the signal. The heads begin with
# almost equal scores of the classes and with boxes near their priors.
LAYER_STD, HEAD_STD = 1.0, 0.3


@torch.no_grad()
def scale_new_layers(network: SSDNet, images: Sequence[tuple[str | Path, np.ndarray]],
                     filled: Collection[str]) -> dict[str, float]:
    """Scale layers that are still random to the wanted standard deviation of their output.

    `images` are (path, (G, 4) boxes in pixels), of which NUM_IMAGES are used; `filled` names the
    tensors that were read from a file. Layers without bias are left alone: the batch norm behind
    them sets their scale. Returns {name of the layer: factor}. Raises UserError for an image that
    cannot be read.
    """
    step = max(1, len(images) // NUM_IMAGES)
    inputs = list(sample_inputs(images[::step][:NUM_IMAGES], network.spec))
    factors, measured = {}, copy.deepcopy(network)

    def measure(layer, layer_inputs, output):
        name = names[layer]
        wanted = HEAD_STD if name.startswith(("loc.", "conf.")) else LAYER_STD
        std = float(output.std())
        factors[name] = wanted / std if std > 1e-6 else 1.0  # black images tell nothing
        bias = layer.bias[:, None, None]
        return (output - bias) * factors[name] + bias  # what the layers behind it will see

    names = {layer: name for name, layer in measured.named_modules()
             if isinstance(layer, nn.Conv2d) and layer.bias is not None
             and f"{name}.weight" not in filled}
    for layer in names:
        layer.register_forward_hook(measure)
    batch = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)
    measured.train()(batch)  # batch norm as in the first step
    for name, factor in factors.items():
        network.get_submodule(name).weight.mul_(factor)
    return factors
