"""Runs exported .onnx files by ONNX Runtime or OpenVINO."""

import functools
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nets.ssd import SSDNet
from utils.cli import UserError, check_file, shorten
from utils.device import set_precision
from utils.multibox.coder import BoxCoder
from utils.multibox.postprocess import decode_outputs
from utils.multibox.spec import SSDSpec

Outputs = Literal["detections", "boxes", "raw"]
# The last two are what this project reads: they do not depend on thresholds.
OUTPUT_NAMES = {"raw": ("loc", "conf"), "boxes": ("boxes", "scores"),
                "detections": ("boxes", "scores", "labels", "image_index", "all_boxes",
                               "all_scores")}
RuntimeName = Literal["auto", "onnxruntime", "openvino"]
Run = Callable[[np.ndarray], list[np.ndarray]]  # network inputs -> the last two outputs


def optional(name: str, remedy: str) -> Any:
    """Import a package that not everyone needs; UserError with the remedy where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{remedy} ({error})") from None


class OnnxRuntime:
    """Runs a file of nets/runtimes/export.py as TorchRuntime runs a network.

    `runtime` "auto" is OpenVINO where it is installed, else ONNX Runtime. Only OpenVINO computes in
    bf16, only ONNX Runtime on "cuda" (with onnxruntime-gpu). Raises UserError for a file of another
    kind, and for what the runtime cannot do.
    """

    device = torch.device("cpu")  # where its outputs lie

    def __init__(self, path: str | Path, *, device: str = "auto", precision: str = "fp32",
                 runtime: RuntimeName = "auto"):
        self.path, file = check_file(path), shorten(path)
        self._arguments = {"device": device, "precision": precision, "runtime": runtime}
        if runtime == "auto":
            has_openvino = importlib.util.find_spec("openvino") and not device.startswith("cuda")
            runtime = "openvino" if has_openvino else "onnxruntime"
        if (runtime, precision) == ("onnxruntime", "auto"):
            precision = "fp32"
        precision = set_precision(precision, self.device)
        self.name, open_file = {"onnxruntime": ("ONNX Runtime", _open_onnxruntime),
                                "openvino": ("OpenVINO", _open_openvino)}[runtime]
        library = optional(runtime, f"{file}: {self.name} runs such files; pip install {runtime}")
        try:
            metadata, self._run = open_file(library, self.path, device, precision)
            values = {name: json.loads(metadata[name]) for name in
                      ("spec", "class_names", "outputs", "precision")}
            self.spec = SSDSpec.from_dict(values["spec"])
            self.about = json.loads(metadata.get("about", "{}"))
        except UserError:
            raise
        except Exception:  # ONNX Runtime's errors have no class in common but this
            raise UserError(f"{file}: {self.name} cannot open it; it is damaged, not exported by "
                            "predict.py --mode export, or needs a newer version.") from None
        self.class_names = tuple(values["class_names"])
        self._coder = BoxCoder(self.spec) if values["outputs"] == "raw" else None
        self.precision = "int8" if values["precision"] == "int8" else precision
        print(f"weights: {file}: {self.name}, {self.precision}, {self.spec.summary()}, "
              f"{len(self.class_names)} classes")

    def __reduce__(self):
        """Pickle and copy what opens the file again."""
        return functools.partial(OnnxRuntime, **self._arguments), (self.path,)

    @property
    def network(self) -> SSDNet:
        """There is none: UserError."""
        raise UserError(f"{shorten(self.path)}: take the checkpoint that it was exported from.")

    def __call__(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """As TorchRuntime."""
        first, second = map(torch.from_numpy, self._run(np.ascontiguousarray(images)))
        return decode_outputs(first, second, self._coder) if self._coder else (first, second)


def _open_onnxruntime(ort, path, device, precision) -> tuple[Mapping[str, str], Run]:
    """Open a file on a processor, or on an NVIDIA GPU with onnxruntime-gpu."""
    kind, _, number = device.partition(":")
    on_gpu = kind == "cuda" and "CUDAExecutionProvider" in ort.get_available_providers()
    if precision != "fp32" or not on_gpu and kind not in ("auto", "cpu"):
        raise UserError(f"{shorten(path)}: ONNX Runtime has no device {device!r} with {precision} "
                        "here: cuda needs pip install onnxruntime-gpu, bf16 needs OpenVINO.")
    providers = ["CPUExecutionProvider"]
    if on_gpu:
        number = number or os.environ.get("LOCAL_RANK", "0")  # torchrun: a GPU for each process
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": number, "use_tf32": "0"}))
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Its threads would go on spinning while NMS and the next image want the processor.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, options, providers=providers)
    names = [output.name for output in session.get_outputs()][-2:]
    return (session.get_modelmeta().custom_metadata_map,
            lambda images: session.run(names, {"images": images}))


@functools.cache
def _openvino_core(ov):
    """Return the one Core of this process: when a second one is deleted, Ctrl-C breaks."""
    return ov.Core()


def _open_openvino(ov, path, device, precision) -> tuple[Mapping[str, str], Run]:
    """Open a file on a processor."""
    if device not in ("auto", "cpu"):
        raise UserError(f'{shorten(path)}: OpenVINO runs on device "cpu", got {device!r}.')
    core = _openvino_core(ov)
    model = core.read_model(path)
    info = model.get_rt_info()["framework"]  # where it puts the metadata
    metadata = {name: str(value.value) for name, value in info.items()}
    # Without the other outputs, what only leads to them is not computed.
    results = [output.node for output in model.outputs[-2:]]
    compiled = core.compile_model(ov.Model(results, model.get_parameters(), "ssd"), "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"})
    return metadata, lambda images: compiled.infer_new_request([images]).to_tuple()
