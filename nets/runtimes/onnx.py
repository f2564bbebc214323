"""Runs exported .onnx files by ONNX Runtime or OpenVINO."""

import functools
import importlib
import importlib.util
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch

from nets.ssd import SSDNet
from utils.cli import UserError, check_file, first_line, shorten
from utils.device import set_precision
from utils.multibox.coder import BoxCoder
from utils.multibox.postprocess import decode_outputs
from utils.multibox.spec import SSDSpec

FORMAT = "ssd-onnx-1"
Outputs = Literal["detections", "boxes", "raw"]
# The last two are what this project reads: they do not depend on thresholds.
OUTPUT_NAMES = {"raw": ("loc", "conf"), "boxes": ("boxes", "scores"),
                "detections": ("boxes", "scores", "labels", "image_index", "all_boxes",
                               "all_scores")}
RuntimeName = Literal["auto", "onnxruntime", "openvino"]
Run = Callable[[np.ndarray], list[np.ndarray]]  # network inputs -> the last two outputs


def optional(name: str, remedy: str) -> ModuleType:
    """Import a package that not everyone needs; UserError with the remedy where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{remedy} ({error})") from None


class OnnxRuntime:
    """Runs a file of nets/runtimes/export.py; a Runtime.

    Args:
        path: the file.
        device: "auto" and "cpu" are the processor; "cuda" and "cuda:1" need onnxruntime-gpu.
        precision: OpenVINO can compute an fp32 file in "bf16"; "auto" does where that is faster.
        runtime: "auto" is OpenVINO on Intel's processors and for bf16, else ONNX Runtime.

    Raises UserError for a file of another kind, and for what the runtime cannot do.
    """

    device = torch.device("cpu")  # where its outputs lie

    def __init__(self, path: str | Path, *, device: str = "auto", precision: str = "fp32",
                 runtime: RuntimeName = "auto"):
        self.path, file = check_file(path), shorten(path)
        self.precision = set_precision(precision, self.device)
        if runtime == "auto":
            runtime = _pick(device, self.precision)
        if runtime == "onnxruntime" and precision == "auto":
            self.precision = "fp32"
        self.name, open_file = {"onnxruntime": ("ONNX Runtime", _open_onnxruntime),
                                "openvino": ("OpenVINO", _open_openvino)}[runtime]
        library = optional(runtime, f"{file}: {self.name} runs such files; pip install {runtime}")
        try:
            metadata, self._run = open_file(library, self.path, device, self.precision)
        except UserError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no class in common but this
            reason = first_line(str(error).rpartition("failed:")[2])
            raise UserError(f"{file}: {self.name} cannot open it ({reason}); it is damaged, not "
                            "an exported file, or needs a newer version.") from None
        if metadata.get("format") != json.dumps(FORMAT):
            raise UserError(f"{file}: not exported by this project, it has no spec and class "
                            "names; export the checkpoint with predict.py --mode export.")
        values = {name: json.loads(metadata[name]) for name in
                  ("spec", "class_names", "outputs", "precision")}
        self.spec = SSDSpec.from_dict(values["spec"])
        self.class_names = tuple(values["class_names"])
        self._coder = BoxCoder(self.spec) if values["outputs"] == "raw" else None
        if values["precision"] == "int8":
            self.precision = "int8"
        print(f"weights: {file}: {self.name}, {self.precision}, {self.spec.summary()}, "
              f"{len(self.class_names)} classes")

    @property
    def network(self) -> SSDNet:
        """There is none: UserError."""
        raise UserError(f"{shorten(self.path)}: {self.name} runs this file; for the network "
                        "itself, take the checkpoint that it was exported from.")

    def __call__(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """As Runtime."""
        first, second = map(torch.from_numpy, self._run(np.ascontiguousarray(images)))
        return decode_outputs(first, second, self._coder) if self._coder else (first, second)


def _pick(device, precision):
    """Return the runtime that "auto" stands for."""
    if not importlib.util.find_spec("openvino") or device.startswith("cuda"):
        return "onnxruntime"
    if not importlib.util.find_spec("onnxruntime") or precision == "bf16":
        return "openvino"
    processor = _openvino_core().get_property("CPU", "FULL_DEVICE_NAME")
    return "openvino" if "Intel" in processor else "onnxruntime"


def _open_onnxruntime(ort, path, device, precision) -> tuple[Mapping[str, str], Run]:
    """Open a file on a processor, or on an NVIDIA GPU with onnxruntime-gpu."""
    if precision != "fp32":
        raise UserError(f"{shorten(path)}: ONNX Runtime runs it as it was exported; for "
                        f'{precision} take runtime "openvino", or precision "fp32".')
    kind, _, number = device.partition(":")
    providers = ["CPUExecutionProvider"]
    if kind == "cuda" and "CUDAExecutionProvider" in ort.get_available_providers():
        number = number or os.environ.get("LOCAL_RANK", "0")  # torchrun: a GPU for each process
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": number, "use_tf32": "0"}))
    elif kind not in ("auto", "cpu"):
        raise UserError(f"{shorten(path)}: ONNX Runtime has no {device!r} here; take \"cpu\", or "
                        'pip install onnxruntime-gpu for "cuda".')
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Its threads would go on turning while NMS and the next image want the processor.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, options, providers=providers)
    names = [output.name for output in session.get_outputs()][-2:]
    return (session.get_modelmeta().custom_metadata_map,
            lambda images: session.run(names, {"images": images}))


@functools.cache
def _openvino_core():
    """Return the one Core of this process, which lives as long: a second one breaks Ctrl-C."""
    return importlib.import_module("openvino").Core()


def _open_openvino(ov, path, device, precision) -> tuple[Mapping[str, str], Run]:
    """Open a file on a processor."""
    if device not in ("auto", "cpu") or precision not in ("fp32", "bf16"):
        raise UserError(f'{shorten(path)}: OpenVINO runs on device "cpu", in "fp32" or "bf16"; '
                        f"got {device!r} and {precision!r}.")
    model = _openvino_core().read_model(path)
    info = model.get_rt_info()
    metadata = info["framework"] if "framework" in info else {}
    metadata = {name: str(value.value) for name, value in metadata.items()}
    # Without the other outputs, what only leads to them is not computed.
    results = [output.node for output in model.outputs[-2:]]
    model = ov.Model(results, model.get_parameters(), "ssd")
    compiled = _openvino_core().compile_model(model, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"})
    request, lock = compiled.create_infer_request(), threading.Lock()

    def run(images):
        with lock:
            return [value.copy() for value in request.infer([images]).to_tuple()]
    return metadata, run
