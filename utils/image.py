"""Images from file to network input: the one path for training, validation, prediction, mAP."""

import io
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from utils.cli import UserError

JPEG_START = b"\xff\xd8"
REDUCED_MODES = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4),
                 (2, cv2.IMREAD_REDUCED_COLOR_2))
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")


def load_image(path, at_least=None):
    """Read an image file as RGB.

    Grey, palette and 16-bit images become 8-bit RGB, transparency is dropped, and a rotation
    noted in EXIF is carried out.

    Args:
        path: file path; any letters, also on Windows, where OpenCV's own reader fails on them.
        at_least: (width, height) that is enough; a much larger JPEG is then decoded at a half, a
            quarter or an eighth of its size, which is faster. None: as it is.

    Returns:
        (H, W, 3) uint8 array.

    Raises:
        UserError: the file is missing, empty, or not an image.
    """
    return decode_image(read_bytes(path), path, at_least)


def read_bytes(path):
    """Return the contents of a file; UserError names it where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; check the path.") from None
    except ValueError as error:  # a zero byte in the path
        raise UserError(f"{str(path)!a}: {error}; check the path.") from None


def decode_image(data, path, at_least=None, size=None):
    """Decode the bytes of an image file as `load_image`.

    The path is for the message; `size` is the `image_size` where the caller knows it already.
    """
    mode = cv2.IMREAD_COLOR
    if at_least is not None and data.startswith(JPEG_START):
        size = size or image_size(io.BytesIO(data), path)
        shrink = min(have / need for have, need in zip(size, at_least))
        mode = next((mode for factor, mode in REDUCED_MODES if shrink >= factor), mode)
    try:
        if data[8:12] == b"WEBP":  # OpenCV before 5 ignores its EXIF
            return as_rgb_array(Image.open(io.BytesIO(data)))
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode) if data else None
    except (cv2.error, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        image = None
    if image is None:
        raise UserError(f"{path}: not an image that can be read; replace or remove the file.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def image_size(file, path=None):
    """Return (width, height) of an image as `load_image` gives it, from its header.

    Args:
        file: path, or binary file object.
        path: named in the error in place of `file`.

    Raises UserError for what is not an image.
    """
    path = file if path is None else path
    try:
        with Image.open(file) as image:
            turned = orientation_of(image) >= 5
            # Pillow has turned the size of a TIFF already.
            return image.size[::-1] if turned and image.format != "TIFF" else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not an image that can be read ({error}); "
                        "replace or remove the file.") from None


def orientation_of(image):
    """Return the EXIF orientation of a PIL image, 1 for none or nonsense."""
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def as_rgb_array(image):
    """Return a path, PIL image or RGB array as an (H, W, 3) uint8 array.

    Raises ValueError for an array of another shape or dtype, UserError for an unreadable file.
    """
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits; convert would cut them off at 255
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        return np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        return load_image(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"expected an (H, W, 3) uint8 RGB array, got {image.shape} {image.dtype}")
    return image


def input_rect(width, height, spec):
    """Return where an image of this size lies in the network input: (x0, y0, x1, y1) in pixels.

    The whole input when images are squashed; centred with its aspect ratio under letterbox.
    """
    size = spec.size
    if not spec.letterbox:
        return 0, 0, size, size
    scale = min(size / width, size / height)
    inner_w, inner_h = max(1, int(width * scale)), max(1, int(height * scale))
    x0, y0 = (size - inner_w) // 2, (size - inner_h) // 2
    return x0, y0, x0 + inner_w, y0 + inner_h


def resize_to_input(image, spec):
    """Resize an image to the network's input size by the spec's rule.

    Normalising first, as torchvision does, gives the same numbers: resizing is linear and its
    weights add up to one.

    Args:
        image: (H, W, 3) uint8 RGB.
        spec: SSDSpec.

    Returns:
        (S, S, 3) RGB in grey levels, float32 where the spec resizes in float32, else uint8.
    """
    x0, y0, x1, y1 = input_rect(image.shape[1], image.shape[0], spec)
    return add_bars(_resize(image, (x1 - x0, y1 - y0), spec.resize), (x0, y0, x1, y1), spec)


def add_bars(resized, rect, spec):
    """Place a resized image at its `input_rect` on the letterbox fill; (S, S, 3)."""
    if not spec.letterbox:
        return resized
    x0, y0, x1, y1 = rect
    canvas = np.full((spec.size, spec.size, 3), spec.letterbox_fill, dtype=resized.dtype)
    canvas[y0:y1, x0:x1] = resized
    return canvas


def _resize(image, size, rule):
    """Resize to (width, height) with the library, filter and dtype that `rule` names."""
    if rule == "pil_bicubic_uint8":
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    if rule == "cv2_linear_float32":
        image = image.astype(np.float32)
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def stack_inputs(inputs):
    """Stack (S, S, 3) arrays into a (B, 3, S, S) tensor of their dtype, channels last in memory."""
    return torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)


def normalise(batch, spec):
    """Turn grey levels into the numbers the network expects; runs on the tensor's device.

    Args:
        batch: (B, 3, S, S) uint8 or float32 tensor, RGB grey levels.
        spec: SSDSpec.

    Returns:
        (B, 3, S, S) float32 tensor, in the spec's channel order.
    """
    mean, std = (torch.tensor(v, device=batch.device)[:, None, None] for v in (spec.mean, spec.std))
    batch = (batch.float() - mean) / std
    return batch.flip(1) if spec.channel_order == "bgr" else batch


def boxes_to_input(boxes, width, height, spec):
    """Map (N, 4) xyxy fractions of an image of this size to fractions of the network input."""
    offset, scale = _placement(width, height, spec)
    return boxes * scale + offset


def boxes_to_pixels(boxes, width, height, spec):
    """Map (N, 4) xyxy fractions of the network input to pixel edges of the image, clipped to it
    where the spec clips boxes at all.

    Works on NumPy arrays and returns float32.
    """
    offset, scale = _placement(width, height, spec)
    fractions = (np.asarray(boxes, dtype=np.float64) - offset) / scale
    if spec.box_clip != "none":
        fractions = fractions.clip(0, 1)
    return (fractions * (width, height, width, height)).astype(np.float32)


def _placement(width, height, spec):
    """Return (offset, scale), each 4 numbers, from image fractions to input fractions."""
    x0, y0, x1, y1 = (edge / spec.size for edge in input_rect(width, height, spec))
    return np.array([x0, y0, x0, y0]), np.array([x1 - x0, y1 - y0] * 2)
