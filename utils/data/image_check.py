"""Every image file of a data set read once: its size, its content, and whether it is whole."""

import hashlib
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from utils.cli import UserError
from utils.data.sources import UNREAD_SUFFIXES, ProblemKind
from utils.image import image_size, orientation_of


class ImageFacts(NamedTuple):
    """What an image file turned out to be."""

    size: tuple[int, int] | None  # (width, height) as load_image returns it; None: unreadable
    orientation: int = 1  # of EXIF, 1 for upright
    digest: bytes = b""  # of the file's content
    fault: ProblemKind | None = None
    reason: str = ""


def inspect_images(paths: Iterable[Path], *, num_threads: int,
                   progress: Callable[[Iterable], Iterable] = iter) -> dict[Path, ImageFacts]:
    """Read every image once; `progress`, such as tqdm, is wrapped around the results."""
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(num_threads) as pool:
        return dict(zip(paths, progress(pool.map(inspect_image, paths))))


def inspect_image(path: Path) -> ImageFacts:
    """Return the ImageFacts of one file; damage is reported in them, not raised."""
    fault = ProblemKind.IMAGE_UNREADABLE
    if path.suffix.lower() in UNREAD_SUFFIXES:
        return ImageFacts(None, fault=fault, reason="convert it to .png or .jpg")
    try:
        data = path.read_bytes()
        size = image_size(path)
        with Image.open(io.BytesIO(data)) as image:
            orientation = orientation_of(image)
            image.load()  # raises where the end of the file is missing
        return ImageFacts(size, orientation, hashlib.blake2b(data, digest_size=16).digest())
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ").partition(";")[0]
    except Exception as error:  # for damaged files Pillow raises OSError, struct.error and others
        reason = str(error)
        if "truncated" in reason:
            fault, reason = ProblemKind.IMAGE_TRUNCATED, "the end of the file is missing"
    return ImageFacts(None, fault=fault, reason=reason)
