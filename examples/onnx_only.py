"""An exported detector with onnxruntime, NumPy and Pillow alone: onnx_only.py x.onnx a.jpg"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
metadata = session.get_modelmeta().custom_metadata_map
names, spec = json.loads(metadata["class_names"]), json.loads(metadata["spec"])
if spec.get("tile") or spec.get("letterbox"):
    sys.exit("this detector uses tiles or letterbox: run it by predict.py")
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
# reducing_gap averages where much is skipped otherwise, as the project does.
resized = image.resize(spec["input_shape"][::-1], Image.Resampling.BILINEAR, reducing_gap=2)
images = np.asarray(resized)[None].astype(
    np.float32 if spec["resize"].endswith("float32") else np.uint8)
results = session.run(["boxes", "scores", "labels"], {"images": images})  # of outputs="detections"
for box, score, label in zip(*results):
    print(f"{names[label]} {score:.2f} at {(box * [*image.size, *image.size]).round().astype(int)}")
