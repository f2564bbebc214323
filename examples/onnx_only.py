"""An exported detector with onnxruntime, OpenCV and Pillow alone: onnx_only.py x.onnx a.jpg"""

import io
import json
import sys

import cv2
import numpy as np
from PIL import Image

MAX_PIXELS = 100_000_000


def load(path, spec):
    """Return the network input, (1, S, S, 3), of an image file, and its (width, height)."""
    return decode(open(path, "rb").read(), spec)


def decode(data, spec):
    """Do what `load` does with the bytes of an image file; ValueError for other bytes."""
    if spec["tile"] or spec["letterbox"]:
        raise SystemExit("this detector uses tiles or letterbox: run it by predict.py")
    try:
        width, height = Image.open(io.BytesIO(data)).size
    except (OSError, Image.DecompressionBombError) as error:  # a small file may hold many pixels
        raise ValueError(f"not an image that can be read: {error}") from None
    if width * height > MAX_PIXELS:
        raise ValueError(f"more than {MAX_PIXELS} pixels")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # turned as EXIF says
    if image is None:
        raise ValueError("not an image")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    (height, width, _), (size, _), rule = image.shape, spec["input_shape"], spec["resize"]
    if rule == "pil_bicubic_uint8":
        pixels = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
        return np.asarray(pixels)[None], (width, height)
    if rule == "cv2_linear_float32":
        image = image.astype(np.float32)
    # Means of x by y pixels, then linear between their centres.
    x, y = (max(1, width // size), max(1, height // size)) if rule.startswith("area") else (1, 1)
    if min(x, y) >= 4:
        x, y = x // 2 * 2, y // 2 * 2
    image = cv2.copyMakeBorder(image, 0, -height % y, 0, -width % x, cv2.BORDER_REPLICATE)
    if max(x, y) > 1:
        image = cv2.resize(image, (image.shape[1] // x, image.shape[0] // y), interpolation=(
            cv2.INTER_LINEAR if max(x, y) == 2 else cv2.INTER_AREA))
    if height % y == width % x == 0:
        return cv2.resize(image, (size, size))[None], (width, height)
    scale_x, scale_y = width / x / size, height / y / size
    matrix = np.array([[scale_x, 0, scale_x / 2 - 0.5], [0, scale_y, scale_y / 2 - 0.5]])
    pixels = cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE,
                            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return pixels[None], (width, height)


if __name__ == "__main__":
    import onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    names, spec = json.loads(metadata["class_names"]), json.loads(metadata["spec"])
    images, size = load(sys.argv[2], spec)
    results = session.run(["boxes", "scores", "labels"], {"images": images})  # of "detections"
    for box, score, label in zip(*results):
        print(f"{names[label]} {score:.4f} at {(box * [*size, *size]).round().astype(int)}")
