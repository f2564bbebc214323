"""Images from file to network input: the one path for training, validation, prediction, mAP."""

import io
import os
import re
import stat
import struct
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image, JpegImagePlugin

from utils.cli import UserError, check_file, typed_path
from utils.resize import may_halve, resize

JPEG_START = b"\xff\xd8"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
# What `SSD.detect` takes.
ImageInput = str | os.PathLike | Image.Image | np.ndarray
# What decoders raise for broken files.
DECODE_ERRORS = (cv2.error, OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError,
                 RuntimeError, ArithmeticError, struct.error, Image.DecompressionBombError)
# A halved JPEG has chroma as stored, a whole one has it interpolated to twice its size (libjpeg's
# "fancy upsampling"): the means of 2x2 pixels of that are this filter of the stored one.
CHROMA_FILTER = np.array([1, 6, 1], np.float32) / 8


class Header(NamedTuple):
    """What an image file says of itself before its pixels are decoded."""

    size: tuple[int, int]  # (width, height) as load_image gives it
    orientation: int  # how the decoded pixels have to be turned; EXIF's 1 to 8
    # A JPEG decoder can give the means of 2x2 pixels. Even sides, and chroma stored at a half
    # ("4:2:0", nearly all photographs): for the rest it gives something else at strong noise.
    can_be_halved: bool


def load_image(path):
    """Read an image file as (H, W, 3) uint8 RGB; UserError where it is missing or no image.

    Grey, palette and 16-bit images become 8-bit RGB, transparency is dropped, and a rotation
    that the file asks for (`orientation_of`) is carried out. A path may have any letters, also on
    Windows, where OpenCV's own reader fails on them.
    """
    return decode_image(read_bytes(path), path)


def read_bytes(path):
    """Return the contents of a file; UserError names it where it cannot be read."""
    try:
        check_regular(path)
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; check the path.") from None
    except ValueError as error:  # a zero byte in the path
        raise UserError(f"{str(path)!a}: {error}; check the path.") from None


def check_regular(path):
    """Raise UserError for folders, pipes and devices: reading some of them never ends."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UserError(f"{path}: not a file with an image in it; check the path.")


def decode_image(data, path, header=None, *, halve=False):
    """Decode the bytes of an image file as `load_image`.

    The path is for messages; `header` is that of `read_header`, where it is known already. `halve`
    gives the means of 2x2 pixels, which is faster, of an image that `can_be_halved`.
    """
    header = header or read_header(io.BytesIO(data), path)
    mode = cv2.IMREAD_REDUCED_COLOR_2 if halve else cv2.IMREAD_COLOR
    try:
        # OpenCV before 5 misreads some, and before 4.11 knows no GIF.
        if data[8:12] == b"WEBP" or data[:4] == b"GIF8":
            return as_rgb_array(Image.open(io.BytesIO(data)))
        # OpenCV and Pillow do not know the same marks of orientation: `orientation_of` decides.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except DECODE_ERRORS:
        image = None
    if image is None:
        raise UserError(f"{path}: not an image that can be read; replace or remove the file.")
    image = _filter_chroma(image) if halve else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return turn(image, header.orientation)


def _filter_chroma(image):
    """Return a halved BGR image as RGB, with the chroma that means of the whole image have."""
    ycc = cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb)
    for channel in (1, 2):  # one plane at a time: fresh memory costs more than the filter
        plane = cv2.extractChannel(ycc, channel)
        plane = cv2.sepFilter2D(plane, -1, CHROMA_FILTER, CHROMA_FILTER, dst=plane,
                                borderType=cv2.BORDER_REPLICATE)
        cv2.insertChannel(plane, ycc, channel)
    return cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB)


def read_header(file, path=None):
    """Return the Header of an image.

    `file` is a path or a binary file object; `path` is named in errors in its place. Raises
    UserError for what is not an image.
    """
    path = file if path is None else path
    try:
        if isinstance(file, (str, os.PathLike)):
            check_regular(file)
        with Image.open(file) as image:
            # Pillow and OpenCV carry out a TIFF's own tag by themselves.
            done = image.format == "TIFF" and ExifTags.Base.Orientation in image.tag_v2
            orientation = 1 if done else orientation_of(image)
            size = image.size[::-1] if orientation >= 5 else image.size
            even = size[0] % 2 == size[1] % 2 == 0
            return Header(size, orientation, even and JpegImagePlugin.get_sampling(image) == 2)
    except Image.DecompressionBombError:
        raise UserError(f"{path}: not an image that can be read, it has more than "
                        f"{2 * Image.MAX_IMAGE_PIXELS // 10**6} megapixels; cut it into parts or "
                        "scale it down.") from None
    except DECODE_ERRORS as error:
        reason = re.sub(" <_io.*>", "", str(error))  # Pillow's word for the bytes of the file
        raise UserError(f"{path}: not an image that can be read ({reason}); "
                        "replace or remove the file.") from None


def image_size(file, path=None):
    """Return (width, height) of an image as `load_image` gives it; arguments of `read_header`."""
    return read_header(file, path).size


def orientation_of(image):
    """Return the orientation of a PIL image, 1 to 8, by EXIF or else XMP; 1 for nonsense."""
    try:
        file = getattr(image, "fp", None)  # none where it came out of a pickle
        if image.format == "PNG" and file and not _png_has_marks(file):
            return 1
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODE_ERRORS:  # EXIF that cannot be read
        return 1
    return value if value in range(1, 9) else 1


def _png_has_marks(file):
    """Tell whether a PNG file holds EXIF or XMP, perhaps behind its pixels.

    Pillow would decode the whole image to find that out.
    """
    place = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return True
            text = file.read(min(length, 24)) if kind in (b"tEXt", b"zTXt", b"iTXt") else b""
            if text.startswith((b"XML:com.adobe.xmp", b"Raw profile type")):
                return True
            file.seek(length - len(text) + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(place)


def turn(image, orientation):
    """Carry out an EXIF orientation, 1 to 8, on an (H, W, 3) array."""
    if orientation >= 5:
        image = cv2.transpose(image)
    if orientation in (2, 3, 6, 7):
        image = cv2.flip(image, 1)
    return cv2.flip(image, 0) if orientation in (3, 4, 7, 8) else image


def check_images(images):
    """Raise TypeError for what is one image, or none, in the place of several."""
    if isinstance(images, (str, bytes, os.PathLike, Image.Image)) or not hasattr(
            images, "__iter__"):
        raise TypeError(f"expected a list of images, got {type(images).__name__}")


def find_image(image):
    """Return an image as it is, or its path where it was found, before anything is read."""
    return check_file(typed_path(image)) if isinstance(image, (str, os.PathLike)) else image


def as_rgb_array(image):
    """Return a path, PIL image or RGB array as an (H, W, 3) uint8 array.

    Raises TypeError for anything else, ValueError for an array of another shape or dtype and for
    an image without pixels, UserError for an unreadable file.
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
    """Return a PIL image, turned as it asks for, as an (H, W, 3) uint8 array."""
    if 0 in image.size:
        raise ValueError(f"expected an image with pixels, got {image.size[0]}x{image.size[1]}")
    image.load()  # a TIFF is turned by it, and then asks for no turn
    orientation = orientation_of(image)
    if image.mode.startswith("I"):  # 16 bits; convert would cut them off at 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return turn(np.array(image.convert("RGB")), orientation)  # a copy, to draw on


def read_input(image, spec):
    """Read a path, PIL image or (H, W, 3) uint8 RGB array as network input.

    A large JPEG file is halved by its decoder where that gives the same input. Returns the input
    of `resize_to_input` and the image's (width, height).
    """
    if not isinstance(image, (str, os.PathLike)):
        array = as_rgb_array(image)
        return resize_to_input(array, spec), array.shape[1::-1]
    data = read_bytes(image)
    header = read_header(io.BytesIO(data), image)
    halve = header.can_be_halved and may_halve(header.size, inner_size(*header.size, spec),
                                               spec.resize)
    array = decode_image(data, image, header, halve=halve)
    return resize_to_input(array, spec, header.size), header.size


def input_rect(width, height, spec):
    """Return where an image of this size lies in the network input: (x0, y0, x1, y1) in pixels.

    The whole input when images are squashed; centred with its aspect ratio under letterbox.
    """
    inner_w, inner_h = inner_size(width, height, spec)
    x0, y0 = (spec.size - inner_w) // 2, (spec.size - inner_h) // 2
    return x0, y0, x0 + inner_w, y0 + inner_h


def inner_size(width, height, spec):
    """Return the (width, height) of `input_rect`."""
    if not spec.letterbox:
        return spec.size, spec.size
    scale = min(spec.size / width, spec.size / height)
    return max(1, int(width * scale)), max(1, int(height * scale))


def resize_to_input(image, spec, size=None):
    """Resize an image to the network's input size by the spec's rule.

    Normalising first, as torchvision does, gives the same numbers: resizing is linear and its
    weights add up to one.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: (width, height) of the whole image where `image` was halved by its decoder.

    Returns:
        (S, S, 3) RGB in grey levels, float32 where the spec resizes in float32, else uint8.
    """
    size = size or image.shape[1::-1]
    return add_bars(resize(image, inner_size(*size, spec), spec.resize, size), spec)


def add_bars(resized, spec):
    """Place a resized image in the middle of the letterbox fill, as `input_rect`; (S, S, 3)."""
    if not spec.letterbox:
        return resized
    height, width = resized.shape[:2]
    x0, y0 = (spec.size - width) // 2, (spec.size - height) // 2
    canvas = np.full((spec.size, spec.size, 3), spec.letterbox_fill, dtype=resized.dtype)
    canvas[y0:y0 + height, x0:x0 + width] = resized
    return canvas


def stack_inputs(inputs):
    """Stack (S, S, 3) arrays into a (B, 3, S, S) tensor of their dtype, channels last in memory."""
    return torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)


def boxes_to_input(boxes, width, height, spec):
    """Map (N, 4) xyxy fractions of an image of this size to fractions of the network input."""
    offset, scale = _placement(width, height, spec)
    return boxes * scale + offset


def boxes_to_pixels(boxes, width, height, spec):
    """Map (N, 4) xyxy fractions of the network input to pixel edges of the image, float32.

    They are clipped to the image where the spec clips boxes at all.
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
