"""On a GPU: a training step and a pass of the network in each precision, beside torchvision's.

One batch is used again and again, so that reading images does not count. benchmarks/gpu.sh runs it.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.prepare import BenchSettings
from benchmarks.step import AUGMENTATION, LEARNING_RATE
from benchmarks.timing import Row
from benchmarks.torchvision_ssd import as_torchvision, batch_as_lists, reference_loss
from nets.build import new_network
from ssd import SSD
from train import train_step
from utils.data.annotations import read_list
from utils.data.loader import DetectionDataset, collate
from utils.device import run_in, set_precision
from utils.multibox.coder import BoxCoder
from utils.multibox.loss import MultiBoxLoss
from utils.training.optim import make_optimizer, set_learning_rate

TRAINING_BATCH, BATCHES = 32, (1, 8, 32)
WAITS = ("Synchronize", "cudaMemcpy")  # names of CUDA's calls; a cudaMemcpyAsync waits for none


def measure(settings: BenchSettings) -> list[Row]:
    """Time training steps, then inference, by precision."""
    records, names = read_list(f"{settings.data}/2007_train.txt")
    network = new_network("vgg", 300, len(names), backbone_weights="")
    criterion = MultiBoxLoss(BoxCoder(network.spec))
    dataset = DetectionDataset(records, network.spec, AUGMENTATION, seed=0)
    batch = collate([dataset[0, k] for k in range(TRAINING_BATCH)], criterion.make_targets)
    batch = batch._replace(images=batch.images.pin_memory())
    return [*training_rows(network, criterion, batch), *inference_rows(settings)]


def training_rows(network, criterion, batch) -> list[Row]:
    """Return the seconds an image of a step, its peak memory, and print its waits for the GPU."""
    device, rows = torch.device("cuda"), []
    reference = as_torchvision(network, same_priors=True).to(device)
    images, targets = batch_as_lists(batch)
    network.to(device, memory_format=torch.channels_last)
    optimizers = [make_optimizer(network, name="adamw", momentum=0.9, weight_decay=5e-4),
                  torch.optim.SGD(reference.parameters(), LEARNING_RATE, 0.9, weight_decay=5e-4)]
    set_learning_rate(optimizers[0], LEARNING_RATE)
    for way in ("fp32", "TF32", "fp16", "bf16"):
        precision = set_precision(way.lower().replace("tf", "fp"), device, tf32=way == "TF32")
        scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")

        def project():
            train_step(network.train(), criterion, optimizers[0], [batch], scaler=scaler,
                       precision=precision, clip_grad_norm=10.0)

        def torchvision():
            with run_in(precision, device):
                loss = reference_loss(reference, images, targets, device)
            optimizers[1].zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizers[1])
            scaler.update()

        (seconds, memory), (other, other_memory) = time_calls(project), time_calls(torchvision)
        rows += [Row("training step, batch 32, an image", way, seconds / TRAINING_BATCH,
                     "torchvision", other / TRAINING_BATCH),
                 Row("most memory of that", way, memory, "torchvision", other_memory, "B")]
    with torch.profiler.profile() as profile:
        project()
    waits = {event.key: event.count for event in profile.key_averages()
             if any(wait in event.key for wait in WAITS)}
    print(f"calls of CUDA that may wait, in a step: {waits}")
    return rows


def inference_rows(settings) -> list[Row]:
    """Return the seconds an image from arrays to detections, by batch size."""
    image, rows = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8), []
    for size in BATCHES:
        seconds = {}
        for precision in ("fp32", "fp16", "auto"):
            detector = SSD(settings.model_path, device="cuda", precision=precision)
            seconds[precision] = time_calls(lambda: detector.detect_batch([image] * size))[0]
        first = seconds.pop("fp32")
        rows += [Row(f"arrays to boxes, batch {size}, an image", name, value / size, "fp32 (TF32)",
                     first / size) for name, value in seconds.items()]
    return rows


def time_calls(call: Callable, count: int = 20) -> tuple[float, float]:
    """Return (seconds of a call, most bytes on the GPU) of calls that follow one another."""
    for _ in range(5):
        call()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count, float(torch.cuda.max_memory_allocated())
