"""Images, folders, videos and cameras as one stream of frames."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.request import url2pathname

import cv2
import numpy as np

from utils.cli import UserError, check_file, typed_path
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


class SourceFinder:
    """Finds images, videos and cameras by what a user names, outside the folder of outputs.

    Each file gets a name of its own for its outputs: of two files `a.jpg` in different folders
    the second is `a.jpg.2`.
    """

    def __init__(self, output_folder: Path):
        self.output_folder = output_folder.resolve()
        self._paths: dict[str, Path] = {}  # by name in lower case

    def find(self, text: str) -> list[Source]:
        """Return the source that a text names, or all images and videos in and below a folder.

        The text is a path, as terminals and file managers paste them, or the number of a camera.
        Raises UserError where there is no such file or folder.
        """
        if text.isdecimal() and not os.path.lexists(text):
            return [Source(int(text), f"camera{text}", is_video=True)]
        path = _pasted_path(text)
        if self.output_folder in (path.resolve(), *path.resolve().parents):
            raise UserError(f"{path}: lies in the folder of the outputs; choose another "
                            "dir_save_path.")
        if not path.is_dir():
            return [self._source(path, path.name)]
        sources = []
        for folder, subfolders, files in os.walk(path):
            subfolders[:] = sorted(name for name in subfolders
                                   if Path(folder, name).resolve() != self.output_folder)
            for file in (Path(folder, name) for name in sorted(files)):
                if file.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
                    sources.append(self._source(file, file.relative_to(path).as_posix()))
        return sources

    def _source(self, path, name):
        unique, count = name, 1
        while self._paths.setdefault(unique.lower(), path) != path:
            count += 1
            unique = f"{name}.{count}"
        return Source(path, unique, path.suffix.lower() in VIDEO_SUFFIXES)


def _pasted_path(text):
    """Return the path in a text; the plain reading comes first."""
    plain = re.sub(r"^(['\"])(.*)\1$", r"\2", text.strip())
    if plain.startswith("file://"):
        plain = url2pathname(plain.removeprefix("file://"))
    readings = (text, plain, re.sub(r"\\(.)", r"\1", plain))
    return typed_path(next((path for path in readings if os.path.lexists(path)), plain))


def read_frames(sources: Iterable[Source], report: Callable[[str, UserError], object]
                ) -> Iterator[Frame]:
    """Yield the frames of all sources in order; images are left in their files.

    `report` is called with the name of each video that cannot be read, and why.
    """
    for source in sources:
        if not source.is_video:
            yield Frame(source)
            continue
        try:
            yield from _read_video(source)
        except UserError as error:
            report(source.name, error)


def _read_video(source):
    """Yield the frames of a video or camera; UserError at the end where some are missing."""
    is_file = isinstance(source.path, Path)
    video = cv2.VideoCapture(str(check_file(source.path)) if is_file else source.path)
    try:
        if not is_file and not video.isOpened():
            raise UserError(f"camera {source.path}: there is no such camera here.")
        count, rate = (video.get(key) for key in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        rate = rate if 0 < rate <= 1000 else DEFAULT_RATE
        number = 0
        while (frame := video.read())[0]:
            yield Frame(source, cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB), number, rate)
            number += 1
    finally:
        video.release()
    # Some containers only estimate their number of frames.
    if is_file and number < max(1, 0.99 * count - 2):
        raise UserError(f"{source.path}: only {number} frames can be read; the file is damaged, "
                        "cut short or no video.")
