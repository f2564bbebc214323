"""Detectors in ONNX files that nets/export.py wrote, run by ONNX Runtime or OpenVINO."""

import json
from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from utils.spec import SSDSpec

FORMAT = "ssd-onnx-1"
Outputs = Literal["raw", "boxes", "detections"]
OUTPUT_NAMES = {"raw": ("loc", "conf"), "boxes": ("boxes", "scores"),
                "detections": ("boxes", "scores", "labels", "image_index", "all_boxes",
                               "all_scores")}


def describe(spec: SSDSpec, class_names: Sequence[str], *, outputs: Outputs,
             thresholds: Mapping[str, float], family: str) -> dict[str, str]:
    """Return what stands in the file's metadata, each value as JSON."""
    values = {"format": FORMAT, "spec": spec.to_dict(), "class_names": list(class_names),
              "outputs": outputs, "thresholds": dict(thresholds), "family": family,
              "precision": "fp32"}
    return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}


def input_dtype(spec: SSDSpec) -> torch.dtype:
    """Return the dtype of the grey levels that `read_input` gives."""
    return torch.float32 if spec.resize.endswith("float32") else torch.uint8
