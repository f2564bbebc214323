"""Looks into a network: its layers, where it scores, how long it takes."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from nets.runtimes.torch import Runtime
from nets.ssd import SSDNet
from utils.device import evaluating
from utils.image import input_rect, prepare, resize_to_input
from utils.multibox.postprocess import Thresholds, select
from utils.tiling import WINDOWS_PER_PASS, cut_window, window_grid

HEAT_SIDE = 1000  # pixels of a heat map of tiles, at most
FPS_SECONDS = 3  # for each batch size


def summarise(network: SSDNet) -> str:
    """Return a table of layers: name, kind, output for one image, parameters, MFLOPs; and sums.

    A multiplication and an addition are 2 FLOPs; operators other than convolutions count none.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes a second to import

    rows, hooks = [], []
    for name, module in network.named_modules():
        if not list(module.children()):
            hooks.append(module.register_forward_hook(
                lambda module, _, output, name=name: rows.append((name, module, output.shape))))
    size, priors = network.spec.size, network.coder.priors
    counter = FlopCounterMode(display=False)
    with evaluating(network), torch.no_grad(), counter:
        network(torch.zeros(1, 3, size, size, device=priors.device))
    for hook in hooks:
        hook.remove()
    lines = [f"{'layer':<34}{'kind':<14}{'output':<22}{'parameters':>12}{'MFLOPs':>12}"]
    for name, module, shape in rows:
        flops = sum(counter.get_flop_counts().get(f"{type(network).__name__}.{name}", {}).values())
        lines.append(f"{name:<34}{type(module).__name__:<14}{str(tuple(shape)):<22}"
                     f"{_num_parameters(module):>12,}{flops / 1e6:>12,.1f}")
    return "\n".join([*lines, f"{len(rows)} layers, {_num_parameters(network):,} parameters, "
                      f"{counter.get_total_flops() / 1e9:.2f} GFLOPs for {size}x{size} pixels, "
                      f"{len(priors):,} priors"])


def _num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def heat_map(runtime: Runtime, image: np.ndarray) -> np.ndarray:
    """Return (K, h, w) float32: the best score of each class around each point of an image.

    `image` is (H, W, 3) uint8 RGB; h and w are its sides in the network input, or at most HEAT_SIDE
    where it is tiled. In a cell of a feature map the best prior counts; of all maps and tiles the
    best.
    """
    spec, (height, width) = runtime.spec, image.shape[:2]
    if not spec.tile:
        x0, y0, x1, y1 = input_rect(width, height, spec)
        return _input_heat(runtime, resize_to_input(image, spec))[:, y0:y1, x0:x1].numpy()
    scale = min(spec.size / spec.tile, HEAT_SIDE / max(width, height))
    heat = np.zeros((len(runtime.class_names), max(1, round(height * scale)),
                     max(1, round(width * scale))), np.float32)
    side = max(1, round(spec.tile * scale))
    for tile in window_grid(width, height, spec.tile)[0]:
        tile_heat = _input_heat(runtime, resize_to_input(cut_window(image, tile, spec), spec))
        tile_heat = F.interpolate(tile_heat[None], (side, side), mode="area")[0].numpy()
        x0, y0 = np.rint(tile[:2] * scale).astype(int)
        part = heat[:, y0:y0 + side, x0:x0 + side]
        np.maximum(part, tile_heat[:, :part.shape[1], :part.shape[2]], out=part)
    return heat


def _input_heat(runtime, network_input):
    """Return (K, S, S), the best score of each class around each pixel of a network input."""
    spec, start, maps = runtime.spec, 0, []
    scores = runtime(network_input[None])[1][0].cpu()  # (P, K)
    for grid, count in zip(spec.grids, spec.priors_per_cell):
        end = start + grid * grid * count
        cells = scores[start:end].reshape(grid, grid, count, -1).amax(2).permute(2, 0, 1)
        maps.append(F.interpolate(cells[None], (spec.size, spec.size), mode="bilinear")[0])
        start = end
    return torch.stack(maps).amax(0)


def measure_speed(runtime: Runtime, path: Path, batch_sizes: Sequence[int],
                  thresholds: Thresholds) -> str:
    """Return a table of the time that each stage takes: median and 95th percentile by batch size.

    A batch is as many times the image of that file, or all of its tiles, which are not merged.
    """
    lines = [f"{runtime.name}, {runtime.precision}, {runtime.device}, "
             f"{torch.get_num_threads()} threads; ms: median / 95th percentile",
             f"{'batch':>6}  {'load':>14}  {'network':>14}  {'NMS':>14}  {'all':>14}  images/s"]
    for size in batch_sizes:
        _time_stages(runtime, [path] * size, thresholds)  # the first one sets things up
        times, end = [], time.perf_counter() + FPS_SECONDS
        while len(times) < 3 or time.perf_counter() < end:
            times.append(_time_stages(runtime, [path] * size, thresholds))
        middle, high = np.percentile(np.array(times) * 1000, (50, 95), axis=0)
        cells = "  ".join(f"{a:>6.1f} /{b:>6.1f}" for a, b in zip(middle, high))
        lines.append(f"{size:>6}  {cells}  {size / middle[-1] * 1000:>8.1f}")
    return "\n".join(lines)


def _time_stages(runtime, paths, thresholds):
    """Return the seconds for reading, for network and decoding, for NMS, and for all of them."""
    spec, marks = runtime.spec, [time.perf_counter()]
    inputs = [prepare(path, spec)[0] for path in paths]
    if spec.tile:
        inputs = [resize_to_input(cut_window(image, tile, spec), spec) for image in inputs
                  for tile in window_grid(*image.shape[1::-1], spec.tile)[0]]
    marks.append(time.perf_counter())
    step = WINDOWS_PER_PASS if spec.tile else len(inputs)
    outputs = [runtime(np.stack(inputs[k:k + step])) for k in range(0, len(inputs), step)]
    outputs[-1][1].sum().item()  # waits for a GPU
    marks.append(time.perf_counter())
    for boxes, scores in outputs:
        select(boxes, scores, thresholds, clip=spec.box_clip == "after_nms")
    marks.append(time.perf_counter())
    return [*np.diff(marks), marks[-1] - marks[0]]
