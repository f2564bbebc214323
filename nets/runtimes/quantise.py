"""Turn an exported network into one that multiplies in 8 bits."""

import contextlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nets.runtimes.onnx import optional
from utils.multibox.spec import SSDSpec
from utils.tiling import sample_inputs

CALIBRATED = 100  # images that tell the range of activations
QUANTISED = ["Conv", "MaxPool", "Relu"]  # L2Norm, softmax, decoding and NMS stay float


def calibration_inputs(images: Sequence[tuple[str | Path, np.ndarray]], spec: SSDSpec
                       ) -> Iterator[np.ndarray]:
    """Return network inputs of at most CALIBRATED images, spread over all, for `quantise`.

    An image is a (path, (G, 4) boxes in pixels); where windows are looked at, it gives one.
    """
    chosen = images[::math.ceil(len(images) / CALIBRATED) or 1]
    return sample_inputs(tqdm(chosen, desc="int8", unit="image", leave=False, disable=None),
                           spec)


def quantise(source: Path, target: Path, inputs: Iterable[np.ndarray]) -> None:
    """Write an ONNX file of nets/export.py with int8 convolutions (static quantisation, QDQ).

    Activations are uint8 by the range that they have on the given inputs, weights int8 by output
    channel. Of the two runtimes OpenVINO runs no other kind.

    Args:
        source, target: files; what lies beside `target` with other endings is left alone.
        inputs: (S, S, 3) arrays like those of images to come, as `calibration_inputs` gives them.

    Raises UserError where a package is missing.
    """
    remedy = "int8 needs more packages; pip install onnx onnxruntime"
    onnx = optional("onnx", remedy)
    tools = optional("onnxruntime.quantization", remedy)
    prepare = optional("onnxruntime.quantization.shape_inference", remedy).quant_pre_process

    class Reader(tools.CalibrationDataReader):
        def __init__(self):
            self.inputs = iter(inputs)

        def get_next(self):
            image = next(self.inputs, None)
            return None if image is None else {"images": image[None]}

    prepared = target.with_suffix(".prepared.onnx")
    with _without_advice():
        prepare(source, prepared, skip_symbolic_shape=True)
        tools.quantize_static(
            prepared, target, Reader(), quant_format=tools.QuantFormat.QDQ,
            activation_type=tools.QuantType.QUInt8, weight_type=tools.QuantType.QInt8,
            per_channel=True, op_types_to_quantize=QUANTISED)
    prepared.unlink()
    model = onnx.load(target)
    for entry in model.metadata_props:
        if entry.key == "precision":
            entry.value = json.dumps("int8")
    onnx.save(model, target)


@contextlib.contextmanager
def _without_advice():
    """Keep the root logger still, to which the quantiser speaks."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
