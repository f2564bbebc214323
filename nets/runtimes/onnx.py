"""Detectors in ONNX files of nets/export.py, run by ONNX Runtime or OpenVINO as any Runtime."""

import functools
import importlib
import importlib.util
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch

from nets.runtimes.torch import Runtime
from utils.checkpoint import FORMAT as CHECKPOINT
from utils.checkpoint import parse_checkpoint
from utils.cli import UserError, check_file, shorten
from utils.device import set_precision
from utils.multibox.postprocess import decode_outputs
from utils.multibox.coder import BoxCoder
from utils.multibox.spec import SSDSpec
from utils.tensor_files import first_line

FORMAT = "ssd-onnx-1"
Outputs = Literal["detections", "boxes", "raw"]
OUTPUT_NAMES = {"raw": ("loc", "conf"), "boxes": ("boxes", "scores"),
                "detections": ("boxes", "scores", "labels", "image_index", "all_boxes",
                               "all_scores")}
RuntimeName = Literal["auto", "onnxruntime", "openvino"]
CPU = torch.device("cpu")


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


def optional(name: str, remedy: str) -> ModuleType:
    """Import a package that not everyone needs; UserError with the remedy where it is not here."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{remedy} ({first_line(error)})") from None


def open_exported(path: str | Path, *, device: str = "auto", precision: str = "fp32",
                  runtime: RuntimeName = "auto") -> Runtime:
    """Return the Runtime of an ONNX file that this project exported; print what it is.

    Args:
        path: the file.
        device: "auto" and "cpu" are the processor; "cuda" and "cuda:1" need onnxruntime-gpu.
        precision: OpenVINO can compute an fp32 file in "bf16"; "auto" does where that is faster.
        runtime: "auto" is OpenVINO on Intel's processors and for bf16, else ONNX Runtime, as far
            as they are installed.

    Raises UserError for a file that is damaged or of others, and for what the runtime cannot do.
    """
    path = check_file(path)
    with open(path, "rb") as file:
        if file.read(1) != b"\x08":  # the version, which stands first in all ONNX files
            raise UserError(f"{shorten(path)}: not an ONNX file, or a damaged one.")
    fastest = set_precision(precision, CPU)
    if _pick(runtime, device, fastest) == "openvino":
        opened = OpenVino(path, device, fastest)
    else:
        opened = OnnxRuntime(path, device, "fp32" if precision == "auto" else precision)
    print(f"weights: {shorten(path)}: {opened.name}, {opened.precision}, {opened.spec.summary()}, "
          f"{len(opened.class_names)} classes")
    return opened


def _pick(runtime, device, precision):
    """Return the runtime that "auto" stands for."""
    has = {name: importlib.util.find_spec(name) for name in ("onnxruntime", "openvino")}
    if runtime != "auto":
        return runtime
    if not has["openvino"] or device.startswith("cuda"):
        return "onnxruntime"
    if not has["onnxruntime"] or precision == "bf16":
        return "openvino"
    processor = _openvino_core().get_property("CPU", "FULL_DEVICE_NAME")
    return "openvino" if "Intel" in processor else "onnxruntime"


@functools.cache
def _openvino_core():
    """Return the one Core of this process, which is never given up.

    OpenVINO gives the thread a stack for signals of its own; at the end of a Core it puts back the
    one that was there before, which another Core may have freed meanwhile. The next signal, Ctrl-C
    say, would then end the process.
    """
    return importlib.import_module("openvino").Core()


class Exported:
    """What the two runtimes have in common; a Runtime."""

    device = CPU  # where its outputs lie
    name = package = ""

    def __init__(self, path: Path, device: str, precision: str):
        """As `open_exported`."""
        self.path = path
        library = optional(self.package, f"{shorten(path)}: {self.name} runs such files; pip "
                                         f"install {self.package}")
        try:
            self._open(library, device, precision)
        except UserError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no class in common but this
            reason = first_line(str(error).rpartition("failed:")[2])
            raise UserError(f"{shorten(path)}: {self.name} cannot open it ({reason}); it is "
                            "damaged, or needs a newer version.") from None

    @property
    def network(self):
        """There is none: UserError."""
        raise UserError(f"{shorten(self.path)}: {self.name} runs this file; for the network "
                        "itself, take the checkpoint that it was exported from.")

    def _read(self, metadata, precision):
        """Take over what `describe` wrote."""
        place = shorten(self.path)
        try:
            values = {name: json.loads(metadata[name]) for name in
                      ("format", "spec", "class_names", "outputs", "precision")}
        except (KeyError, ValueError):
            values = {}
        if values.get("format") != FORMAT or values["outputs"] not in OUTPUT_NAMES:
            raise UserError(f"{place}: not exported by this project, it has no spec and class "
                            "names; export the checkpoint with predict.py --mode export.")
        checkpoint = parse_checkpoint({**values, "format": CHECKPOINT, "state_dict": {},
                                       "settings": {}, "progress": {}}, place)
        self.spec, self.class_names = checkpoint.spec, checkpoint.class_names
        self.outputs = values["outputs"]
        self.precision = "int8" if values["precision"] == "int8" else precision
        self.wanted = OUTPUT_NAMES[self.outputs][-2:]  # those without thresholds
        self.coder = BoxCoder(self.spec)

    def __call__(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """As Runtime; UserError where the file's outputs are not those of its spec."""
        images = np.ascontiguousarray(images)
        boxes, scores = (torch.from_numpy(value) for value in self._run(images))
        is_raw = self.outputs == "raw"
        shape, classes = (len(images), len(self.coder.priors)), len(self.class_names) + is_raw
        if boxes.shape != (*shape, 4) or scores.shape != (*shape, classes):
            raise UserError(f"{shorten(self.path)}: gives {tuple(boxes.shape)} and "
                            f"{tuple(scores.shape)}, which does not fit its spec; it is damaged.")
        return decode_outputs(boxes, scores, self.coder) if is_raw else (boxes, scores)


class OnnxRuntime(Exported):
    """Runs on processors, and on NVIDIA's GPUs with onnxruntime-gpu."""

    name, package = "ONNX Runtime", "onnxruntime"

    def _open(self, ort, device, precision):
        if precision != "fp32":
            raise UserError(f"{shorten(self.path)}: {self.name} runs it as it was exported; for "
                            f'{precision} take runtime "openvino", or precision "fp32".')
        kind, _, number = device.partition(":")
        providers = ["CPUExecutionProvider"]
        if kind == "cuda":
            number = number or os.environ.get("LOCAL_RANK", "0")  # torchrun: each its own
            # As PyTorch in utils/device.py: fp32 means fp32.
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": number, "use_tf32": "0"}))
        if kind not in ("auto", "cpu", "cuda") or (
                kind == "cuda" and "CUDAExecutionProvider" not in ort.get_available_providers()):
            raise UserError(f"{shorten(self.path)}: {self.name} has no {device!r} here; take "
                            '"cpu", or pip install onnxruntime-gpu for "cuda".')
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # Its threads would go on turning while NMS and the next image want the processor.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(self.path, options, providers=providers)
        if kind == "cuda" and "CUDAExecutionProvider" not in self.session.get_providers():
            raise UserError(f"{shorten(self.path)}: {self.name} lacks the CUDA or cuDNN that it was "
                            'built for; see its installation page, or take "cpu".')
        self._read(self.session.get_modelmeta().custom_metadata_map, precision)

    def _run(self, images):
        return self.session.run(self.wanted, {"images": images})


class OpenVino(Exported):
    """Runs on processors."""

    name, package = "OpenVINO", "openvino"

    def _open(self, ov, device, precision):
        if device not in ("auto", "cpu") or precision not in ("fp32", "bf16"):
            raise UserError(f'{shorten(self.path)}: {self.name} runs on device "cpu", in "fp32" or '
                            f'"bf16"; got {device!r} and {precision!r}.')
        core, self.lock = _openvino_core(), threading.Lock()
        model = core.read_model(self.path)
        info = model.get_rt_info()
        metadata = info["framework"] if "framework" in info else {}
        self._read({name: str(value.value) for name, value in metadata.items()}, precision)
        # Without the other outputs, what only leads to them is not computed.
        results = [model.output(name).node for name in self.wanted]
        model = ov.Model(results, model.get_parameters(), "ssd")
        compiled = core.compile_model(model, "CPU", {
            "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"})
        self.request = compiled.create_infer_request()

    def _run(self, images):
        with self.lock:
            results = self.request.infer([images])
            return [results[name].copy() for name in self.wanted]
