"""Every choice of output x network x batch x runtime against PyTorch: python -m tests.export_matrix

Not collected by pytest: a network takes up to half a minute to export.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from exported import NAMES, gap_near, images, unmatched, unsaturated  # noqa: E402

from nets.runtimes.export import export  # noqa: E402
from nets.runtimes.onnx import OUTPUT_NAMES, open_exported  # noqa: E402
from nets.runtimes.torch import TorchRuntime  # noqa: E402
from nets.ssd import SSDNet, build_spec  # noqa: E402
from utils.multibox.postprocess import select  # noqa: E402

NETWORKS = (("vgg", 300), ("vgg", 512), ("mobilenetv2", 300), ("resnet50", 300))
CAPS = {"nms_iou": 0.45, "max_per_class": 100, "max_per_image": 50}


def check(backbone, size, outputs, folder, *, batches=(1, 3)):
    """Export one network, print and return the greatest distance of boxes in pixels.

    Raises AssertionError for another set of detections, or a distance of 0.1 pixels and more.
    """
    torch.manual_seed(0)
    network = unsaturated(SSDNet(len(NAMES) + 1, build_spec(backbone, size)))
    batch, start = images(max(batches), network.spec), time.perf_counter()
    boxes, scores = TorchRuntime(network, NAMES, precision="fp32", owned=False)(batch)
    limits = CAPS | {"confidence": gap_near(scores, 400 * len(batch))}
    path = Path(folder, f"{backbone}{size}.onnx")
    export(network, NAMES, path, thresholds=limits, outputs=outputs)
    seconds, worst = time.perf_counter() - start, 0.0
    for name in ("onnxruntime", "openvino"):
        runtime = open_exported(path, runtime=name)
        for count in batches:
            got = runtime(batch[:count])
            worst = max(worst, float((got[0] - boxes[:count]).abs().max()) * size)
            wanted = select(boxes[:count], scores[:count], network.spec, **limits)
            for own, found in zip(wanted, select(*got, network.spec, **limits)):
                assert not unmatched(own[:3], found[:3], size), (name, count)
        if outputs == "detections":
            for count in batches:
                compare_detections(path, name, batch[:count], wanted[:count], size)
    assert worst < 0.1, worst
    print(f"{backbone} {size} {outputs}: {worst:.5f} px, "
          f"{sum(len(found.scores) for found in wanted)} detections, {seconds:.0f} s", flush=True)
    return worst


def compare_detections(path, name, batch, wanted, size):
    """Compare what NMS in the graph leaves with what `select` leaves."""
    found = run(path, name, batch)
    assert sorted(found["image_index"].tolist()) == found["image_index"].tolist()
    for k, own in enumerate(wanted):
        rows = found["image_index"] == k
        scores = found["scores"][rows]
        assert (np.diff(scores) <= 0).all() and len(scores)
        assert not unmatched(own[:3], (found["boxes"][rows], scores, found["labels"][rows]), size)


def run(path, name, batch):
    """Return {output: array} of a file as a stranger runs it, without this project."""
    if name == "onnxruntime":
        import onnxruntime
        names = OUTPUT_NAMES["detections"]
        return dict(zip(names, onnxruntime.InferenceSession(path).run(names, {"images": batch})))
    import openvino
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled([batch])
    return {port.get_any_name(): results[port] for port in compiled.outputs}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        for outputs in OUTPUT_NAMES:
            for backbone, size in NETWORKS:
                check(backbone, size, outputs, made)
