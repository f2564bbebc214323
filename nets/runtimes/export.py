"""Write a network as an ONNX file that runs without PyTorch and without this project.

`SSD.export` is what people and predict.py call:

    SSD.export(path, *, outputs="detections", precision="fp32", train_list="2007_train.txt",
               val_list="2007_val.txt", max_loss=1.0, force=False)

The file (opset 18, any batch, weights inside) takes `images`: uint8 (B, S, S, 3) RGB, resized and
no more; float32 grey levels where the spec resizes in float32. `outputs` says what it gives, boxes
being xyxy in fractions of the input:

raw         loc (B, P, 4) and conf (B, P, C), float32: the network's own
boxes       boxes (B, P, 4) and scores (B, P, K), float32: those of `decode_outputs`
detections  boxes (N, 4), scores (N,), labels (N,) int64 from 0, image_index (N,) int64: those of
            `select` with the thresholds of the export, image by image, best first. Behind them
            come all_boxes and all_scores, the two of "boxes", for who wants other thresholds.
"""

import functools
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from nets.runtimes.onnx import (OUTPUT_NAMES, Outputs, describe, input_dtype, open_exported,
                               optional)
from nets.runtimes.quantise import quantise
from nets.runtimes.torch import Runtime, folded_copy
from nets.ssd import SSDNet
from utils.cli import UserError, check_file, make_folder, resolve, shorten, writing
from utils.multibox.postprocess import decode_outputs

OPSET = 18
ExportPrecision = Literal["fp32", "int8"]
NEEDED_TORCH = (2, 9)  # before it the exporter has other arguments


class _Exported(nn.Module):
    """Grey levels in, one of the choices of outputs out; NMS by the keywords of `select`."""

    def __init__(self, network, outputs, thresholds):
        super().__init__()
        self.network, self.outputs, self.thresholds = network, outputs, thresholds

    def forward(self, images):
        spec = self.network.spec
        loc, conf = self.network(images.permute(0, 3, 1, 2))
        if self.outputs == "raw":
            return loc, conf
        boxes, scores = decode_outputs(loc, conf, self.network.coder)
        if self.outputs == "boxes":
            return boxes, scores
        found = _select_in_graph(boxes, scores, **self.thresholds)
        clip = spec.box_clip == "after_nms"
        return found[0].clamp(0, 1) if clip else found[0], *found[1:], boxes, scores


def _select_in_graph(boxes, scores, *, confidence, nms_iou, max_per_class, max_per_image):
    """Do what `select` does, for all images at once, with operators that ONNX has."""
    count, priors, classes = scores.shape
    # ONNX's own cap is on what NMS keeps, `max_per_class` is on what enters: the best of each
    # class are taken out first, and each class of each image is an image of its own to NMS.
    candidates = min(max_per_class or priors, priors)
    best, places = scores.transpose(1, 2).topk(candidates)  # (B, K, candidates)
    own = boxes.gather(1, places.reshape(count, -1, 1).expand(-1, -1, 4))
    own, best = own.reshape(-1, candidates, 4), best.reshape(-1, 1, candidates)
    groups, _, places = _nms_operator()(own, best, candidates, nms_iou, confidence).unbind(1)
    boxes, scores = own[groups, places], best[groups, 0, places]
    scores, order = scores.sort(descending=True)
    boxes, groups = boxes[order], groups[order]
    image_index, labels = groups // classes, groups % classes
    # By image, and best first in each: these keys are all different.
    place = torch.arange(scores.shape[0])
    _, order = (image_index * scores.shape[0] + place).sort()
    boxes, scores, labels, image_index = (part[order] for part in (boxes, scores, labels,
                                                                   image_index))
    if max_per_image:
        found = (image_index == torch.arange(count)[:, None]).sum(1)
        rank = place - (found.cumsum(0) - found)[image_index]
        kept = (rank < max_per_image).nonzero()[:, 0]
        boxes, scores, labels, image_index = (part[kept] for part in (boxes, scores, labels,
                                                                       image_index))
    return boxes, scores, labels, image_index


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


def export(network: SSDNet, class_names: Sequence[str], path: str | os.PathLike, *,
           thresholds: Mapping[str, float], outputs: Outputs = "detections",
           precision: ExportPrecision = "fp32", inputs: Iterable[np.ndarray] = (),
           score: Callable[[Runtime], float] | None = None, max_loss: float = 1.0) -> None:
    """Write an SSDNet, which is left as it is, as an ONNX file; print what it became.

    Args:
        network: on any device, in any mode.
        class_names: without background.
        path: an .onnx file, replaced at the end; its folder is made.
        thresholds: confidence, nms_iou, max_per_class, max_per_image of `select`.
        outputs: see the top of this file.
        precision: "int8" is measured, and needs the rest.
        inputs: as `quantise` takes them.
        score: gives the mAP of a Runtime, in 0..1.
        max_loss: points of 100 that it may lose; where int8 loses more, nothing is written.

    Raises UserError for a bad choice or path, too much lost, and where PyTorch or a package is
    missing or too old.
    """
    path = resolve(path)
    for name, value, choices in (("outputs", outputs, get_args(Outputs)),
                                 ("precision", precision, get_args(ExportPrecision))):
        if value not in choices:
            raise UserError(f"{name} of an export must be one of {', '.join(choices)}; "
                            f"got {value!r}.")
    if path.suffix.lower() != ".onnx":
        raise UserError(f"{path}: an exported file must end in .onnx.")
    if path.exists():
        check_file(path)  # a folder cannot be replaced
    _check_packages()
    make_folder(path.parent)
    with TemporaryDirectory() as folder, writing(path) as part:
        part.touch()  # before the work, to see that it can be written
        made = Path(folder, "fp32.onnx")
        _write(network, class_names, made, outputs, thresholds)
        if precision == "int8":
            made = _checked_int8(made, inputs, score, max_loss)
        shutil.copyfile(made, part)
    print(f"exported: {shorten(path)}: {precision}, {outputs}, "
          f"{path.stat().st_size / 2 ** 20:.1f} MiB")


def _check_packages():
    if tuple(map(int, torch.__version__.split(".")[:2])) < NEEDED_TORCH:
        raise UserError(f"exporting needs PyTorch {'.'.join(map(str, NEEDED_TORCH))} or newer, "
                        f"this is {torch.__version__}; pip install -U torch torchvision")
    for name in ("onnx", "onnxscript"):
        optional(name, "exporting needs more packages; pip install onnx onnxscript onnxruntime")


def _write(network, class_names, path, outputs, thresholds):
    """Write the fp32 file."""
    spec = network.spec
    model = _Exported(folded_copy(network).cpu(), outputs, thresholds)
    # A batch of 1 would be taken for a batch that is always 1.
    example = torch.zeros(2, spec.size, spec.size, 3, dtype=input_dtype(spec))
    with warnings.catch_warnings():  # of PyTorch's exporter about itself
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(), (example,), dynamo=True, verbose=False, opset_version=OPSET,
            input_names=["images"], output_names=OUTPUT_NAMES[outputs],
            dynamic_shapes=({0: "batch"},),
            custom_translation_table={_nms_operator(): _write_nms})
    for node in program.model.graph:  # the exporter's notes name the files of this computer
        node.metadata_props.clear()
    program.model.metadata_props.update(describe(
        spec, class_names, outputs=outputs, thresholds=thresholds, family=network.family))
    program.save(path, external_data=False)


def _checked_int8(path, inputs, score, max_loss):
    """Return the int8 file of an exported one; UserError where it finds too much less."""
    target = path.with_name("int8.onnx")
    quantise(path, target, inputs)
    before, after = (100 * score(open_exported(file, runtime="onnxruntime"))
                     for file in (path, target))
    loss = before - after
    print(f"mAP@0.5 on the val list: fp32 {before:.2f}, int8 {after:.2f}, {loss:.2f} points lost")
    if not loss <= max_loss and max_loss < math.inf:  # nan where val has no objects
        raise UserError(f"int8 loses {loss:.2f} points of mAP, max_loss is {max_loss:g}; nothing "
                        "was written. force writes it all the same.")
    return target
