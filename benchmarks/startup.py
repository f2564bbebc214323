"""Seconds and memory from nothing to the boxes of one image: a process of its own each time."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.inference import both_ways
from benchmarks.prepare import BenchSettings
from benchmarks.timing import Row, rows_of
from utils.cli import ROOT, UserError

PROJECT = """
import sys
weights, classes, image, precision = sys.argv[1:]
from ssd import SSD
detector = SSD(weights, classes_path=classes, device="cpu", precision=precision)
scores = detector.detect_batch([image], confidence=0.01)[0].scores.tolist()
"""
# As torchvision's documentation says.
TORCHVISION = """
import sys
weights, classes, image, _ = sys.argv[1:]
import torch
from torchvision.io import read_image
from torchvision.models.detection import SSD300_VGG16_Weights, ssd300_vgg16
network = ssd300_vgg16(weights=None, weights_backbone=None,
                       num_classes=len(open(classes).read().splitlines()) + 1)
network.load_state_dict(torch.load(weights))
network.eval()
with torch.no_grad():
    output = network([SSD300_VGG16_Weights.COCO_V1.transforms()(read_image(image))])[0]
scores = output["scores"].tolist()
"""
# Printed at the end: the scores, the time, and the most bytes that the process held, on Linux.
ENDING = r"""
import json, re, time
end = time.time()
most = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
print("\n" + json.dumps([scores, end, most]))
"""
SIDES = {"torchvision fp32": (TORCHVISION, "fp32"), "fp32": (PROJECT, "fp32"),
         "auto": (PROJECT, "auto")}


def measure(settings: BenchSettings) -> list[Row]:
    """Start each side in turns; see that all find the same three best scores."""
    outcomes = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        _, flags = both_ways(settings.model_path, Path(folder), "cpu")
        for _ in range(1 + settings.turns):  # the first one fills the caches of the disk
            for side, results in outcomes.items():
                results.append(start(side, flags, settings.image))
    best = np.array([sorted(results[0][0])[-3:] for results in outcomes.values()])
    if np.ptp(best, axis=0).max() > 0.03:
        raise UserError(f"the sides do not find the same, or nothing: best scores {best.tolist()}.")
    seconds, memory = ({side: statistics.median(result[k] for result in results[1:])
                        for side, results in outcomes.items()} for k in (1, 2))
    return rows_of("start to first boxes", seconds) + [
        replace(row, unit="B") for row in rows_of("most memory of that", memory)]


def start(side, flags, image):
    """Return (scores, seconds, bytes) of one process."""
    script, precision = SIDES[side]
    begin = time.time()  # the clock that another process has too
    process = subprocess.run([sys.executable, "-c", script + ENDING, flags["model_path"],
                              flags["classes_path"], image, precision], cwd=ROOT, check=True,
                             stdout=subprocess.PIPE, text=True)
    scores, end, memory = json.loads(process.stdout.splitlines()[-1])
    return scores, end - begin, memory
