"""On a GPU: training steps and detection in each precision, beside torchvision's.

One batch is used again and again, so that reading images does not count. benchmarks/gpu.sh runs it.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch

from benchmarks.inference import both_ways, same_detections
from benchmarks.prepare import BenchSettings
from benchmarks.step import AUGMENTATION, LEARNING_RATE
from benchmarks.timing import Row, table
from benchmarks.torchvision_ssd import as_torchvision, batch_as_lists, reference_loss
from nets.build import new_network
from ssd import SSD
from train import train_step
from utils.cli import UserError, first_line
from utils.data.annotations import read_list
from utils.data.loader import DetectionDataset, collate
from utils.device import run_in, set_precision
from utils.multibox.coder import BoxCoder
from utils.multibox.loss import Losses, MultiBoxLoss
from utils.training.optim import make_optimizer, set_learning_rate

TRAINING_BATCH, BATCHES = 32, (1, 8, 32)
CALLS, SECONDS = 20, 5.0  # of a measurement, at most
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def measure(settings: BenchSettings) -> list[Row]:
    """Time training steps, detection, and compiled steps last: compiling takes a minute."""
    device = torch.device(settings.device)
    is_new = torch.cuda.get_device_capability(device)[0] >= 8
    ways = ("fp32", "TF32", "fp16", "bf16") if is_new else ("fp32", "fp16")
    step, reference_step, compiled_step = training_steps(settings, device)
    rows = []
    for way in ways:
        rows += compare("training step, batch 32", way, TRAINING_BATCH, partial(step, way),
                        "torchvision", partial(reference_step, way))
    print_waits(partial(step, ways[-1]))
    rows += detection_rows(settings, [way for way in ways if way != "TF32"])
    return rows + compare("training step, batch 32", f"{ways[-1]}, compiled", TRAINING_BATCH,
                          partial(compiled_step, ways[-1]), "not compiled", partial(step, ways[-1]))


def training_steps(settings: BenchSettings, device: torch.device) -> tuple[Callable, ...]:
    """Return functions of a way that do a step on the same batch: ours, torchvision's, compiled."""
    records, names = read_list(f"{settings.data}/2007_train.txt")
    torch.manual_seed(0)
    network = new_network("vgg", 300, len(names), backbone_weights="",
                          images=[record[:2] for record in records])
    criterion = MultiBoxLoss(BoxCoder(network.spec))
    dataset = DetectionDataset(records, network.spec, AUGMENTATION, seed=0)
    batch = collate([dataset[0, k] for k in range(TRAINING_BATCH)], criterion.make_targets)
    reference = as_torchvision(network, same_priors=True).to(device)
    images, targets = batch_as_lists(batch)
    batch = batch._replace(images=batch.images.pin_memory())
    network.to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(network, name="adamw", momentum=0.9, weight_decay=5e-4)
    reference_optimizer = torch.optim.SGD(reference.parameters(), LEARNING_RATE, 0.9,
                                          weight_decay=5e-4)
    set_learning_rate(optimizer, LEARNING_RATE)
    scalers = {precision: torch.amp.GradScaler("cuda", enabled=precision == "fp16")
               for precision in ("fp32", "fp16", "bf16")}

    def step(network, way):
        precision = precision_of(way, device)
        return train_step(network.train(), criterion, optimizer, [batch], clip_grad_norm=10.0,
                          scaler=scalers[precision], precision=precision)

    def reference_step(way):
        scaler = scalers[precision_of(way, device)]
        with run_in(precision_of(way, device), device):
            loss = reference_loss(reference, images, targets, device)
        reference_optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(reference_optimizer)
        scaler.update()
        return loss

    losses = (sum(step(network, "fp32").losses.tolist()[:len(Losses._fields)]),
              reference_step("fp32").item())
    if not math.isclose(*losses, rel_tol=0.02):
        raise UserError(f"the sides do not do the same work: losses {losses}.")
    return partial(step, network), reference_step, partial(step, torch.compile(network))


def precision_of(way: str, device: torch.device) -> str:
    """Return the precision of a way, which may be "TF32", and set PyTorch to it."""
    return set_precision("fp32" if way == "TF32" else way, device, tf32=way == "TF32")


def detection_rows(settings: BenchSettings, ways: list[str]) -> list[Row]:
    """Return the rows from arrays to boxes, by precision and batch; fp32 is TF32 on both sides."""
    image, rows = cv2.imread(settings.image)[..., ::-1].copy(), []
    with TemporaryDirectory() as folder:
        reference, flags = both_ways(settings.model_path, Path(folder), settings.device)
        for way in ways:
            detector = SSD(device=settings.device, precision=way, **flags)
            calls = (partial(detector.detect_batch, confidence=0.01),
                     partial(detect_reference, reference, way))
            (detections,), (expected,) = (call([image]) for call in calls)
            if not same_detections(tuple(detections), expected):
                print(f"note: in {way} the detections differ")
            for size in BATCHES:
                call, reference_call = (partial(call, [image] * size) for call in calls)
                rows += compare(f"arrays to boxes, batch {size}", way, size, call, "torchvision",
                                reference_call)
    return rows


@torch.inference_mode()
def detect_reference(network: torch.nn.Module, way: str, images: list[np.ndarray]) -> list[tuple]:
    """Return (boxes, scores, labels) of each image by torchvision's network."""
    device = next(network.parameters()).device
    tensors = [torch.from_numpy(image).to(device).permute(2, 0, 1) / 255 for image in images]
    with run_in(way, device):
        outputs = network(tensors)
    return [(output["boxes"].cpu().numpy(), output["scores"].cpu().numpy(),
             output["labels"].cpu().numpy() - 1) for output in outputs]


def compare(task: str, way: str, images: int, call: Callable, reference: str,
            reference_call: Callable) -> list[Row]:
    """Return and print rows of the time an image and the memory; where a call fails, why."""
    try:
        (seconds, memory), (other, other_memory) = time_calls(call), time_calls(reference_call)
    except Exception as error:  # no compiler, too little memory: the other rows remain
        return [Row(task, f"{way}: {first_line(error)}", math.nan, reference, math.nan)]
    rows = [Row(f"{task}, an image", way, seconds / images, reference, other / images),
            Row("most memory of that", way, memory, reference, other_memory, "B")]
    print(table(rows), flush=True)
    return rows


def time_calls(call: Callable) -> tuple[float, float]:
    """Return (seconds of a call, most bytes on the GPU) of calls that follow one another."""
    for _ in range(3):
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
    count = max(2, min(CALLS, int(SECONDS / (time.perf_counter() - start))))
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(count):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count, float(torch.cuda.max_memory_allocated())


def print_waits(call: Callable) -> None:
    """Print CUDA's calls in which the host may wait, of one step; the last is the profiler's."""
    with torch.profiler.profile() as profile:
        call()
    waits = {event.key: event.count for event in profile.key_averages() if event.key in WAITS}
    print(f"calls of CUDA that may wait, in a step: {waits}")
