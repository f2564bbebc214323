"""An exported detector with openvino, NumPy and Pillow alone: openvino_only.py x.onnx a.jpg"""

import json
import sys

import numpy as np
import openvino
from PIL import Image, ImageOps

core = openvino.Core()
model = core.read_model(sys.argv[1])
metadata = model.get_rt_info()["framework"]
names, spec = (json.loads(metadata[name].value) for name in ("class_names", "spec"))
# Without this, OpenVINO computes in bf16 where the processor can.
detector = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
if spec.get("tile") or spec.get("letterbox"):
    sys.exit("this detector uses tiles or letterbox: run it by predict.py")
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
resized = image.resize(spec["input_shape"][::-1], Image.Resampling.BILINEAR, reducing_gap=2)
images = np.asarray(resized)[None].astype(
    np.float32 if spec["resize"].endswith("float32") else np.uint8)
results = detector([images])
for box, score, label in zip(results["boxes"], results["scores"], results["labels"]):
    print(f"{names[label]} {score:.2f} at {(box * [*image.size, *image.size]).round().astype(int)}")
