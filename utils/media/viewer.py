"""The one loop: frames in, detections, outputs; and what is said of it."""

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.ahead import ahead
from utils.cli import UserError, check_file, describe_error, make_folder, printable, shorten
from utils.detections import Detections
from utils.distributed import gather, rank, world_size
from utils.image import load_image
from utils.media.frames import Finder, Frame, Source, read_frames
from utils.media.outputs import Outputs, coco_results, write_csv, write_image, write_json


class Viewer:
    """Looks at sources with a detector; keeps count of what was seen and what failed.

    Args:
        detector: an SSD.
        folder: where outputs go.
        batch_size: images, or frames of a file, that go through the network at a time.
        show: open a window for a single source, where there is a display.
        count: print the objects of each class.
        save_csv: write a table of all objects.
        kept: keywords of `Outputs`.
    """

    def __init__(self, detector: Any, folder: Path, *, batch_size: int = 4, show: bool = False,
                 count: bool = False, save_csv: bool = False, **kept: Any):
        self.detector, self.folder, self.batch_size = detector, folder, batch_size
        self.show, self.count = show and _has_display(), count
        self.failures = {}  # place or name -> what went wrong
        self.seen, self.most = Counter(), Counter()  # objects of each class: in all, in one frame
        self.finder = Finder(folder, self.failed)
        self.outputs = Outputs(folder, self.failed, save_csv=save_csv, **kept)

    def failed(self, source: Source | str, error: UserError) -> None:
        """Report what cannot be read or written, once of each source; the rest goes on."""
        name = source if isinstance(source, str) else source.place.as_posix()
        if name not in self.failures:
            self.failures[name] = str(error)
            tqdm.write(describe_error(error))

    def look_at_all(self, names: Iterable[str], *,
                    heat: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        """Look at everything that is named, this process at its share; sum up at the end.

        `heat` draws a sheet of an image in place of what is found in it. Raises UserError, so that
        the script ends with status 2, where anything failed.
        """
        sources = list(dict.fromkeys(source for name in names for source in self.finder.find(name)))
        own, alone = sources[rank()::world_size()], len(sources) == 1
        try:
            if heat:
                self._draw_heat(own, heat)
            else:
                self.look_at(own, alone=alone)
        finally:
            if world_size() == 1:  # what was found before Ctrl-C is kept
                self.write_tables()
        parts = gather((self.failures, self.outputs.rows, self.seen, self.most,
                        list(self.outputs.images)))
        if world_size() > 1:
            others = {name: text for part in parts[1:] for name, text in part[0].items()}
            for text in [text for name, text in others.items() if name not in self.failures]:
                tqdm.write(describe_error(text))  # the other processes are not heard
            self.failures = {name: text for part in parts for name, text in part[0].items()}
            order = {source.place.as_posix(): k for k, source in enumerate(sources)}
            self.outputs.rows = sorted((row for part in parts for row in part[1]),
                                       key=lambda row: order[row["image"]])
            self.seen = sum((part[2] for part in parts), Counter())
            for part in parts:
                self.most |= part[3]
            self.outputs.images = dict.fromkeys(name for part in parts for name in part[4])
        if rank() == 0:
            if world_size() > 1:
                self.write_tables()
            self._sum_up(sources)

    def look_at(self, sources: list[Source], *, alone: bool = True) -> None:
        """Detect, draw, write and print; what fails is reported."""
        videos = any(source.is_video for source in sources)
        try:
            with ThreadPoolExecutor(1) as writer:
                results = ahead(writer, lambda pair: (*pair, self.outputs.add(*pair)),
                                self._detect(sources), 2)
                for frame, found, drawn in tqdm(
                        results, unit="frame" if videos else "image", leave=False,
                        total=None if videos else len(sources),
                        disable=True if alone and not videos else None):
                    counts = Counter(found.names)
                    self.seen += counts
                    self.most |= counts
                    if frame.number is None:
                        self._say(frame, found, detailed=alone)
                    if alone and not self._show(frame, drawn):
                        break
        finally:
            self.outputs.close()

    def _detect(self, sources: list[Source]) -> Iterator[tuple[Frame, Detections]]:
        """Yield each frame with its Detections; several go through the network at a time."""
        frames, taken = read_frames(sources, self.failed), deque()
        if any(isinstance(source.path, int) for source in sources):  # no waiting for a batch
            yield from ((frame, self.detector.detect(frame.image)) for frame in frames)
            return

        def images():
            for frame in frames:
                taken.append(frame)
                yield frame.source.path if frame.image is None else frame.image

        keep = self.show or self.outputs.draw or self.outputs.crop
        for _, image, found in self.detector.detect_stream(images(), batch_size=self.batch_size,
                                                           keep_images=keep):
            frame = taken.popleft()
            if isinstance(found, UserError):
                self.failed(frame.source, found)
            else:
                yield frame._replace(image=image), found

    def _draw_heat(self, sources, heat):
        """Write a sheet of each image."""
        for source in tqdm(sources, unit="image", leave=False, disable=None):
            try:
                if source.is_video:
                    raise UserError(f"{source.place}: heatmap looks at images, not at videos.")
                target = self.folder / f"{source.place}.heat.{self.outputs.image_format}"
                make_folder(target.parent)
                write_image(target, heat(load_image(check_file(source.path))))
            except UserError as error:
                self.failed(source, error)

    def _say(self, frame, found, *, detailed):
        """Print a line for an image, or all that was found in it."""
        name = frame.source.place.as_posix()
        lines = repr(found).splitlines() if len(found) else ["nothing found"]
        if self.count and len(found):
            lines[0] += ": " + ", ".join(f"{label} {n}" for label, n in found.counts().items())
        if detailed and not len(found):
            lines.append(self._best(frame))
        if detailed and self.outputs.draw and name not in self.failures:
            target = self.folder / f"{name}.{self.outputs.image_format}"
            lines.append(f"  saved {printable(shorten(target))}")
        tqdm.write("\n".join([f"{printable(name)}: {lines[0]}", *lines[1:] * detailed]))

    def _best(self, frame):
        """Return a line on the best box that was not found."""
        best = self.detector.detect_batch([frame.source.path], confidence=0.0, max_per_image=1)[0]
        if not len(best):
            return "  no box has any score"
        return (f"  the best box has score {best.scores[0]:.2f} ({best.names[0]}), "
                f"confidence is {self.detector.settings.confidence:g}")

    def _show(self, frame, drawn):
        """Show an image or frame where it is wanted; False where the user closes the window."""
        if not self.show:
            return True
        if frame.number is None:
            Image.fromarray(drawn).show()
            return True
        try:
            cv2.imshow(str(frame.source.place), drawn[..., ::-1])
            return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)
        except cv2.error:  # an OpenCV without windows
            self.show = False
            return True

    def write_tables(self) -> None:
        """Write the files on all sources together."""
        rows = self.outputs.rows
        writers = {"coco_results.json": lambda path: write_json(path, coco_results(
                       rows, list(self.outputs.images), self.detector.class_names)),
                   "detections.csv": lambda path: write_csv(path, rows)}
        for (name, write), wanted in zip(writers.items(), (
                self.outputs.save_json, self.outputs.save_csv)):
            if wanted:
                try:
                    write(self.folder / name)
                except UserError as error:
                    self.failed(name, error)

    def _sum_up(self, sources):
        """Say what was done; UserError where something failed or nothing was there to look at."""
        places = {source.place.as_posix() for source in sources}
        total = len(places | set(self.failures))
        if not total:
            raise UserError("no images or videos there; name some, or set dir_origin_path.")
        kind = "files" if any(source.is_video for source in sources) else "images"
        print(f"{len(places - set(self.failures))} of {total} {kind} done; see "
              f"{shorten(self.folder)}")
        if self.count:
            print("in all: " + (", ".join(f"{name} {number} (at most {self.most[name]} in one "
                                          "image)" for name, number in self.seen.most_common())
                                or "nothing"))
        if self.failures:
            names = ", ".join([*map(printable, list(self.failures)[:20]),
                               *["..."] * (len(self.failures) > 20)])
            raise UserError(f"{len(self.failures)} of {total} failed: {names}")


def _has_display() -> bool:
    """Tell whether a window can be opened."""
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
