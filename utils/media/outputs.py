"""Detections as files: drawn images and videos, crops, JSON, CSV; and a summary of all."""

import csv
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.cli import UserError, make_folder, shorten, writing
from utils.coco_ids import coco_results, numbers_of
from utils.detections import COLUMNS, Detections
from utils.distributed import gather, rank, world_size
from utils.draw import draw_detections
from utils.image import image_size
from utils.media.frames import Frame, Source

JPEG_QUALITY = 95
ImageFormat = Literal["jpg", "png"]
HAS_DISPLAY = sys.platform in ("win32", "darwin") or bool(
    os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class Outputs:
    """Writes the files of frames that come in order, named after the whole name of the original.

    For a.jpg: a.jpg.jpg (drawn), a.jpg.json, crops/a.jpg_1_cat_0.98.jpg; for a video clip.avi:
    clip.avi.mp4, clip.avi.json, which `close` completes.

    Attributes:
        results: {name of the image or video: (frame number or None, Detections) of each frame}.
        counts: objects of each class.
        failures: {name: what went wrong}; that costs one line, and the rest goes on.
    """

    def __init__(self, folder: Path, *, draw: bool = True, crop: bool = False,
                 save_json: bool = False, save_csv: bool = False,
                 image_format: ImageFormat = "jpg"):
        self.folder, self.draw, self.crop = folder, draw, crop
        self.save_json, self.save_csv, self.image_format = save_json, save_csv, image_format
        self.results: dict[str, list[tuple[int | None, Detections]]] = {}
        self.counts: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self._video, self._writer = None, None  # Source and cv2.VideoWriter of the current video

    def report(self, name: str, error: UserError) -> None:
        """Print what cannot be read or written, once for each source."""
        if name not in self.failures:
            self.failures[name] = str(error)
            tqdm.write(f"error: {error}")

    def write(self, frame: Frame, detections: Detections) -> np.ndarray | None:
        """Write the files of a frame; return it drawn, (H, W, 3) uint8 RGB, if it has its image."""
        name, drawn = frame.source.name, None
        if frame.image is not None:
            drawn = np.asarray(draw_detections(frame.image, detections))
        self.counts.update(detections.names)
        if not frame.number:  # an image, or the start of a video
            self.results[name] = []
        if self.save_json or self.save_csv:  # a camera may run for days
            self.results[name].append((frame.number, detections))
        try:
            if self.crop:
                self._write_crops(frame, detections)
            if frame.number is not None:
                self._write_to_video(frame, drawn)
                return drawn
            if self.draw:
                self.write_image(name, drawn)
            if self.save_json:
                width, height = image_size(frame.source.path)
                write_json(self.folder / f"{name}.json", {
                    "image": str(frame.source.path), "width": width, "height": height,
                    "objects": detections.rows()})
        except UserError as error:
            self.report(name, error)
        return drawn

    def write_image(self, name: str, image: np.ndarray) -> None:
        """Write (H, W, 3) uint8 RGB below the folder, the format added to its name."""
        path = self.folder / f"{name}.{self.image_format}"
        encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
                                     [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not encoded:  # JPEG holds 65,500 pixels a side
            raise UserError(f"{path}: {image.shape[1]}x{image.shape[0]} pixels are too many; "
                            'choose image_format "png".')
        make_folder(path.parent)
        with writing(path) as part:
            part.write_bytes(data)

    def _write_crops(self, frame, detections):
        """Write a file for each object, named by image, class and score."""
        height, width = frame.image.shape[:2]
        mark = "" if frame.number is None else f"_{frame.number:06}"
        for number, (box, label, score) in enumerate(
                zip(detections.boxes, detections.names, detections.scores), start=1):
            x1, y1 = np.floor(box[:2]).clip(0, (width - 1, height - 1)).astype(int)
            x2, y2 = np.ceil(box[2:]).clip((x1 + 1, y1 + 1), (width, height)).astype(int)
            label = re.sub(r"[^\w -]", "_", label)
            self.write_image(f"crops/{frame.source.name}{mark}_{number}_{label}_{score:.2f}",
                             frame.image[y1:y2, x1:x2])

    def _write_to_video(self, frame, drawn):
        if self._video != frame.source:
            self.close()
            self._video, self._start, self._written = frame.source, time.monotonic(), 0
            if self.draw:
                path = self.folder / f"{frame.source.name}.mp4"
                make_folder(path.parent)
                self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"),
                                               frame.rate, drawn.shape[1::-1])
                if not self._writer.isOpened():
                    raise UserError(f"{path}: cannot be written.")
        if self._writer:
            end = self._written + 1
            if isinstance(frame.source.path, int):  # a camera does not wait for the detector
                end = max(end, round((time.monotonic() - self._start) * frame.rate))
            for _ in range(self._written, end):
                self._writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
            self._written = end

    def close(self) -> None:
        """Complete the current video, so that it can be played, and its JSON."""
        video, writer = self._video, self._writer
        self._video, self._writer = None, None
        if writer:
            writer.release()
        if video and self.save_json:
            frames = [{"frame": number, "objects": detections.rows()}
                      for number, detections in self.results[video.name]]
            write_json(self.folder / f"{video.name}.json",
                       {"video": str(video.path), "frames": frames})

    def write_tables(self, class_names: Sequence[str]) -> None:
        """Gather what all processes detected; write coco_results.json and detections.csv of it.

        COCO's tools know an image by its number where all file names are numbers, else by its
        name; a frame by name/frame.
        """
        if world_size() > 1:
            results, counts, failures = zip(*gather((self.results, self.counts, self.failures)))
            self.results = dict(sorted(item for part in results for item in part.items()))
            self.counts = sum(counts, Counter())
            self.failures = {name: text for part in failures for name, text in part.items()}
        frames = [(name, number, detections) for name, frames in self.results.items()
                  for number, detections in frames]
        if rank() == 0 and self.save_json:
            numbers = numbers_of([Path(name).stem for name in self.results])
            ids = dict(zip(self.results, numbers or self.results))
            write_json(self.folder / "coco_results.json", [
                row for name, number, (boxes, scores, labels) in frames for row in coco_results(
                    [ids[name] if number is None else f"{name}/{number}"] * len(boxes),
                    labels, boxes, scores, class_names, decimals=2)])
        if rank() == 0 and self.save_csv:
            with writing(self.folder / "detections.csv") as part, open(
                    part, "w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, ("image", "frame", *COLUMNS))
                table.writeheader()
                table.writerows({"image": name, "frame": number, **row}
                                for name, number, detections in frames
                                for row in detections.rows())

    def sum_up(self, sources: Sequence[Source], *, count: bool) -> None:
        """Print what was done; UserError where something failed or there was nothing to do."""
        names = {source.name for source in sources}
        total = len(names | self.failures.keys())
        if not total:
            raise UserError("no images or videos there; name some, or set dir_origin_path.")
        print(f"{len(names - self.failures.keys())} of {total} files done; see "
              f"{shorten(self.folder)}")
        if count:
            print("in all: " + ", ".join(f"{name} {n}" for name, n in self.counts.most_common()))
        if self.failures:
            raise UserError(f"{len(self.failures)} of {total} failed: "
                            f"{', '.join(list(self.failures)[:20])}")


def show_frame(frame: Frame, drawn: np.ndarray) -> bool:
    """Show a drawn image, or a frame in the window of its video; False once that is closed."""
    if frame.number is None:
        Image.fromarray(drawn).show()
        return True
    cv2.imshow(frame.source.name, drawn[..., ::-1])
    return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)


def write_json(path: Path, values: Any) -> None:
    """Write plain values as JSON; UserError where the file cannot be written."""
    make_folder(path.parent)
    with writing(path) as part:
        part.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
