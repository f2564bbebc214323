"""The one path of an image, which training, drawing, scoring and prediction share.

    file --load_image--> (H, W, 3) uint8 RGB --resize_to_input--> (S, S, 3) network input
"""

import io
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from utils.cli import UserError
from utils.multibox.spec import SSDSpec

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
ImageInput = str | os.PathLike | bytes | Image.Image | np.ndarray  # what `SSD.detect` takes
OPENCV_FORMATS = ("JPEG", "MPO", "PNG", "BMP")  # read by OpenCV, which is faster
FORMATS = (*OPENCV_FORMATS, "TIFF", "WEBP", "GIF", "AVIF", "HEIF", "JPEG2000", "PPM")
WHOLE = np.array([0.0, 0.0, 1.0, 1.0])  # the region that is the image


def load_image(source: str | os.PathLike | bytes) -> np.ndarray:
    """Read an image file, by path or its bytes, as (H, W, 3) uint8 RGB, turned as EXIF or XMP say.

    16 bits become 8, transparency is dropped. UserError for a file that is missing or broken.
    """
    is_path = isinstance(source, (str, os.PathLike))
    try:
        data = Path(source).expanduser().read_bytes() if is_path else source
        with Image.open(io.BytesIO(data)) as header:
            if header.format not in OPENCV_FORMATS:
                return _pil_to_array(header)
            orientation = orientation_of(header)
        image = cv2.imdecode(np.frombuffer(data, np.uint8),
                             cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return _apply_orientation(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), orientation)
    except Exception as error:  # decoders raise all kinds for broken files
        raise _unreadable(source if is_path else f"{len(source)} bytes", error) from None


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return the (width, height) that `load_image` gives, from the header of a file alone."""
    try:
        with Image.open(path) as image:
            return image.size[::-1] if orientation_of(image) >= 5 else image.size
    except Exception as error:
        raise _unreadable(path, error) from None


def _unreadable(path, error):
    reason = getattr(error, "strerror", None) or "not an image that can be read"
    return UserError(f"{path}: {reason}; check the path, or replace, convert or remove the file.")


def orientation_of(image: Image.Image) -> int:
    """Return the orientation still to be applied to a PIL image, EXIF's 1 to 8; 1 for nonsense."""
    try:
        # Not image.getexif(): that of PNG files decodes all pixels to look for EXIF behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # broken EXIF; the image may be whole
        return 1
    return value if value in range(1, 9) and image.format != "TIFF" else 1  # Pillow turns TIFF


def _apply_orientation(image, orientation):
    """Turn and mirror an (H, W, 3) array as an EXIF orientation says."""
    if orientation >= 5:
        image = cv2.transpose(image)
    if orientation in (2, 3, 6, 7):
        image = cv2.flip(image, 1)
    return cv2.flip(image, 0) if orientation in (3, 4, 7, 8) else image


def as_rgb_array(image: ImageInput, *, bgr: bool = False) -> np.ndarray:
    """Return what `SSD.detect` takes, `bgr` too, as an (H, W, 3) uint8 RGB array; same errors."""
    if isinstance(image, (bytes, bytearray, str, os.PathLike)):
        return load_image(image)
    if isinstance(image, Image.Image):
        return _pil_to_array(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"expected a path, bytes, PIL image or NumPy array, got {type(image)}")
    channels = (*image.shape, 1)[2] if image.ndim in (2, 3) else 0
    if image.dtype != np.uint8 or channels not in (1, 3, 4) or not image.size:
        raise ValueError(f"expected uint8, (H, W) or (H, W, 3 or 4), got {image.shape} "
                         f"{image.dtype}; convert 16 bits by (image >> 8).astype(np.uint8), "
                         "floats up to 1 by (255 * image).astype(np.uint8)")
    if channels == 3 and not bgr:
        return image
    conversions = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB,
                   4: cv2.COLOR_BGRA2RGB if bgr else cv2.COLOR_RGBA2RGB}
    return cv2.cvtColor(np.ascontiguousarray(image), conversions[channels])


def _pil_to_array(image):
    image.load()
    orientation = orientation_of(image)
    if image.mode.startswith("I"):  # 16 bits: convert would clip them at 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return _apply_orientation(np.array(image.convert("RGB")), orientation)


def prepare(image: ImageInput, spec: SSDSpec, *, bgr: bool = False
            ) -> tuple[np.ndarray, tuple[int, int]]:
    """Return (network input, (width, height) of the image); with a tile the input is the image."""
    image = as_rgb_array(image, bgr=bgr)
    return image if spec.tile else resize_to_input(image, spec), image.shape[1::-1]


def resize_to_input(image: np.ndarray, spec: SSDSpec, region: np.ndarray = WHOLE, *,
                    flip: bool = False) -> np.ndarray:
    """Resize an (H, W, 3) uint8 RGB image, or a region of it, to the network input.

    The region is xyxy in fractions of the image; what lies outside of the image has the mean
    colour. `flip` mirrors it. Returns (S, S, 3) uint8, or float32 where the spec's rule says so.
    """
    size = np.array(image.shape[1::-1])
    sides = (region[2:] - region[:2]) * size
    x0, y0, x1, y1 = input_rect(*sides, spec)
    target = (x1 - x0, y1 - y0)
    if (region == WHOLE).all():
        inner = _resize_whole(image, target, spec.resize)
        inner = cv2.flip(inner, 1) if flip else inner
    else:
        fill = None if (region >= 0).all() and (region <= 1).all() else spec.mean
        cell = _cell_size(sides, target, spec.resize)
        inner = _resample(image, region[:2] * size, region[2:] * size, target, cell,
                          fill=fill, flip=flip)
    return cv2.copyMakeBorder(inner, y0, spec.size - y1, x0, spec.size - x1, cv2.BORDER_CONSTANT,
                              value=[spec.letterbox_fill] * 3)


def _resize_whole(image, target, rule):
    """Resize an image to a (width, height) by a rule: its library, filter and dtype."""
    if rule == "pil_bicubic_uint8":
        return np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BICUBIC))
    if rule == "cv2_linear_float32":
        image = image.astype(np.float32)
    size = np.array(image.shape[1::-1])
    cell = _cell_size(size, target, rule)
    if (size % cell).any():
        return _resample(image, np.zeros(2), size, target, cell)
    return cv2.resize(_average_cells(image, cell), target, interpolation=cv2.INTER_LINEAR)


def _cell_size(size, target, rule):
    """Return how many pixels (in x, in y) are averaged to one before the linear part of a rule."""
    if rule.startswith("cv2_linear"):
        return 1, 1
    x, y = (max(1, int(have / need + 1e-9)) for have, need in zip(size, target))
    # Even from 4 on: existing weights were trained with that.
    return (x // 2 * 2, y // 2 * 2) if min(x, y) >= 4 else (x, y)


def _resample(image, low, high, target, cell, *, fill=None, flip=False):
    """Resize the region between two corners, in pixels; beyond the image is `fill`, or its edge."""
    # With a cell more around it for the linear part. A region beside the image gets a pixel of it.
    last = np.array(image.shape[1::-1]) - 1
    x0, y0 = start = np.minimum((np.floor(low).astype(int) - cell).clip(0), last)
    x1, y1 = np.maximum(np.ceil(high).astype(int) + cell, start + 1)
    border = cv2.BORDER_REPLICATE if fill is None else cv2.BORDER_CONSTANT
    part = image[y0:y1, x0:x1]
    right, below = -part.shape[1] % cell[0], -part.shape[0] % cell[1]
    part = cv2.copyMakeBorder(part, 0, below, 0, right, border, value=fill)
    (left, top), (right, bottom) = (low - start) / cell, (high - start) / cell
    scale_x, scale_y = (right - left) / target[0], (bottom - top) / target[1]
    if flip:
        left, scale_x = right, -scale_x
    # Pixel centres lie at +0.5: source + 0.5 = edge + (target + 0.5) * scale.
    matrix = np.array([[scale_x, 0, left + 0.5 * scale_x - 0.5],
                       [0, scale_y, top + 0.5 * scale_y - 0.5]])
    return cv2.warpAffine(_average_cells(part, cell), matrix, target, borderMode=border,
                          borderValue=fill, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _average_cells(image, cell):
    """Return the means of cells of (x, y) pixels, of an image of whole cells."""
    x, y = cell
    if x == y == 1:
        return image
    # Halfway between two pixels lies their mean: the same, four times as fast.
    kernel = cv2.INTER_LINEAR if max(x, y) == 2 else cv2.INTER_AREA
    return cv2.resize(image, (image.shape[1] // x, image.shape[0] // y), interpolation=kernel)


def input_rect(width: float, height: float, spec: SSDSpec) -> tuple[int, int, int, int]:
    """Return where an image of this size lies in the network input, xyxy in pixels."""
    if not spec.letterbox:
        return 0, 0, spec.size, spec.size
    scale = min(spec.size / width, spec.size / height)
    inner_width, inner_height = max(1, int(width * scale)), max(1, int(height * scale))
    x0, y0 = (spec.size - inner_width) // 2, (spec.size - inner_height) // 2
    return x0, y0, x0 + inner_width, y0 + inner_height


def boxes_to_input(boxes: np.ndarray, width: float, height: float, spec: SSDSpec) -> np.ndarray:
    """Map (N, 4) xyxy fractions of an image of this size to fractions of the network input."""
    offset, scale = _offset_and_scale(width, height, spec)
    return boxes * scale + offset


def boxes_to_pixels(boxes: np.ndarray, width: int, height: int, spec: SSDSpec) -> np.ndarray:
    """Map (N, 4) xyxy fractions of the input to float32 pixels of the image, as the spec clips."""
    offset, scale = _offset_and_scale(width, height, spec)
    fractions = (np.asarray(boxes, dtype=np.float64) - offset) / scale
    if spec.box_clip != "none":
        fractions = fractions.clip(0, 1)
    return (fractions * (width, height, width, height)).astype(np.float32)


def _offset_and_scale(width, height, spec):
    """Return the (4,) offset and scale that map image fractions to input fractions."""
    x0, y0, x1, y1 = (edge / spec.size for edge in input_rect(width, height, spec))
    return np.array([x0, y0, x0, y0]), np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
