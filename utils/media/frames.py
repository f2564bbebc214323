"""Images, folders, videos, cameras and network streams as one stream of frames."""

import contextlib
import glob
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np
from PIL import Image

from utils.cli import UserError, typed_path, walk_files
from utils.image import FORMATS, IMAGE_SUFFIXES

# Content tells what a file is. These name what a broken or unknown one was meant to be.
IMAGES = (*IMAGE_SUFFIXES, ".gif", ".avif", ".heic", ".heif", ".jp2")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
RATES = 1, 120  # frames a second that a video may say; webm files of browsers say 1000
DEFAULT_RATE = 30.0  # where it says another one

# A bad video gets one line of ours, not a page of OpenCV's and FFmpeg's.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class Source(NamedTuple):
    """An image, a video, a camera or a stream."""
    path: Path | int | str  # a file, the number of a camera, or an address
    name: str  # in messages and tables: sub-folders and the whole file name
    output: str  # the same of its outputs: without suffix, unless another source shares that
    is_video: bool = False


class Frame(NamedTuple):
    """An image, or one frame of a video."""
    source: Source
    image: np.ndarray | None = None  # (H, W, 3) uint8 RGB; None: still in its file
    number: int | None = None  # in its video, from 0
    seconds: float | None = None  # after the first frame of its video
    rate: float = DEFAULT_RATE  # frames a second


def find_sources(texts: Iterable[str], output_folder: Path,
                 report: Callable[[str, UserError], object]) -> list[Source]:
    """Return the images, videos, cameras and streams that texts name, each once.

    A text is a path, a pattern such as *.jpg, the number of a camera, or an address. `report` is
    called with a text that names nothing, and why. Of two files `a.jpg` the second is `a.jpg.2`.
    """
    sources: dict[str, Source] = {}  # by name in lower case, as some file systems compare them
    for text in texts:
        try:
            for path, name, is_video in _find(text, output_folder.resolve()):
                output = re.sub(r"\.(?=\w*[A-Za-z])\w{2,5}$", "", name)
                source, count = Source(path, name, output, is_video), 1
                while sources.setdefault(source.name.lower(), source).path != path:
                    count += 1
                    source = source._replace(name=f"{name}.{count}")
        except UserError as error:
            report(text, error)
    counts = Counter(source.output.lower() for source in sources.values())
    return [source if counts[source.output.lower()] == 1 else source._replace(output=source.name)
            for source in sources.values()]


def _find(text, output_folder):
    """Return (path, name, is it a video) of each source that a text names."""
    plain = text.strip().strip("'\"")  # as terminals paste paths
    if re.fullmatch("[0-9]{1,3}", text) and not os.path.lexists(text):
        return [(int(text), f"camera{text}", True)]
    if "://" in plain:
        address = urlsplit(plain)  # whose password is nobody's business
        name = re.sub(r"[^\w.-]+", "_", f"{address.hostname}{address.path}").strip("_")
        return [(plain, name, not address.path.lower().endswith(IMAGES))]
    plain = next(filter(os.path.lexists, (plain, plain.replace("\\ ", " "))), plain)
    if glob.has_magic(plain) and not os.path.lexists(plain):
        paths = sorted(glob.glob(os.path.expanduser(plain), recursive=True))
        if not paths:
            raise UserError(f"{plain}: no file has such a name; check the pattern.")
        return [source for path in paths for source in _find(path, output_folder)]
    path = typed_path(plain)
    if output_folder in (path.resolve(), *path.resolve().parents):
        raise UserError(f"{path}: lies in the folder of the outputs; choose another dir_save_path.")
    files = walk_files(path) if path.is_dir() else {path.name: path}
    return [(file, name, kind == "video") for name, file in files.items()
            if output_folder not in file.resolve().parents
            and ((kind := _kind_of(file)) or file == path)]


def _kind_of(path):
    """Return "image" or "video", by the content of a file or what it was meant to be; else ""."""
    with contextlib.suppress(Exception), Image.open(path) as image:  # of any kind, as load_image
        if image.format in FORMATS:
            return "image"
    with contextlib.suppress(OSError), path.open("rb") as file:
        # Text is no video, although FFmpeg can show it.
        if b"\0" in file.read(1024) and cv2.VideoCapture(str(path)).isOpened():
            return "video"
    suffix = path.suffix.lower()
    return "video" if suffix in VIDEOS else "image" if suffix in IMAGES else ""


def read_frames(sources: Iterable[Source], report: Callable[[str, UserError], object]
                ) -> Iterator[Frame]:
    """Yield the frames of all sources in order, images still in their files; report bad videos."""
    for source in sources:
        try:
            if source.is_video:
                yield from _read_video(source)
            else:
                is_file = isinstance(source.path, Path)
                yield Frame(source, None if is_file else next(_read_video(source)).image)
        except UserError as error:
            report(source.name, error)


def _read_video(source):
    """Yield the frames of a video or camera; UserError at the end where some are missing."""
    is_camera = isinstance(source.path, int)
    video = cv2.VideoCapture(source.path if is_camera else str(source.path))
    rate = stated = video.get(cv2.CAP_PROP_FPS)
    if not RATES[0] <= rate <= RATES[1]:
        rate = DEFAULT_RATE
    seconds, start, number = -1 / rate, None, 0
    while (frame := video.read())[0]:
        # A camera does not wait for the detector, and frames of files are not evenly spaced.
        clock = time.monotonic() if is_camera else video.get(cv2.CAP_PROP_POS_MSEC) / 1000
        start = clock if start is None else start
        seconds = clock - start if clock - start > seconds else seconds + 1 / rate
        image = cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)
        yield Frame(source, image, number, round(seconds, 3), rate)
        number += 1
    # Some containers only estimate how many frames they have.
    missing = video.get(cv2.CAP_PROP_FRAME_COUNT) / max(stated, 1) - seconds - 1 / rate
    if not number or missing > 0.01 * seconds + 2 / rate:
        raise UserError(f"{source.name}: only {number} frames can be read; the file is damaged or "
                        "cut short, or there is no such camera or stream.")
