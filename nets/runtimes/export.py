"""Writes a network as an ONNX file that runs without PyTorch and without this project.

docs/inference.md has the table of its inputs and outputs. "raw" are the network's own, "boxes"
those of `decode_outputs`, "detections" those of `select`, with the two of "boxes" behind them.
"""

import functools
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nets.runtimes.onnx import OUTPUT_NAMES, Outputs, optional
from nets.runtimes.torch import folded_copy
from nets.ssd import SSDNet
from utils.cli import VERSION, UserError
from utils.multibox.postprocess import Thresholds, decode_outputs

QUANTISED = ["Conv", "MaxPool", "Relu"]  # L2Norm, softmax, decoding and NMS stay float


def export_onnx(network: SSDNet, class_names: Sequence[str], path: Path, *, outputs: Outputs,
                thresholds: Thresholds, about: dict[str, Any] | None = None) -> None:
    """Write an SSDNet, which is left as it is, as an ONNX file in fp32.

    `outputs` are those of docs/inference.md; "detections" are of all classes, suppressed by
    class. `about` is what is known of the weights, in plain types. Raises UserError where PyTorch
    is too old or a package is missing.
    """
    if [int(part) for part in torch.__version__.split(".")[:2]] < [2, 9]:
        raise UserError("exporting needs PyTorch 2.9 or newer; pip install -U torch torchvision")
    for name in ("onnx", "onnxscript"):
        optional(name, "exporting needs more packages; pip install onnx onnxscript onnxruntime")
    spec, limits = network.spec, {name: getattr(thresholds, name) for name in (
        "confidence", "nms_iou", "max_per_class", "max_per_image")}
    model = _Exported(folded_copy(network).cpu(), outputs, limits)
    dtype = torch.float32 if spec.resize.endswith("float32") else torch.uint8  # of `prepare`
    # A batch of 1 would be taken for a batch that is always 1.
    example = torch.zeros(2, spec.size, spec.size, 3, dtype=dtype)
    with warnings.catch_warnings():  # of PyTorch's exporter about itself
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(), (example,), dynamo=True, verbose=False, opset_version=18,
            input_names=["images"], output_names=OUTPUT_NAMES[outputs],
            dynamic_shapes=({0: "batch"},), custom_translation_table={_nms_operator(): _write_nms})
    for node in program.model.graph:  # the exporter's notes name the files of this computer
        node.metadata_props.clear()
    values = {"spec": spec.to_dict(), "class_names": list(class_names), "outputs": outputs,
              "thresholds": limits, "family": network.family, "precision": "fp32",
              "about": about or {}, "version": VERSION, "date": str(date.today())}
    program.model.metadata_props.update(
        {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()})
    program.save(path, external_data=False)


class _Exported(nn.Module):
    """Pixel values in, one of the choices of outputs out."""

    def __init__(self, network, outputs, limits):
        super().__init__()
        self.network, self.outputs, self.limits = network, outputs, limits

    def forward(self, images):
        loc, conf = self.network(images.permute(0, 3, 1, 2))
        if self.outputs == "raw":
            return loc, conf
        all_boxes, all_scores = decode_outputs(loc, conf, self.network.coder)
        if self.outputs == "boxes":
            return all_boxes, all_scores
        boxes, *others = _select_in_graph(all_boxes, all_scores, **self.limits)
        if self.network.spec.box_clip == "after_nms":
            boxes = boxes.clamp(0, 1)
        return boxes, *others, all_boxes, all_scores


def _select_in_graph(all_boxes, all_scores, *, confidence, nms_iou, max_per_class, max_per_image):
    """Do what `select` does, for all images at once, with operators that ONNX has."""
    batch, priors, classes = all_scores.shape
    # ONNX's own cap is on what NMS keeps, `max_per_class` is on what enters: the best of each
    # class are taken out first, and each class of each image is an image of its own to NMS.
    candidates = min(max_per_class or priors, priors)
    scores, indices = all_scores.transpose(1, 2).topk(candidates)  # (B, K, candidates)
    boxes = all_boxes.gather(1, indices.reshape(batch, -1, 1).expand(-1, -1, 4))
    boxes, scores = boxes.reshape(-1, candidates, 4), scores.reshape(-1, 1, candidates)
    groups, _, indices = _nms_operator()(boxes, scores, candidates, nms_iou, confidence).unbind(1)
    boxes, scores = boxes[groups, indices], scores[groups, 0, indices]
    best_first = scores.argsort(descending=True)
    # By image, and best first in each: these keys are all different.
    positions = torch.arange(scores.shape[0])
    order = best_first[(groups[best_first] // classes * scores.shape[0] + positions).argsort()]
    image_index, labels = groups[order] // classes, groups[order] % classes
    results = [boxes[order], scores[order], labels, image_index]
    if max_per_image:
        starts = (image_index < torch.arange(batch)[:, None]).sum(1)  # (B,), of each image's rows
        kept = positions - starts[image_index] < max_per_image
        results = [part[kept] for part in results]
    return results


@functools.cache
def _nms_operator():
    """Return an operator that is never run, only written: as ONNX's NonMaxSuppression."""
    @torch.library.custom_op("ssd::nms", mutates_args=())
    def nms(boxes: torch.Tensor, scores: torch.Tensor, most: int, iou: float,
            confidence: float) -> torch.Tensor:
        return boxes.new_zeros((0, 3), dtype=torch.int64)

    @nms.register_fake
    def _(boxes, scores, most, iou, confidence):
        return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(), 3), dtype=torch.int64)

    return torch.ops.ssd.nms.default


def _write_nms(boxes, scores, most: int, iou: float, confidence: float):
    from onnxscript import opset18 as op
    return op.NonMaxSuppression(boxes, scores, op.Constant(value_ints=[most]),
                                op.Constant(value_floats=[iou]),
                                op.Constant(value_floats=[confidence]))


def quantise(fp32_file: Path, inputs: Iterable[np.ndarray], *, score: Callable[[Path], float],
             max_loss: float) -> Path:
    """Write a file of `export_onnx` with int8 convolutions beside it; return it, measured.

    `inputs`, (S, S, 3), show the range of activations; `score` gives the mAP of a file in 0..1.
    UserError where int8 loses more than `max_loss` points of 100.
    """
    tools = optional("onnxruntime.quantization", "int8 needs onnxruntime; pip install onnxruntime")
    import onnx

    class Reader(tools.CalibrationDataReader):
        batches = ({"images": image[None]} for image in inputs)

        def get_next(self):
            return next(self.batches, None)

    prepared, int8_file = (fp32_file.with_name(name) for name in ("prepared.onnx", "int8.onnx"))
    tools.shape_inference.quant_pre_process(fp32_file, prepared, skip_symbolic_shape=True)
    # Weights by channel and in this format (QDQ), as OpenVINO needs it.
    tools.quantize_static(
        prepared, int8_file, Reader(), quant_format=tools.QuantFormat.QDQ, per_channel=True,
        activation_type=tools.QuantType.QUInt8, weight_type=tools.QuantType.QInt8,
        op_types_to_quantize=QUANTISED)
    model = onnx.load(int8_file)
    entries = {entry.key: entry for entry in model.metadata_props}
    entries["precision"].value = json.dumps("int8")
    onnx.save(model, int8_file)
    before, after = 100 * score(fp32_file), 100 * score(int8_file)
    loss = before - after
    print(f"mAP@0.5 on the val list: fp32 {before:.2f}, int8 {after:.2f}, {loss:.2f} points lost")
    if not loss <= max_loss:  # nan where val has no objects
        raise UserError(f"int8 loses {loss:.2f} points of mAP, more than max_loss {max_loss:g}.")
    return int8_file
