"""Images, folders, videos and cameras as one stream of frames."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from utils.cli import UserError, typed_path
from utils.image import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv",
                  ".ts", ".mts", ".m2ts", ".3gp")
DEFAULT_RATE = 25.0  # frames a second where the video does not say

# A bad video gets one line of ours, not a page of OpenCV's and FFmpeg's.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class Source(NamedTuple):
    """An image, a video or a camera."""
    path: Path | int  # the number of a camera
    name: str  # of its outputs, below their folder: sub-folders and the whole file name
    is_video: bool = False


class Frame(NamedTuple):
    """An image, or one frame of a video."""
    source: Source
    image: np.ndarray | None = None  # (H, W, 3) uint8 RGB; None: still in its file
    number: int | None = None  # in its video, from 0
    rate: float = DEFAULT_RATE  # frames a second


def find_sources(texts: Iterable[str], output_folder: Path,
                 report: Callable[[str, UserError], object]) -> list[Source]:
    """Return the images, videos and cameras that texts name, each once.

    A text is the path of a file or a folder, or the number of a camera. `report` is called with a
    text that names nothing, and why. Of two files `a.jpg` the second is named `a.jpg.2`.
    """
    sources: dict[str, Source] = {}  # by name in lower case, as some file systems compare them
    for text in texts:
        try:
            for path, name in _find(text, output_folder.resolve()):
                is_video = isinstance(path, int) or path.suffix.lower() in VIDEO_SUFFIXES
                source, count = Source(path, name, is_video), 1
                while sources.setdefault(source.name.lower(), source).path != path:
                    count += 1
                    source = source._replace(name=f"{name}.{count}")
        except UserError as error:
            report(text, error)
    return list(sources.values())


def _find(text, output_folder):
    """Return (path, name) of each source that a text names, as terminals paste paths."""
    if text.isdecimal() and not os.path.lexists(text):
        return [(int(text), f"camera{text}")]
    plain = text.strip().strip("'\"")
    readings = text, plain, re.sub(r"\\(.)", r"\1", plain)
    path = typed_path(next(filter(os.path.lexists, readings), plain))
    if output_folder in (path.resolve(), *path.resolve().parents):
        raise UserError(f"{path}: lies in the folder of the outputs; choose another dir_save_path.")
    if not path.is_dir():
        return [(path, path.name)]
    return [(file, file.relative_to(path).as_posix()) for file in sorted(path.rglob("*"))
            if file.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES and file.is_file()
            and output_folder not in file.resolve().parents]


def read_frames(sources: Iterable[Source], report: Callable[[str, UserError], object]
                ) -> Iterator[Frame]:
    """Yield the frames of all sources in order, images still in their files; report bad videos."""
    for source in sources:
        try:
            yield from _read_video(source) if source.is_video else [Frame(source)]
        except UserError as error:
            report(source.name, error)


def _read_video(source):
    """Yield the frames of a video or camera; UserError at the end where some are missing."""
    video = cv2.VideoCapture(source.path if isinstance(source.path, int) else str(source.path))
    count, rate = video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)
    rate = rate if 0 < rate <= 1000 else DEFAULT_RATE
    number, start = 0, time.monotonic()
    while (frame := video.read())[0]:
        if isinstance(source.path, int):  # a camera does not wait for the detector
            number = max(number, int((time.monotonic() - start) * rate))
        yield Frame(source, cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB), number, rate)
        number += 1
    if number < max(1, 0.99 * count - 2):  # some containers only estimate their count
        raise UserError(f"{source.path}: only {number} frames can be read; the file is damaged or "
                        "cut short, or there is no such camera.")
