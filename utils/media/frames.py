"""Images, folders, videos and cameras as one stream of frames."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from utils.ahead import ahead
from utils.cli import UserError, check_file, typed_path
from utils.image import DECODE_ERRORS, IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv",
                  ".ts", ".mts", ".m2ts", ".3gp", ".ogv")
AHEAD = 4  # frames read before they are needed
RATE = 25.0  # frames a second where the source does not say
# OpenCV's FFmpeg writes faults of a video to the screen, without its name.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class Source(NamedTuple):
    """An image, a video or a camera."""

    path: Path | int  # a camera's number
    place: Path  # below the folder of outputs: sub-folders and the whole name of the file
    is_video: bool = False


class Frame(NamedTuple):
    """An image to look at, alone or of a video."""

    source: Source
    image: np.ndarray | None  # (H, W, 3) uint8 RGB; None: lies in the file
    number: int | None = None  # in its video, from 0
    rate: float = RATE  # frames a second


# Called with what failed (a Source, or a name that none was found for), and why.
Failed = Callable[[Source | str, UserError], object]


class Finder:
    """Finds what is named, and gives each file a place of its own below the folder of outputs.

    `failed` hears of what cannot be looked at.
    """

    def __init__(self, output: Path, failed: Failed):
        self.output, self.failed = output.resolve(), failed
        self.places = {}  # place, whatever its letters' case -> path

    def find(self, name: str | Path) -> list[Source]:
        """Return a file, all images and videos in a folder and below, or a camera by its number."""
        try:
            if str(name).isdecimal() and not os.path.lexists(name):
                return [Source(int(name), Path(f"camera{int(name)}"), True)]
            path = typed_path(name)
            if path.resolve() == self.output:
                raise UserError(f"{path}: drawings would be taken for images; choose another "
                                "dir_save_path.")
            if path.is_dir():
                return self._walk(path)
            if self.output in path.resolve().parents:
                raise UserError(f"{path}: lies among the drawings; choose another dir_save_path.")
            return [self._source(path, Path(path.name))]
        except (UserError, OSError, RuntimeError) as error:  # a circle of links
            self.failed(str(name), error if isinstance(error, UserError) else
                        UserError(f"{name}: {error}; check the path."))
            return []

    def _walk(self, top):
        """Return the images and videos below a folder, without the folder of outputs."""
        def unreadable(error):
            self.failed(error.filename, UserError(f"{error.filename}: {error.strerror}."))

        found = []
        for folder, folders, files in os.walk(top, onerror=unreadable):
            folders[:] = sorted(name for name in folders
                                if Path(folder, name).resolve() != self.output)
            found += [Path(folder, name) for name in sorted(files) if
                      Path(name).suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".gif")]
        return [self._source(path, path.relative_to(top)) for path in found]

    def _source(self, path, place):
        wanted, count = place, 1
        while self.places.setdefault(str(place).casefold(), path) != path:
            count += 1
            place = wanted.with_name(f"{wanted.name}.{count}")
        return Source(path, place, path.suffix.lower() in VIDEO_SUFFIXES or _is_animated(path))


def _is_animated(path):
    """Tell whether a file is a GIF of several images."""
    if path.suffix.lower() != ".gif" or not path.is_file():
        return False
    try:
        with Image.open(path) as image:
            return getattr(image, "is_animated", False)
    except DECODE_ERRORS:
        return False


def read_frames(sources: Iterable[Source], failed: Failed) -> Iterator[Frame]:
    """Yield the frames of all sources in order; `failed` hears of videos that cannot be read.

    Those of videos are read ahead in a thread; images are left to `SSD.detect_stream`.
    """
    for source in sources:
        if source.is_video:
            yield from _video_frames(source, failed)
        else:
            yield Frame(source, None)


def _video_frames(source, failed):
    """Yield the frames of a video or camera; say where it ends before its time."""
    is_file = isinstance(source.path, Path)
    name = source.path if is_file else f"camera {source.path}"
    try:
        video = _open(source, name)
    except UserError as error:
        failed(source, error)
        return
    count, rate = (video.get(key) for key in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
    rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else RATE
    try:
        with ThreadPoolExecutor(1) as reader:
            images = ahead(reader, lambda _: _next_image(video), repeat(None), AHEAD * is_file)
            for number, image in enumerate(images):
                if image is None:
                    break
                yield Frame(source, image, number, rate)
    finally:
        video.release()
    if not number:
        failed(source, UserError(f"{name}: no frame in it can be read."))
    elif is_file and number < 0.99 * count - 2:  # some containers only estimate their number
        failed(source, UserError(f"{name}: ends after {number} of {count:.0f} frames; the file is "
                                 "damaged or cut short."))


def _open(source, name):
    """Return a cv2.VideoCapture; UserError where there is nothing to capture."""
    is_file = isinstance(source.path, Path)
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        video = cv2.VideoCapture(video_name(check_file(source.path)) if is_file else source.path)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if video.isOpened():
        return video
    empty = is_file and not source.path.stat().st_size
    raise UserError(f"{name}: " + ("an empty file." if empty else
                                   "no video that can be read; the file is damaged or of another "
                                   "kind." if is_file else "there is no such camera here."))


def video_name(path: Path) -> str:
    """Return a path as OpenCV takes it for videos; UserError for what would crash it."""
    try:
        str(path).encode()
    except UnicodeError:
        raise UserError(f"{path}: the name is not UTF-8, which OpenCV needs of videos; rename "
                        "it.") from None
    return str(path)


def _next_image(video):
    """Return the next frame as (H, W, 3) RGB, None at the end."""
    read, image = video.read()
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if read else None
