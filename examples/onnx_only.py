"""An exported detector with onnxruntime, NumPy and Pillow alone: onnx_only.py x.onnx a.jpg"""

import json
import sys

import numpy as np
from PIL import Image, ImageOps


def load(path, spec):
    """Return the network input, (1, S, S, 3), of an image file, and its (width, height)."""
    if spec["tile"] or spec["letterbox"]:
        raise SystemExit("this detector uses tiles or letterbox: run it by predict.py")
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    (width, height), (size, _), rule = image.size, spec["input_shape"], spec["resize"]
    if rule == "pil_bicubic_uint8":
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))[None], image.size
    y, x = (max(1, height // size), max(1, width // size)) if rule.startswith("area") else (1, 1)
    if min(y, x) >= 4:
        y, x = y // 2 * 2, x // 2 * 2
    # Means of y by x pixels, rounded as OpenCV does, then linear between their centres.
    pixels = np.pad(np.asarray(image), ((0, -height % y), (0, -width % x), (0, 0)), "edge")
    sums = pixels.reshape(-(-height // y), y, -1, x, 3).sum((1, 3), dtype=np.float32)
    pixels = sums * np.float32(1 / (x * y))
    pixels = (np.floor(pixels + 0.5) if max(x, y) == 2 else np.rint(pixels)).astype(int)
    in_integers = rule.endswith("uint8") and height % y == width % x == 0
    pixels = interpolate(pixels, 1, width / x, size, in_integers)
    pixels = interpolate(pixels, 0, height / y, size, in_integers)[None]
    if rule.endswith("float32"):
        return pixels.astype(np.float32), image.size
    return np.rint(pixels).astype(np.uint8), image.size


def interpolate(pixels, axis, length, size, in_integers):
    """Interpolate linearly along an axis; in integers as OpenCV, with 11 bits behind the point."""
    position = ((np.arange(size) + 0.5) * length / size - 0.5).astype(np.float32)
    low = np.floor(position).astype(int)
    first, second = (pixels.take(index.clip(0, pixels.shape[axis] - 1), axis)
                     for index in (low, low + 1))
    share = np.expand_dims(position - low, (1 - axis, 2))
    if not in_integers:
        return first * (1 - share) + second * share
    share = np.rint(2048 * share).astype(int)
    if axis == 1:
        return first * (2048 - share) + second * share
    return (((first >> 4) * (2048 - share) >> 16) + ((second >> 4) * share >> 16) + 2) >> 2


if __name__ == "__main__":
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    names, spec = json.loads(metadata["class_names"]), json.loads(metadata["spec"])
    images, size = load(sys.argv[2], spec)
    results = session.run(["boxes", "scores", "labels"], {"images": images})  # of "detections"
    for box, score, label in zip(*results):
        print(f"{names[label]} {score:.4f} at {(box * [*size, *size]).round().astype(int)}")
