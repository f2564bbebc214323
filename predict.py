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
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import tyro
from tqdm import tqdm

from ssd import SSD, SSDSettings
from utils.cli import (
    UserError,
    check_file,
    describe_error,
    make_folder,
    printable,
    resolve,
    run,
    shorten,
    typed_path,
    writing,
)
from utils.draw import draw_detections
from utils.image import IMAGE_SUFFIXES, load_image
from utils.postprocess import Detections


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
    # Where training results lie, for model_path = "".
    save_dir: str = "logs"
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
    viewer = Viewer(SSD(settings, logs_dir=settings.save_dir), make_folder(settings.dir_save_path),
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
    done = 0
    for path in tqdm(paths, unit="image", disable=None):
        try:
            viewer.look_at(typed_path(path))
            done += 1
        except UserError as error:
            tqdm.write(describe_error(error))
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
        if not text.strip():
            continue
        try:
            viewer.look_at(pasted_path(text))
        except UserError as error:
            print(describe_error(error))


def pasted_path(text: str) -> Path:
    """Return the path in a typed or dropped line: quoted, escaped, or a file:// address."""
    plain = re.sub(r"^(['\"])(.*)\1$", r"\2", text.strip())
    if plain.startswith("file://"):
        plain = url2pathname(urlparse(plain).path)
    for form in (text, plain, re.sub(r"\\(.)", r"\1", plain)):
        try:
            return typed_path(form)
        except UserError:
            continue
    return typed_path(plain)


class Viewer:
    """Looks at one image after another; saves each with its boxes in a folder, opens it on show."""

    def __init__(self, detector: SSD, folder: Path, *, show: bool):
        self.detector, self.folder, self.show = detector, folder, show
        self.origins = {}  # drawing -> the image it was made of

    def look_at(self, path: Path) -> None:
        """Detect, print, draw, save. Raises UserError for what cannot be read or written."""
        path = check_file(path)
        if path.parent.resolve() == self.folder.resolve():
            raise UserError(f"{path}: lies among the drawings; choose another dir_save_path.")
        image = load_image(path)
        detections = self.detector.detect(image)
        drawn = draw_detections(image, detections, self.detector.class_names)
        target = self.target(path)
        with writing(target) as part:
            drawn.save(part, format="png")
        tqdm.write(describe(path, detections, self.detector.class_names))
        if not len(detections.scores):
            tqdm.write(describe_best(image, self.detector))
        tqdm.write(f"  saved {printable(shorten(target))}")
        if self.show:
            drawn.show()

    def target(self, path: Path) -> Path:
        """Return the drawing's path, which no other image of this run or letter case has."""
        # The original's whole name: a.jpg and a.png must not overwrite each other.
        target, count = self.folder / f"{path.name}.png", 1
        while self.origins.setdefault(str(target).casefold(), path) != path:
            count += 1
            target = self.folder / f"{path.name}.{count}.png"
        return target


def describe(path: Path, detections: Detections, class_names: tuple[str, ...]) -> str:
    """Return lines that say what was found, best first."""
    if not len(detections.scores):
        return f"{printable(path.name)}: nothing found"
    lines = [f"{printable(path.name)}: {len(detections.scores)} found"]
    for box, score, label in zip(*detections):
        edges = " ".join(f"{edge:.0f}" for edge in box)
        lines.append(f"  {class_names[label]:<16} {score:.2f}  at {edges}")
    return "\n".join(lines)


def describe_best(image: np.ndarray, detector: SSD) -> str:
    """Return a line on the best box below the threshold."""
    weaker = detector.detect_batch([image], confidence=0.0, max_per_image=1)[0]
    if not len(weaker.scores):
        return "  no box has any score"
    return (f"  the best box has score {weaker.scores[0]:.2f} "
            f"({detector.class_names[weaker.labels[0]]}), confidence is "
            f"{detector.settings.confidence:g}")


def has_display() -> bool:
    """Tell whether a window can be opened."""
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    run(main, PredictSettings)
