"""What was found, as files: drawn images and videos, crops, JSON, CSV."""

import csv
import json
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from utils.cli import UserError, make_folder, writing
from utils.coco_ids import class_ids, numbers_of
from utils.detections import Detections
from utils.draw import draw_detections
from utils.image import image_size
from utils.media.frames import Failed, Frame, video_name

QUALITY = 95  # of JPEG files
MAX_JPEG = 65_500  # pixels a side that OpenCV writes
COLUMNS = ("image", "frame", "class", "label", "score", "x1", "y1", "x2", "y2")
ImageFormat = Literal["jpg", "png"]


class Outputs:
    """Writes the files of frames that come in order, under the whole name of the original.

    Of a.jpg: a.jpg.jpg (drawn), a.jpg.json, crops/a.jpg_1_cat_0.98.jpg; of a video a.avi:
    a.avi.mp4 in its rate, a.avi.json. Of a camera, frames are repeated to last as long as they did.
    `failed` hears, once of each source, of what could not be written. `add` is for one thread.
    """

    def __init__(self, folder: Path, failed: Failed, *, draw: bool = True, crop: bool = False,
                 save_json: bool = False, save_csv: bool = False,
                 image_format: ImageFormat = "jpg"):
        self.folder, self.failed = folder, failed
        self.draw, self.crop, self.save_json = draw, crop, save_json
        self.save_csv, self.image_format = save_csv, image_format
        # Kept where they are to be written: a camera may run for days.
        self.rows = []  # {COLUMNS} of each object; "frame" is None outside videos
        self.images = {}  # keys: names of all images but those of videos, with objects or without
        self.video = self.writer = None  # the Source that is being written
        self.frames = []  # of the video, for its JSON

    def add(self, frame: Frame, found: Detections) -> np.ndarray | None:
        """Draw and write; return the drawn image, (H, W, 3) uint8 RGB.

        None where the frame has no image; then only tables are written.
        """
        drawn = None if frame.image is None else np.asarray(
            draw_detections(frame.image, found, found.class_names))
        try:
            if self.video not in (None, frame.source):
                self._end_video()
            self._write(frame, found, drawn)
        except UserError as error:
            self.failed(frame.source, error)
        return drawn

    def _end_video(self):
        """Close the video before this source; what fails there is not this one's."""
        video = self.video
        try:
            self.close()
        except UserError as error:
            self.failed(video, error)

    def _write(self, frame, found, drawn):
        objects, name = found.rows(), frame.source.place.as_posix()
        if name in self.images:  # typed once more
            self.rows = [row for row in self.rows if row["image"] != name]
        if self.save_json or self.save_csv:
            self.rows += [{"image": name, "frame": frame.number, **row} for row in objects]
        path = self.folder / frame.source.place
        make_folder(path.parent)
        if self.crop:
            self._write_crops(frame, found)
        if frame.number is not None:
            if self.save_json:
                self.frames.append({"frame": frame.number, "objects": objects})
            self._add_to_video(frame, drawn)
            return
        self.images[name] = None
        if self.save_json:
            width, height = (image_size(frame.source.path) if frame.image is None else
                             frame.image.shape[1::-1])
            write_json(f"{path}.json", {"image": str(frame.source.path), "width": width,
                                        "height": height, "objects": objects})
        if self.draw:
            write_image(f"{path}.{self.image_format}", drawn)

    def _write_crops(self, frame, found):
        """Write a file an object, named by image, class and score."""
        height, width = frame.image.shape[:2]
        place = frame.source.place
        mark = "" if frame.number is None else f"_{frame.number:06}"
        folder = make_folder(self.folder / "crops" / place.parent)
        for number, (box, row) in enumerate(zip(found.boxes, found.rows()), start=1):
            x1, y1 = np.floor(box[:2]).clip(0, (width - 1, height - 1)).astype(int)
            x2, y2 = np.ceil(box[2:]).clip((x1 + 1, y1 + 1), (width, height)).astype(int)
            name = re.sub(r"[^\w -]", "_", row["class"])
            write_image(folder / f"{place.name}{mark}_{number}_{name}_{row['score']:.2f}"
                        f".{self.image_format}", frame.image[y1:y2, x1:x2])

    def _add_to_video(self, frame, drawn):
        """Append a frame to the video; open it with the first one, which gives its size."""
        if self.video is None:
            self.video, self.written, self.start = frame.source, 0, time.monotonic()
            if self.draw:
                self.size = drawn.shape[1::-1]
                self.target = Path(f"{self.folder / frame.source.place}.mp4")
                self.writer = cv2.VideoWriter(
                    video_name(self.target), cv2.VideoWriter_fourcc(*"mp4v"), frame.rate, self.size)
                if not self.writer.isOpened():
                    self.writer = None
                    raise UserError(f"{self.target}: cannot be written.")
        if self.writer:
            if drawn.shape[1::-1] != self.size:
                drawn = cv2.resize(drawn, self.size, interpolation=cv2.INTER_AREA)
            aim = self.written + 1
            if isinstance(frame.source.path, int):  # a camera does not wait for the detector
                aim = max(aim, round((time.monotonic() - self.start) * frame.rate))
            while self.written < aim:
                self.writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
                self.written += 1

    def close(self) -> None:
        """End the video that is being written, so that it can be played, and write its JSON."""
        video, writer, frames = self.video, self.writer, self.frames
        self.video, self.writer, self.frames = None, None, []
        if writer:
            writer.release()
            self._check_video(video, self.written)
        if video and self.save_json:
            write_json(f"{self.folder / video.place}.json",
                       {"video": str(video.path), "frames": frames})

    def _check_video(self, video, count):
        """Say where the file lacks frames: OpenCV does not tell of a full disk."""
        written = cv2.VideoCapture(str(self.target)).get(cv2.CAP_PROP_FRAME_COUNT)
        if written < count:
            self.failed(video, UserError(f"{self.target}: only {written:.0f} of {count} frames "
                                         "could be written; is the disk full?"))


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB by the suffix of the path; UserError where it cannot be."""
    path = Path(path)
    is_jpeg = path.suffix == ".jpg"
    if is_jpeg and max(image.shape) > MAX_JPEG:
        raise UserError(f"{path}: {image.shape[1]}x{image.shape[0]} pixels are too many for a JPEG "
                        'file; choose image_format "png".')
    data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
                        [cv2.IMWRITE_JPEG_QUALITY, QUALITY] * is_jpeg)[1]
    with writing(path) as part:
        part.write_bytes(data)


def write_json(path: str | Path, values: Any) -> None:
    """Write plain values as JSON; UserError where the file cannot be written."""
    # Of file names that are not UTF-8 bytes are left over, which JSON writes with a backslash too.
    text = json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace")
    with writing(Path(path)) as part:
        part.write_bytes(text)


def write_csv(path: Path, rows: Iterable[dict]) -> None:
    """Write the rows of `Outputs` as a table."""
    with writing(path) as part, open(part, "w", encoding="utf-8", errors="backslashreplace",
                                     newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)


def coco_results(rows: Iterable[dict], images: Sequence[str], class_names: Sequence[str]
                 ) -> list[dict]:
    """Return the rows of `Outputs` in COCO's form for results, its ids as in utils/coco_ids.py.

    `images` are the names of all images, those without objects too. They are known by the numbers
    that they are called where all are, as COCO's are, else by their names, and in videos by
    name/frame.
    """
    classes = class_ids(class_names)
    numbers = dict(zip(images, numbers_of([Path(name).stem for name in images]) or images))
    return [{"image_id": (numbers[row["image"]] if row["frame"] is None
                          else f"{row['image']}/{row['frame']}"),
             "category_id": classes[row["label"]],
             "bbox": [row["x1"], row["y1"], round(row["x2"] - row["x1"], 2),
                      round(row["y2"] - row["y1"], 2)], "score": row["score"]} for row in rows]
