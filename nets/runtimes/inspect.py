"""Looks into a network: its layers, where it scores, how long it takes."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from nets.runtimes.torch import Runtime, TorchRuntime
from nets.ssd import SSDNet
from utils.device import evaluating
from utils.image import as_rgb_array, input_rect, read_input, resize_to_input
from utils.multibox.postprocess import Kept, Thresholds, decode_outputs, select
from utils.tiling import cut_window, detect_windows, read_to_detect, window_grid

HEAT_SIDE = 1000  # pixels of a heat map of windows, at most


def summarise(network: SSDNet) -> str:
    """Return a table of layers: name, kind, output for one image, parameters, MFLOPs; and sums.

    A multiplication and an addition are 2 FLOPs; operators other than convolutions count none.
    """
    from torch.utils.flop_counter import FlopCounterMode  # it brings Triton along, a second

    rows, hooks = [], []
    for name, module in network.named_modules():
        if not len(list(module.children())):
            hooks.append(module.register_forward_hook(
                lambda module, _, output, name=name: rows.append((name, module, output.shape))))
    size = network.spec.size
    counter = FlopCounterMode(display=False)
    try:
        with evaluating(network), torch.no_grad(), counter:
            network(torch.zeros(1, 3, size, size, device=network.coder.priors.device))
    finally:
        for hook in hooks:
            hook.remove()
    counts = counter.get_flop_counts()
    lines = [f"{'layer':<34}{'kind':<14}{'output':<22}{'parameters':>12}{'MFLOPs':>12}"]
    for name, module, shape in rows:
        flops = sum(counts.get(f"{type(network).__name__}.{name}", {}).values())
        lines.append(f"{name:<34}{type(module).__name__:<14}{str(tuple(shape)):<22}"
                     f"{_count(module):>12,}{flops / 1e6:>12,.1f}")
    return "\n".join([*lines, f"{len(rows)} layers, {_count(network):,} parameters, "
                      f"{counter.get_total_flops() / 1e9:.2f} GFLOPs for {size}x{size} pixels, "
                      f"{len(network.coder.priors):,} priors"])


def _count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def heat_map(runtime: Runtime, image: np.ndarray) -> np.ndarray:
    """Return (K, h, w) float32: the best score of each class around each place of an image.

    `image` is (H, W, 3) uint8 RGB; h and w are its sides in the network input. Where windows are
    looked at, the map is put together of theirs, with sides of at most HEAT_SIDE. In every cell of
    a feature map the best prior counts; of all maps, and of windows that overlap, the best.
    """
    spec = runtime.spec
    if spec.tile:
        return _heat_of_windows(runtime, as_rgb_array(image))
    array, (width, height) = read_input(image, spec)
    x0, y0, x1, y1 = input_rect(width, height, spec)
    return _heat_of_input(runtime, array)[:, y0:y1, x0:x1].numpy()


def _heat_of_windows(runtime, image):
    """Return the map of an image that is looked at window by window."""
    spec, (height, width) = runtime.spec, image.shape[:2]
    scale = min(spec.size / spec.tile, HEAT_SIDE / max(width, height))
    heat = np.zeros((len(runtime.class_names), max(1, round(height * scale)),
                     max(1, round(width * scale))), np.float32)
    side = max(1, round(spec.tile * scale))
    for window in window_grid(width, height, spec.tile)[0]:
        seen = _heat_of_input(runtime, resize_to_input(cut_window(image, window, spec), spec))
        seen = F.interpolate(seen[None], (side, side), mode="area")[0].numpy()
        x0, y0 = np.rint(window[:2] * scale).astype(int)
        place = heat[:, y0:y0 + side, x0:x0 + side]
        np.maximum(place, seen[:, :place.shape[1], :place.shape[2]], out=place)
    return heat


def _heat_of_input(runtime, array):
    """Return (K, S, S), the best score of each class around each place of a network input."""
    spec, start, maps = runtime.spec, 0, []
    scores = runtime(array[None])[1][0].cpu()  # (P, K)
    for grid, count in zip(spec.grids, spec.priors_per_cell):
        end = start + grid * grid * count
        cells = scores[start:end].reshape(grid, grid, count, -1).amax(2).permute(2, 0, 1)
        maps.append(F.interpolate(cells[None], (spec.size, spec.size), mode="bilinear")[0])
        start = end
    return torch.stack(maps).amax(0)


def measure_speed(runtime: Runtime, path: Path, batch_sizes: Sequence[int], *, seconds: float,
                  **thresholds: float) -> str:
    """Return a table of the time that each stage takes: median and 95th percentile by batch size.

    Args:
        path: an image file; a batch is as many times the same one. Where windows are looked at,
            all of them are; "load" then has their cutting out and merging in it.
        seconds: for each batch size, a first pass that is not counted apart.
        thresholds: keywords of `select`.
    """
    lines = [f"{'batch':>6}  {'load':>14}  {'network':>14}  {'decode + NMS':>14}  "
             f"{'all':>14}  images/s   (ms: median / 95th percentile)"]
    for size in batch_sizes:
        times, end = [], None
        while end is None or time.perf_counter() < end or len(times) < 3:
            stages = _time_stages(runtime, [path] * size, thresholds)
            if end is None:  # the first one sets things up
                end = time.perf_counter() + seconds
            else:
                times.append([*stages, sum(stages)])
        middle, high = np.percentile(np.array(times) * 1000, (50, 95), axis=0)
        cells = "  ".join(f"{a:>6.1f} /{b:>6.1f}" for a, b in zip(middle, high))
        lines.append(f"{size:>6}  {cells}  {size / middle[-1] * 1000:>8.1f}")
    return "\n".join(lines)


def _time_stages(runtime, paths, thresholds):
    """Return the seconds that reading, the network, and decoding with NMS took."""
    spec, spent, start = runtime.spec, np.zeros(2), time.perf_counter()

    def look(inputs, limits):
        nonlocal spent
        marks = [time.perf_counter()]
        is_torch = isinstance(runtime, TorchRuntime)  # an exported file may decode by itself
        outputs = (runtime.raw if is_torch else runtime)(np.stack(inputs))
        if runtime.device.type == "cuda":
            torch.cuda.synchronize(runtime.device)
        elif runtime.device.type == "mps":
            torch.mps.synchronize()
        marks.append(time.perf_counter())
        if is_torch:
            outputs = decode_outputs(*outputs, runtime.network.coder)
        found = select(*outputs, Thresholds(**limits), clip=spec.box_clip == "after_nms")
        spent += np.diff([*marks, time.perf_counter()])
        return [Kept(*(part.numpy() for part in kept)) for kept in found]

    inputs = [read_to_detect(path, spec)[0] for path in paths]
    if spec.tile:
        detect_windows(inputs, spec, look, thresholds)
    else:
        look(inputs, thresholds)
    return [time.perf_counter() - start - spent.sum(), *spent]
