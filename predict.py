"""Find objects in images: name them or type a path, get each image with its boxes.

    python predict.py a.jpg b.jpg photos    # these images, and all images of a folder
    python predict.py                       # asks for images until you type q
    python predict.py --mode dir_predict    # all images of img/
"""

import utils.streams  # noqa: F401 (first: it looks after Ctrl-C while the rest is imported)

# isort: split
import contextlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.request import url2pathname

import tyro
from tqdm import tqdm

from ssd import SSD, SSDSettings
from utils.cli import (UserError, check_file, describe_error, make_folder, printable, resolve,
                       run, shorten, typed_path, writing)
from utils.draw import draw_detections
from utils.image import IMAGE_SUFFIXES, load_image


@dataclass(frozen=True)
class PredictSettings(SSDSettings):
    """What to look at, and where the drawn images go."""

    # ---- What to do ----

    # Images and folders of images to look at; without any, the mode decides.
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    # predict asks for one image after another; dir_predict takes a whole folder.
    mode: Literal["predict", "dir_predict"] = "predict"
    # The folder of dir_predict.
    dir_origin_path: str = "img"
    # Drawn images are saved here as PNG, under the whole name of the original: a.jpg.png.
    dir_save_path: str = "img_out"
    # True also opens the drawn image, where there is a display; of a single image only.
    show: bool = True


def main(settings: PredictSettings) -> None:
    """Load the detector once, then look at what was named, at a folder, or at what is typed."""
    paths = [path for name in settings.images for path in images_in(name) or [Path(name)]]
    if not paths and settings.mode == "dir_predict":
        origin = resolve(settings.dir_origin_path)
        if os.path.realpath(origin) == os.path.realpath(resolve(settings.dir_save_path)):
            raise UserError(f"{origin}: drawings would be taken for images; choose another "
                            "dir_save_path than dir_origin_path.")
        paths = images_in(origin)
        if not paths:
            raise UserError(f"{origin}: no folder with images ({', '.join(IMAGE_SUFFIXES)}); "
                            "set dir_origin_path.")
    viewer = Viewer(SSD(settings), make_folder(settings.dir_save_path),
                    show=settings.show and has_display() and len(paths) < 2)
    if paths:
        look_at_all(paths, viewer)
    else:
        ask(viewer)


def images_in(name: str | Path) -> list[Path]:
    """Return the images of a folder, sorted; none where it is no folder."""
    with contextlib.suppress(UserError):
        folder = typed_path(name)
        if folder.is_dir():
            return sorted(path for path in folder.iterdir()
                          if path.suffix.lower() in IMAGE_SUFFIXES)
    return []


def look_at_all(paths: list[Path], viewer: "Viewer") -> None:
    """Draw images; what cannot be read is reported and passed over.

    Raises UserError, so that the script ends with status 2, only where none could be drawn.
    """
    done = sum(viewer.look_at(path, typed_path)
               for path in tqdm(paths, unit="image", disable=None))
    print(f"{done} of {len(paths)} images drawn into {shorten(viewer.folder)}")
    if not done:
        raise UserError("none of the images could be drawn.")


def ask(viewer: "Viewer") -> None:
    """Ask for images until the user stops; a bad path or file is reported and asked again."""
    while True:
        try:
            text = input("image (q to stop): ")
        except EOFError:
            print()
            return
        if text.strip().lower() in ("q", "quit", "exit"):
            return
        if text.strip():
            viewer.look_at(text, pasted_path)


def pasted_path(text: str) -> Path:
    """Return the path in a typed or dropped line: quoted, escaped, or a file:// address."""
    plain = re.sub(r"^(['\"])(.*)\1$", r"\2", text.strip())
    if plain.startswith("file://"):
        plain = url2pathname(plain.removeprefix("file://"))
    for form in (text, plain, re.sub(r"\\(.)", r"\1", plain)):
        with contextlib.suppress(UserError):
            return typed_path(form)
    return typed_path(plain)


class Viewer:
    """Looks at one image after another; saves each with its boxes in a folder, opens it on show."""

    def __init__(self, detector: SSD, folder: Path, *, show: bool):
        self.detector, self.folder, self.show = detector, folder, show
        self.origins = {}  # drawing -> the image it was made of

    def look_at(self, name: str | Path, find: Callable[[str | Path], Path]) -> bool:
        """Find a file, detect, print, draw, save; report what cannot be read or written."""
        try:
            self._look_at(check_file(find(name)))
        except UserError as error:
            tqdm.write(describe_error(error))
            return False
        return True

    def _look_at(self, path):
        if path.parent.resolve() == self.folder.resolve():
            raise UserError(f"{path}: lies among the drawings; choose another dir_save_path.")
        image = load_image(path)
        detections = self.detector.detect(image)
        drawn = draw_detections(image, detections, self.detector.class_names)
        target = self._target(path)
        with writing(target) as part:
            drawn.save(part, format="png")
        tqdm.write(f"{printable(path.name)}: {self._describe(image, detections)}\n"
                   f"  saved {printable(shorten(target))}")
        if self.show:
            drawn.show()

    def _target(self, path):
        """Return the drawing's path, which no other image of this run or letter case has."""
        # The original's whole name: a.jpg and a.png must not overwrite each other.
        target, count = self.folder / f"{path.name}.png", 1
        while self.origins.setdefault(str(target).casefold(), path) != path:
            count += 1
            target = self.folder / f"{path.name}.{count}.png"
        return target

    def _describe(self, image, detections):
        """Return lines that say what was found, best first, or the best box that was not."""
        names = self.detector.class_names
        if len(detections.scores):
            lines = [f"{len(detections.scores)} found"]
            for box, score, label in zip(*detections):
                edges = " ".join(f"{edge:.0f}" for edge in box)
                lines.append(f"  {names[label]:<16} {score:.2f}  at {edges}")
            return "\n".join(lines)
        best = self.detector.detect_batch([image], confidence=0.0, max_per_image=1)[0]
        if not len(best.scores):
            return "nothing found\n  no box has any score"
        return (f"nothing found\n  the best box has score {best.scores[0]:.2f} "
                f"({names[best.labels[0]]}), confidence is {self.detector.settings.confidence:g}")


def has_display() -> bool:
    """Tell whether a window can be opened."""
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    run(main, PredictSettings)
