"""The one path of an image, which training, drawing, scoring and prediction share.

    file --load_image--> (H, W, 3) uint8 RGB --resize_to_input--> (S, S, 3) --stack_inputs--> batch
"""

import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from utils.cli import UserError, check_file, typed_path
from utils.multibox.spec import SSDSpec

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
ImageInput = str | os.PathLike | Image.Image | np.ndarray  # what `SSD.detect` takes
# What the decoders raise for broken files.
DECODE_ERRORS = (cv2.error, OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError,
                 RuntimeError, ArithmeticError, struct.error, Image.DecompressionBombError)
PILLOW_FORMATS = ("TIFF", "WEBP", "GIF")  # some versions of OpenCV misread them or know none


def load_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB.

    Greyscale, palette and 16-bit images become 8-bit RGB, transparency is dropped, and the
    orientation of EXIF or XMP is applied. Raises UserError for a file that is missing or broken.
    """
    try:
        data = Path(path).read_bytes()  # OpenCV's own reader fails on some paths of Windows
        with Image.open(io.BytesIO(data)) as header:
            if header.format in PILLOW_FORMATS:
                return _pil_to_array(header)
            orientation = orientation_of(header)
        image = cv2.imdecode(np.frombuffer(data, np.uint8),
                             cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return _apply_orientation(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), orientation)
    except DECODE_ERRORS as error:
        raise _unreadable(path, error) from None


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return the (width, height) that `load_image` gives, from the header of a file alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if orientation_of(image) >= 5 else (width, height)
    except DECODE_ERRORS as error:
        raise _unreadable(path, error) from None


def _unreadable(path, error):
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"{path}: {error.strerror}; check the path.")
    reason = ("unknown format" if isinstance(error, UnidentifiedImageError) else
              "the decoder failed" if isinstance(error, cv2.error) else error)
    return UserError(f"{path}: not an image that can be read ({reason}); "
                     "replace or remove the file.")


def orientation_of(image: Image.Image) -> int:
    """Return the orientation still to be applied to a PIL image, EXIF's 1 to 8; 1 for nonsense."""
    if image.format == "TIFF":  # Pillow applies it
        return 1
    try:
        # Not image.getexif(): that of PNG files decodes all pixels to look for EXIF behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except DECODE_ERRORS:  # EXIF that cannot be read
        return 1
    return value if value in range(1, 9) else 1


def _apply_orientation(image, orientation):
    """Turn and mirror an (H, W, 3) array as an EXIF orientation says."""
    if orientation >= 5:
        image = cv2.transpose(image)
    if orientation in (2, 3, 6, 7):
        image = cv2.flip(image, 1)
    return cv2.flip(image, 0) if orientation in (3, 4, 7, 8) else image


def check_images(images: Any) -> None:
    """Raise TypeError for a single image, or no image, in the place of several."""
    if isinstance(images, (str, os.PathLike, Image.Image)) or not hasattr(images, "__iter__"):
        raise TypeError(f"expected a list of images, got {type(images).__name__}")


def find_image(image: ImageInput) -> ImageInput:
    """Return a path as the absolute path of a file, anything else as it is, without reading it."""
    return check_file(typed_path(image)) if isinstance(image, (str, os.PathLike)) else image


def as_rgb_array(image: ImageInput) -> np.ndarray:
    """Return a path, PIL image or RGB array as an (H, W, 3) uint8 array.

    Raises TypeError for anything else, ValueError for an array of another shape or dtype and for
    an image without pixels, UserError for a file that cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        return load_image(image)
    if isinstance(image, Image.Image):
        return _pil_to_array(image)
    if not isinstance(image, np.ndarray):
        raise TypeError("expected a path, a PIL image or an (H, W, 3) uint8 RGB array, "
                        f"got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"expected an (H, W, 3) uint8 RGB array, got {image.shape} {image.dtype}")
    return image


def _pil_to_array(image):
    if 0 in image.size:
        raise ValueError(f"expected an image with pixels, got {image.size[0]}x{image.size[1]}")
    image.load()
    orientation = orientation_of(image)
    if image.mode.startswith("I"):  # 16 bits: convert would clip them at 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return _apply_orientation(np.array(image.convert("RGB")), orientation)


def prepare(image: ImageInput, spec: SSDSpec) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the network input of an image and the image's (width, height).

    Where the spec has a tile, the whole image comes in place of the input: utils/tiling.py cuts it.
    """
    image = as_rgb_array(image)
    height, width = image.shape[:2]
    return image if spec.tile else resize_to_input(image, spec), (width, height)


def resize_to_input(image: np.ndarray, spec: SSDSpec) -> np.ndarray:
    """Resize an (H, W, 3) uint8 RGB image to the network's input by the spec's rule.

    Returns (S, S, 3) RGB pixel values 0..255, float32 where the spec resizes in float32, else
    uint8. The network normalises them.
    """
    return add_bars(_resize(image, spec), spec)


def _resize(image, spec):
    """Resize an image to the size it has in the input; the rule names library, filter and dtype.

    "area_linear_uint8" averages whole cells of pixels first, so that no pixel is skipped, and goes
    the rest of the way linearly.
    """
    height, width = image.shape[:2]
    target = _inner_size(width, height, spec)
    if spec.resize == "pil_bicubic_uint8":
        return np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BICUBIC))
    if spec.resize == "cv2_linear_float32":
        image = image.astype(np.float32)
    x, y = _cell_size((width, height), target, spec.resize)
    cells = _average_cells(image, (x, y), None)
    if width % x == 0 and height % y == 0:
        return cv2.resize(cells, target, interpolation=cv2.INTER_LINEAR)
    # The last cells reach over the edge: the image is a part of them.
    return _warp(cells, (0, 0, width / x, height / y), target)


def resize_region(image: np.ndarray, region: np.ndarray, spec: SSDSpec, *, flip: bool
                  ) -> np.ndarray:
    """Resize a region of an image to the size it has in the network input, mirrored or not.

    The region is xyxy in fractions of the image; what lies outside of the image has the mean
    colour. Returns (h, w, 3) uint8, still without the bars of letterboxing.
    """
    if (region == (0, 0, 1, 1)).all():  # exactly what prediction sees
        sample = _resize(image, spec)
        sample = np.array(sample if sample.dtype == np.uint8 else np.rint(sample), np.uint8)
        return cv2.flip(sample, 1) if flip else sample
    height, width = image.shape[:2]
    sides = (region[2:] - region[:2]) * (width, height)
    target = _inner_size(*sides, spec)
    cell = np.array(_cell_size(sides, target, spec.resize))
    low, high = region.reshape(2, 2) * (width, height)  # in pixels
    # Average cells of the region alone, with one more around it for the linear part. A region may
    # lie beside the image: then a pixel that it does not touch stands for the image.
    start = np.minimum((np.floor(low).astype(int) - cell).clip(0), (width - 1, height - 1))
    end = np.maximum(np.ceil(high).astype(int) + cell, start + 1)
    fill = None if (region >= 0).all() and (region <= 1).all() else spec.mean
    cells = _average_cells(image[start[1]:end[1], start[0]:end[0]], cell.tolist(), fill)
    in_cells = np.concatenate([(low - start) / cell, (high - start) / cell])
    return _warp(cells, in_cells, target, flip=flip, fill=fill)


def _cell_size(size, target, rule):
    """Return how many pixels (in x, in y) are averaged to one before the linear part of a rule."""
    if rule.startswith("cv2_linear"):
        return 1, 1
    x, y = (max(1, int(have / need + 1e-9)) for have, need in zip(size, target))
    # Even from 4 on: existing weights were trained with that.
    return (x // 2 * 2, y // 2 * 2) if min(x, y) >= 4 else (x, y)


def _average_cells(image, cell, fill):
    """Return the means of cells of (x, y) pixels; beyond the image is `fill`, None: its edge."""
    x, y = cell
    if x == y == 1:
        return image
    height, width = image.shape[:2]
    right, below = -width % x, -height % y
    if right or below:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, _border(fill), value=fill)
    # Halfway between two pixels lies their mean: the same, four times as fast.
    kernel = cv2.INTER_LINEAR if max(x, y) == 2 else cv2.INTER_AREA
    return cv2.resize(image, ((width + right) // x, (height + below) // y), interpolation=kernel)


def _warp(image, region, target, *, flip=False, fill=None):
    """Resize a region, xyxy in pixels, to `target` linearly; beyond the image is `fill`."""
    left, top, right, bottom = region
    scale_x, scale_y = (right - left) / target[0], (bottom - top) / target[1]
    if flip:
        left, scale_x = right, -scale_x
    # Pixel centres lie at +0.5: source + 0.5 = edge + (target + 0.5) * scale.
    matrix = np.array([[scale_x, 0, left + 0.5 * scale_x - 0.5],
                       [0, scale_y, top + 0.5 * scale_y - 0.5]])
    return cv2.warpAffine(image, matrix, target, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=_border(fill), borderValue=fill)


def _border(fill):
    return cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT


def add_bars(resized: np.ndarray, spec: SSDSpec) -> np.ndarray:
    """Return a resized image in the middle of the letterbox fill, (S, S, 3); as is without it."""
    if not spec.letterbox:
        return resized
    height, width = resized.shape[:2]
    x0, y0 = (spec.size - width) // 2, (spec.size - height) // 2
    canvas = np.full((spec.size, spec.size, 3), spec.letterbox_fill, dtype=resized.dtype)
    canvas[y0:y0 + height, x0:x0 + width] = resized
    return canvas


def stack_inputs(inputs: Sequence[np.ndarray]) -> torch.Tensor:
    """Stack (S, S, 3) arrays into a (B, 3, S, S) tensor of their dtype, channels last in memory."""
    return torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)


def _inner_size(width, height, spec):
    """Return the (width, height) in the input of an image of this size, without bars."""
    if not spec.letterbox:
        return spec.size, spec.size
    scale = min(spec.size / width, spec.size / height)
    return max(1, int(width * scale)), max(1, int(height * scale))


def input_rect(width: float, height: float, spec: SSDSpec) -> tuple[int, int, int, int]:
    """Return where an image of this size lies in the network input, xyxy in pixels."""
    inner_width, inner_height = _inner_size(width, height, spec)
    x0, y0 = (spec.size - inner_width) // 2, (spec.size - inner_height) // 2
    return x0, y0, x0 + inner_width, y0 + inner_height


def boxes_to_input(boxes: np.ndarray, width: float, height: float, spec: SSDSpec) -> np.ndarray:
    """Map (N, 4) xyxy fractions of an image of this size to fractions of the network input."""
    offset, scale = _offset_and_scale(width, height, spec)
    return boxes * scale + offset


def boxes_to_pixels(boxes: np.ndarray, width: int, height: int, spec: SSDSpec) -> np.ndarray:
    """Map (N, 4) xyxy fractions of the network input to pixels of the image, float32.

    They are clipped to the image unless the spec clips no boxes at all.
    """
    offset, scale = _offset_and_scale(width, height, spec)
    fractions = (np.asarray(boxes, dtype=np.float64) - offset) / scale
    if spec.box_clip != "none":
        fractions = fractions.clip(0, 1)
    return (fractions * (width, height, width, height)).astype(np.float32)


def _offset_and_scale(width, height, spec):
    """Return the (4,) offset and scale that map image fractions to input fractions."""
    x0, y0, x1, y1 = (edge / spec.size for edge in input_rect(width, height, spec))
    return np.array([x0, y0, x0, y0]), np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
