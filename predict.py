"""Find objects in images, videos and cameras; or look into a detector.

    python predict.py a.jpg photos clip.mp4      # images, folders, videos
    python predict.py                            # asks for images until you type q
    python predict.py --mode video --video_path 0      # the first camera, until you type q
    python predict.py --mode heatmap a.jpg       # where each class scores
"""

import utils.streams  # noqa: F401 (first: it looks after Ctrl-C while the rest is imported)

# isort: split
import contextlib
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.request import url2pathname

import tyro
from PIL import Image
from tqdm import tqdm

from ssd import SSD, SSDSettings
from utils.ahead import ahead
from utils.cli import (UserError, describe_error, make_folder, printable, resolve, run, shorten,
                       typed_path)
from utils.detections import Detections
from utils.distributed import check_device, first_ahead, gather, process_group, rank, world_size
from utils.media.frames import Finder, Frame, Source, read_frames
from utils.media.outputs import ImageFormat, Outputs, coco_results, write_csv, write_json


@dataclass(frozen=True)
class PredictSettings(SSDSettings):
    """What to look at, and what is kept of it."""

    # ---- What to do ----

    # Images, videos, folders of both (with sub-folders), numbers of cameras; without any, the
    # mode decides.
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    # predict asks for one image after another; dir_predict takes a whole folder; video a file or a
    # camera; fps measures the speed; heatmap shows where each class scores; export writes an
    # .onnx file; summary lists the layers.
    mode: Literal["predict", "dir_predict", "video", "fps", "heatmap", "export",
                  "summary"] = "predict"
    # The folder of dir_predict.
    dir_origin_path: str = "img"
    # The file of video, or the number of a camera: 0 is the first.
    video_path: str = "0"
    # Images, or frames of a file, that go through the network at a time; of fps, those tried.
    batch_size: int = 4
    # True also opens the drawn image of a single file, or a window of a video, where there is a
    # display; q closes the window.
    show: bool = True

    # ---- What is kept ----

    # Everything is written here, in sub-folders as they were, under the whole name of the
    # original: a.jpg.jpg, clip.avi.mp4.
    dir_save_path: str = "img_out"
    # Images and videos with the boxes drawn.
    draw: bool = True
    # Of drawings and crops; png is exact, and takes 20 times as long to write.
    image_format: ImageFormat = "jpg"
    # Each object as a file in crops/, named by image, class and score.
    crop: bool = False
    # Print the objects of each class: of each image, and in all.
    count: bool = False
    # A .json beside each drawing, and all objects in coco_results.json.
    save_json: bool = False
    # All objects in detections.csv.
    save_csv: bool = False


def main(settings: PredictSettings) -> None:
    """Load the detector once, then look at what was named, at a folder, or at what is typed."""
    if settings.batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {settings.batch_size}.")
    with process_group():
        detector = first_ahead(lambda: SSD(settings))
        check_device(detector.device)
        viewer = Viewer(detector, settings)
        names = settings.images or {"dir_predict": (settings.dir_origin_path,),
                                    "video": (settings.video_path,)}.get(settings.mode, ())
        if names:
            viewer.look_at_all(names)
        elif world_size() > 1:
            raise UserError("several processes need to be told what to look at: torchrun "
                            "predict.py folder")
        else:
            ask(viewer)


def ask(viewer: "Viewer") -> None:
    """Ask for images until the user stops; a bad path or file is reported and asked again."""
    while True:
        try:
            text = input("image (q to stop): ")
        except EOFError:
            print()
            break
        if text.strip().lower() in ("q", "quit", "exit"):
            break
        if text.strip():
            with contextlib.suppress(UserError):
                viewer.look_at(viewer.finder.find(pasted_path(text)))
    viewer.write_tables(viewer.outputs.rows)


def pasted_path(text: str) -> Path | str:
    """Return the path in a typed or dropped line: quoted, escaped, or a file:// address."""
    plain = re.sub(r"^(['\"])(.*)\1$", r"\2", text.strip())
    if plain.startswith("file://"):
        plain = url2pathname(plain.removeprefix("file://"))
    for form in (text, plain, re.sub(r"\\(.)", r"\1", plain)):
        with contextlib.suppress(UserError):
            return typed_path(form)
    return plain


class Viewer:
    """Frames in, detections, outputs; keeps count of what was seen and what failed."""

    def __init__(self, detector: SSD, settings: PredictSettings):
        self.detector, self.settings = detector, settings
        self.folder = make_folder(settings.dir_save_path)
        self.failures = {}  # place or name -> what went wrong
        self.seen, self.most = Counter(), Counter()  # objects of each class: in all, in one frame
        self.finder = Finder(self.folder, self.failed)
        self.outputs = Outputs(self.folder, self.failed, draw=settings.draw, crop=settings.crop,
                               save_json=settings.save_json, image_format=settings.image_format)

    def failed(self, source: Source | str, error: UserError) -> None:
        """Report what cannot be read or written, once of each source; the rest goes on."""
        name = source if isinstance(source, str) else source.place.as_posix()
        if name not in self.failures:
            self.failures[name] = str(error)
            tqdm.write(describe_error(error))

    def look_at_all(self, names: Iterable[str]) -> None:
        """Look at everything that is named, this process at its share; sum up at the end.

        Raises UserError, so that the script ends with status 2, where anything failed.
        """
        sources = list(dict.fromkeys(source for name in names for source in self.finder.find(name)))
        try:
            self.look_at(sources[rank()::world_size()], num_sources=len(sources))
        finally:
            if world_size() == 1:  # what was found before Ctrl-C is kept
                self.write_tables(self.outputs.rows)
        parts = gather((self.failures, self.outputs.rows, self.seen, self.most))
        if rank() == 0:
            failures, rows, seen, most = ([part[k] for part in parts] for k in range(4))
            self.failures = {name: text for part in failures for name, text in part.items()}
            if world_size() > 1:
                self.write_tables([row for part in rows for row in part])
            self.sum_up(sources, sum(seen, Counter()), Counter(
                {name: max(part[name] for part in most) for part in most for name in part}))

    def sum_up(self, sources: list[Source], seen: Counter, most: Counter) -> None:
        """Say what was done; UserError where something failed or nothing was there to look at."""
        places = {source.place.as_posix() for source in sources}
        total = len(places | set(self.failures))
        print(f"{len(places - set(self.failures))} of {total} "
              f"{'files' if any(source.is_video for source in sources) else 'images'} done; "
              f"see {shorten(self.folder)}")
        if self.settings.count:
            print("in all: " + ", ".join(f"{name} {number} (at most {most[name]} in one image)"
                                         for name, number in seen.most_common()) or "nothing")
        if not total:
            raise UserError("no images or videos there; name some, or set dir_origin_path.")
        if self.failures:
            names = ", ".join(map(printable, list(self.failures)[:20]))
            raise UserError(f"{len(self.failures)} of {total} failed: {names}"
                            + (", ..." if len(self.failures) > 20 else ""))

    def look_at(self, sources: list[Source], *, num_sources: int = 1) -> None:
        """Detect, draw, write and print; what fails is reported."""
        videos = any(source.is_video for source in sources)
        try:
            with ThreadPoolExecutor(1) as writer:
                results = ahead(writer, lambda pair: (*pair, self.outputs.add(*pair)),
                                self._detect(read_frames(sources, self.failed)), 2)
                for frame, found, drawn in tqdm(
                        results, unit="frame" if videos else "image", leave=False,
                        total=None if videos else len(sources),
                        disable=None if videos or len(sources) > 1 else True):
                    self._count(found)
                    if frame.number is None:
                        self._say(frame, found, detailed=num_sources == 1)
                    if not self._show(frame, drawn, alone=num_sources == 1):
                        break
        finally:
            self.outputs.close()

    def _detect(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Detections]]:
        """Yield each frame with its Detections; several go through the network at a time."""
        taken = deque()

        def images():
            for frame in frames:
                taken.append(frame)
                yield frame.source.path if frame.image is None else frame.image

        settings = self.settings
        keep = settings.draw or settings.crop or settings.show
        for _, image, found in self.detector.detect_stream(
                images(), batch_size=settings.batch_size, keep_images=keep):
            frame = taken.popleft()
            if isinstance(found, UserError):
                self.failed(frame.source, found)
            else:
                yield frame._replace(image=image), found

    def _count(self, found):
        counts = Counter(found.names)
        self.seen += counts
        self.most |= counts

    def _say(self, frame, found, *, detailed):
        """Print a line for an image, or all that was found in it."""
        name = frame.source.place.as_posix()
        counts = ", ".join(f"{name} {number}" for name, number in found.counts().items())
        text = repr(found) if len(found) else f"nothing found{self._best(frame) * detailed}"
        if not detailed:
            text = text.splitlines()[0]
        if self.settings.count and counts:
            text += f"\n  {counts}" if detailed else f": {counts}"
        tqdm.write(f"{printable(name)}: {text}")
        if detailed and self.settings.draw and name not in self.failures:
            target = self.folder / f"{name}.{self.settings.image_format}"
            tqdm.write(f"  saved {printable(shorten(target))}")

    def _best(self, frame):
        """Return a line on the best box that was not found."""
        best = self.detector.detect_batch([frame.source.path], confidence=0.0, max_per_image=1)[0]
        if not len(best):
            return "\n  no box has any score"
        return (f"\n  the best box has score {best.scores[0]:.2f} ({best.names[0]}), "
                f"confidence is {self.settings.confidence:g}")

    def _show(self, frame, drawn, *, alone):
        """Show an image or frame where it is wanted; False where the user closes the window."""
        if not (alone and self.settings.show and has_display()):
            return True
        if frame.number is None:
            Image.fromarray(drawn).show()
            return True
        import cv2

        try:
            cv2.imshow(str(frame.source.place), drawn[..., ::-1])
            return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)
        except cv2.error:  # an OpenCV without windows
            return True

    def write_tables(self, rows: list[dict]) -> None:
        """Write the files on all images together."""
        for wanted, name, write in (
                (self.settings.save_json, "coco_results.json",
                 lambda path: write_json(path, coco_results(rows))),
                (self.settings.save_csv, "detections.csv", lambda path: write_csv(path, rows))):
            if wanted:
                try:
                    write(self.folder / name)
                except UserError as error:
                    self.failed(name, error)


def has_display() -> bool:
    """Tell whether a window can be opened."""
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    run(main, PredictSettings)
