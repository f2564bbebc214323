"""Detections as files: drawn images and videos, crops, JSON, CSV, XML; what to label next."""

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from tqdm import tqdm

from utils.cli import UserError, make_folder, writing
from utils.coco_ids import coco_results, numbers_of
from utils.data.annotations import write_together
from utils.data.voc import is_of_person, voc_text
from utils.detections import COLUMNS, Detections
from utils.distributed import gather, rank
from utils.draw import draw_detections
from utils.media.frames import Frame, Source
from utils.multibox.boxes import pairwise_iou

ImageFormat = Literal["jpg", "png"]
# Of the page of what to label: its images, the longer side of each, and IoU with the mirror image.
SHOWN, SIDE, SAME_IOU = 100, 320, 0.5
# What browsers play: H.264, which OpenCV writes on Windows and macOS alone; then VP8.
CODECS = (("avc1", ".mp4"), ("VP80", ".webm"))


@dataclass
class Outputs:
    """Writes the files of frames that come in order, named after the original.

    For a.png: a.jpg (drawn), a.json, crops/a_1_cat_0.98.jpg; for clip.avi: clip.mp4, clip.json. At
    the end `finish` writes coco_results.json and detections.csv.
    """

    folder: Path
    draw: bool = True
    crop: bool = False
    save_json: bool = False
    save_csv: bool = False
    count: bool = False
    image_format: ImageFormat = "jpg"
    about: dict[str, Any] = field(default_factory=dict)  # the detector, for .json and .xml files
    save_xml: bool = False
    # By (name of the image or video, number and seconds of the frame or None).
    results: dict[tuple[str, int | None, float | None], Detections] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # by name: what went wrong
    _video: Source | None = None  # that is being written
    _writer: cv2.VideoWriter | None = None

    def report(self, name: str, error: UserError) -> None:
        """Print what cannot be read or written, once for each source; the rest goes on."""
        if name not in self.failures:
            self.failures[name] = str(error)
            tqdm.write(f"error: {error}")

    def write(self, frame: Frame, detections: Detections, drawn: np.ndarray | None) -> None:
        """Write the files of a frame and its image `drawn`, (H, W, 3) uint8 RGB; report faults."""
        source, number = frame.source, frame.number
        if self.save_json or self.save_csv or self.count:  # else a camera may run for days
            self.results[source.name, number, frame.seconds] = detections
        try:
            if self.crop:
                self._write_crops(frame, detections)
            if number is None and self.save_xml and isinstance(source.path, Path):
                self._write_xml(frame, detections)
            if number is None and self.save_json:
                height, width = frame.image.shape[:2]
                self._write_json(source.output, {
                    "image": str(source.path), "width": width, "height": height,
                    "detector": self.about, "objects": detections.rows()})
            if number is not None:
                self._write_to_video(frame, drawn)
            elif self.draw:
                self.write_image(source.output, drawn)
        except UserError as error:
            self.report(source.name, error)

    def write_image(self, name: str, image: np.ndarray) -> None:
        """Write (H, W, 3) uint8 RGB below the folder, the format added to its name."""
        path = self.folder / f"{name}.{self.image_format}"
        make_folder(path.parent)
        with writing(path) as part:
            encoded, data = cv2.imencode(path.suffix, image[..., ::-1])
            if not encoded:  # JPEG holds 65,500 pixels a side
                raise OSError('too many pixels; choose image_format "png"')
            part.write_bytes(data)

    def _write_crops(self, frame, detections):
        """Write a file for each object, named by image, class and score."""
        name = frame.source.output + ("" if frame.number is None else f"_{frame.number:06}")
        objects = zip(detections.boxes, detections.names, detections.scores)
        for k, (box, label, score) in enumerate(objects, start=1):
            x1, y1, x2, y2 = np.append(np.floor(box[:2]), np.ceil(box[2:])).clip(0).astype(int)
            image, label = frame.image[y1:y2, x1:x2], re.sub(r"[^\w -]", "_", label)
            if image.size:
                self.write_image(f"crops/{name}_{k}_{label}_{score:.2f}", image)

    def _write_xml(self, frame, detections):
        """Write the .xml beside an image, but over none of a person."""
        path, tag = frame.source.path, "<difficult>0</difficult><score>{:.3f}</score>"
        text = voc_text(path.name, frame.image.shape[1::-1], detections.names, detections.boxes,
                        [*map(tag.format, detections.scores)], self.about.get("model", "ssd"))
        if not is_of_person(path.with_suffix(".xml")):
            write_together({path.with_suffix(".xml"): text})

    def _write_to_video(self, frame, drawn):
        """Write a drawn frame as often as it was to be seen, since formats want even rates."""
        if self._video != frame.source:
            self._close_video()
            self._video, self._written = frame.source, 0
            if self.draw:
                size = tuple(side + side % 2 for side in drawn.shape[1::-1])
                self._writer = self._open_video(frame.source.output, frame.rate, size)
        last = round(frame.seconds * frame.rate)
        if self._writer and self._written <= last:
            below, beside = (side % 2 for side in drawn.shape[:2])
            drawn = cv2.copyMakeBorder(drawn, 0, below, 0, beside, cv2.BORDER_REPLICATE)
            while self._written <= last:
                self._writer.write(drawn[..., ::-1])
                self._written += 1

    def _open_video(self, name, rate, size):
        path = make_folder((self.folder / name).parent) / Path(name).name
        for codec, suffix in CODECS:
            code = cv2.VideoWriter_fourcc(*codec)
            writer = cv2.VideoWriter(f"{path}{suffix}", code, rate, size)
            if writer.isOpened():
                return writer
        raise UserError(f"{path}{suffix}: cannot be written.")

    def _close_video(self):
        video, writer, self._video, self._writer = self._video, self._writer, None, None
        if writer:
            writer.release()
        if video and self.save_json:
            frames = [{"frame": number, "seconds": seconds, "objects": detections.rows()}
                      for (name, number, seconds), detections in self.results.items()
                      if name == video.name]
            path = str(video.path) if isinstance(video.path, Path) else video.name
            self._write_json(video.output, {"video": path, "detector": self.about,
                                            "frames": frames})

    def _write_json(self, name, values):
        path = self.folder / f"{name}.json"
        make_folder(path.parent)
        with writing(path) as part:
            part.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")

    def finish(self, class_names: tuple[str, ...]) -> None:
        """Complete the last video; write tables of what all processes detected."""
        self._close_video()
        for results, failures in gather((self.results, self.failures))[1:]:
            self.results, self.failures = self.results | results, self.failures | failures
        if rank() > 0:
            return
        names = list(dict.fromkeys(name for name, *_ in self.results))
        # An image_id is a number where all names are, as COCO's; that of a frame is name/frame.
        ids = dict(zip(names, numbers_of([Path(name).stem for name in names]) or names))
        results, rows = [], []
        for (name, number, seconds), detections in sorted(self.results.items()):
            boxes, scores, labels = detections
            image_ids = [ids[name] if number is None else f"{name}/{number}"] * len(boxes)
            results += coco_results(image_ids, labels, boxes, scores, class_names)
            rows += [{**row, "image": name, "frame": number, "seconds": seconds}
                     for row in detections.rows()]
        if self.save_json:
            self._write_json("coco_results", results)
        if self.save_csv:
            with writing(self.folder / "detections.csv") as part, part.open(
                    "w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, ("image", "frame", "seconds", *COLUMNS))
                table.writeheader()
                table.writerows(rows)

    def sum_up(self, sources: list[Source]) -> None:
        """Print what was done; UserError where something failed."""
        total = len({source.name for source in sources} | self.failures.keys())
        print(f"{total - len(self.failures)} of {total} files done; see {self.folder}")
        if self.count:
            counts = Counter(name for frame in self.results.values() for name in frame.names)
            texts = [f"{name} {number}" for name, number in counts.most_common()]
            print(f"in all: {', '.join(texts)}")
        if self.failures:
            failed = ", ".join(list(self.failures)[:20])
            raise UserError(f"{len(self.failures)} of {total} failed: {failed}")


def write_ranking(page: Path, paths: list[Path], detector: Any) -> None:
    """Write a page of image files, those first whose labels would teach `detector`, an SSD."""
    from utils.page import Section, image_uri, write_page  # not above: it imports matplotlib
    low, rows = detector.thresholds.confidence / 2, []
    stream = detector.detect_stream(paths, confidence=low)
    for path, image, plain in tqdm(stream, total=len(paths), leave=False, disable=None):
        if isinstance(plain, UserError):
            tqdm.write(f"error: {plain}")
            continue
        mirrored = detector.detect(cv2.flip(image, 1), confidence=low)
        nearness, dissent = rate(plain, mirrored, image.shape[1], 2 * low)
        thumbnail = draw_detections(image, plain)
        thumbnail.thumbnail((SIDE, SIDE))
        caption = f"{path.name}: scores {nearness:.2f}, mirror image {dissent:.2f}"
        rows.append((nearness + dissent, caption, image_uri(thumbnail)))
    rows.sort(reverse=True)
    write_page(page, "Label next", f"{len(rows)} images without labels, with boxes from {low:.2f} "
               "on", [], [Section("Images", images=[row[1:] for row in rows[:SHOWN]])])
    print(f"what to label next: {page}")


def rate(plain: Detections, mirrored: Detections, width: int, confidence: float
         ) -> tuple[float, float]:
    """Return how near a score is to the confidence, 1 for equal, and the share of boxes above it
    that only one of an image and its mirror image has.
    """
    nearness = (1 - np.abs(plain.scores - confidence) / confidence).max(initial=0)
    plain, mirrored = (found[found.scores >= confidence] for found in (plain, mirrored))
    boxes = mirrored.boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0, width, 0)
    is_same = ((pairwise_iou(plain.boxes, boxes) >= SAME_IOU)
               & (plain.labels[:, None] == mirrored.labels))
    alone = (~is_same.any(1)).sum() + (~is_same.any(0)).sum()
    return float(nearness), float(alone / max(sum(is_same.shape), 1))
