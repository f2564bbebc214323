"""An exported detector with openvino, NumPy and Pillow alone: openvino_only.py x.onnx a.jpg"""

import json
import sys

import openvino
from onnx_only import load

core = openvino.Core()
model = core.read_model(sys.argv[1])
metadata = model.get_rt_info()["framework"]
names, spec = (json.loads(metadata[name].value) for name in ("class_names", "spec"))
# Without this, OpenVINO computes in bf16 where the processor can.
detector = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
images, size = load(sys.argv[2], spec)
results = detector([images])
for box, score, label in zip(results["boxes"], results["scores"], results["labels"]):
    print(f"{names[label]} {score:.4f} at {(box * [*size, *size]).round().astype(int)}")
