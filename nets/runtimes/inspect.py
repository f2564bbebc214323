"""Looks into a network: its layers, where it scores, how long it takes."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from nets.runtimes.onnx import OnnxRuntime
from nets.runtimes.torch import TorchRuntime
from nets.ssd import SSDNet
from utils.cli import UserError
from utils.device import evaluating
from utils.image import input_rect, resize_to_input
from utils.multibox.postprocess import Thresholds, select
from utils.tiling import sample_inputs

FPS_IMAGES = 32  # for each batch size
Runtime = TorchRuntime | OnnxRuntime


def summarise(network: SSDNet) -> str:
    """Return a table of layers; FLOPs are multiplications and additions of convolutions alone."""
    from torch.utils.flop_counter import FlopCounterMode  # takes a second to import

    def add_line(module, _, output):
        flops = counter.get_flop_counts().get(f"{type(network).__name__}.{names[module]}", {})
        parameters = sum(map(torch.numel, module.parameters()))
        lines.append(f"{names[module]:<34}{type(module).__name__:<14}{str(tuple(output.shape)):<22}"
                     f"{parameters:>12,}{sum(flops.values()) / 1e6:>12,.1f}")

    lines = [f"{'layer':<34}{'kind':<14}{'output':<22}{'parameters':>12}{'MFLOPs':>12}"]
    names = {module: name for name, module in network.named_modules() if not [*module.children()]}
    hooks = [module.register_forward_hook(add_line) for module in names]
    size, priors, counter = network.spec.size, network.coder.priors, FlopCounterMode(display=False)
    with evaluating(network), torch.no_grad(), counter:
        network(torch.zeros(1, 3, size, size, device=priors.device))
    for hook in hooks:
        hook.remove()
    return "\n".join([*lines, f"{len(lines) - 1} layers, "
                      f"{sum(map(torch.numel, network.parameters())):,} parameters, "
                      f"{counter.get_total_flops() / 1e9:.2f} GFLOPs for {size}x{size} pixels, "
                      f"{len(priors):,} priors"])


def heat_map(runtime: Runtime, image: np.ndarray) -> np.ndarray:
    """Return (K, h, w) float32: the best score of each class around each point of an image.

    `image` is (H, W, 3) uint8 RGB; h and w are its sides in the network input. Of each cell the
    best prior counts. Raises UserError for weights with a tile.
    """
    spec, maps = runtime.spec, []
    if spec.tile:
        raise UserError(f"heat maps are of whole images, the weights have tile = {spec.tile}.")
    scores = runtime(resize_to_input(image, spec)[None])[1][0].cpu()  # (P, K)
    counts = [grid * grid * count for grid, count in zip(spec.grids, spec.priors_per_cell)]
    for grid, part in zip(spec.grids, scores.split(counts)):
        cells = part.reshape(grid, grid, -1, scores.shape[1]).amax(2).permute(2, 0, 1)
        maps.append(F.interpolate(cells[None], (spec.size, spec.size), mode="bilinear")[0])
    x0, y0, x1, y1 = input_rect(image.shape[1], image.shape[0], spec)
    return torch.stack(maps).amax(0)[:, y0:y1, x0:x1].numpy()


def measure_speed(runtime: Runtime, path: Path, batch_sizes: Sequence[int],
                  thresholds: Thresholds) -> str:
    """Return a table of the time of each stage, by batch size, for one image or tile many times."""
    lines = [f"{runtime.name}, {runtime.precision}, {runtime.device}, "
             f"{torch.get_num_threads()} threads; ms: median / 95th percentile",
             f"{'batch':>6}  {'load':>14}  {'network':>14}  {'NMS':>14}  {'all':>14}  images/s"]
    for size in batch_sizes:
        stages = [_time_stages(runtime, [(path, ())] * size, thresholds)
                  for _ in range(1 + max(3, FPS_IMAGES // size))]  # the first sets things up
        middle, high = np.percentile(1000 * np.array(stages[1:]), (50, 95), axis=0)
        cells = "  ".join(f"{a:>6.1f} /{b:>6.1f}" for a, b in zip(middle, high))
        lines.append(f"{size:>6}  {cells}  {size / middle[-1] * 1000:>8.1f}")
    return "\n".join(lines)


def _time_stages(runtime, images, thresholds):
    """Return the seconds for reading, for network and decoding, for NMS, and for all of them."""
    start = time.perf_counter()
    inputs = np.stack(list(sample_inputs(images, runtime.spec)))
    read = time.perf_counter()
    boxes, scores = runtime(inputs)
    scores.sum().item()  # waits for a GPU
    computed = time.perf_counter()
    select(boxes, scores, thresholds, clip=runtime.spec.box_clip == "after_nms")
    end = time.perf_counter()
    return read - start, computed - read, end - computed, end - start
