"""Find objects in images: type a path, get the image with its boxes.

    python predict.py                       # asks for images until you type q
    python predict.py --mode dir_predict    # all images of img/
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from ssd import SSD, SSDSettings
from utils.cli import UserError, make_folder, resolve, run, shorten
from utils.draw import draw_detections
from utils.image import IMAGE_SUFFIXES, load_image


@dataclass(frozen=True)
class PredictSettings(SSDSettings):
    """What to look at, and where the drawn images go."""

    # ---- What to do ----

    # predict asks for one image after another; dir_predict takes a whole folder.
    mode: Literal["predict", "dir_predict"] = "predict"
    # The folder of dir_predict.
    dir_origin_path: str = "img"
    # Drawn images are saved here, under the name of the original.
    dir_save_path: str = "img_out"
    # Where training results lie, for model_path = "".
    save_dir: str = "logs"
    # True also opens the drawn image, where there is a display.
    show: bool = True


def main(settings):
    """Load the detector once, then run the mode."""
    detector = SSD(settings, logs_dir=settings.save_dir)
    folder = make_folder(settings.dir_save_path)
    {"predict": predict, "dir_predict": dir_predict}[settings.mode](settings, detector, folder)


def predict(settings, detector, folder):
    """Ask for images until the user stops; a bad path or file is reported and asked again."""
    while True:
        try:
            text = input("image (q to stop): ").strip().strip("'\"")
        except EOFError:
            print()
            return
        if text.lower() in ("q", "quit", "exit"):
            return
        if not text:
            continue
        try:
            image = look_at(typed_path(text), detector, folder)
        except UserError as error:
            print(f"error: {error}")
            continue
        if settings.show and has_display():
            image.show()


def dir_predict(settings, detector, folder):
    """Draw all images of a folder; what cannot be read is reported and passed over.

    Raises UserError where the folder has no images or none could be read.
    """
    origin = resolve(settings.dir_origin_path)
    if not origin.is_dir():
        raise UserError(f"{shorten(origin)}: no such folder; set dir_origin_path.")
    paths = sorted(path for path in origin.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UserError(f"{shorten(origin)}: no images in it ({', '.join(IMAGE_SUFFIXES)}).")
    done = 0
    for path in tqdm(paths, unit="image", disable=None):
        try:
            look_at(path, detector, folder)
            done += 1
        except UserError as error:
            tqdm.write(f"error: {error}")
    print(f"{done} of {len(paths)} images drawn into {shorten(folder)}")
    if not done:
        raise UserError(f"{shorten(origin)}: none of the images could be read.")


def look_at(path, detector, folder):
    """Detect, print, draw, save; return the drawn PIL image."""
    image = load_image(path)
    detections = detector.detect(image)
    drawn = draw_detections(image, detections, detector.class_names)
    # PNG and the original's full name: a.jpg and a.png must not overwrite each other.
    target = folder / f"{path.name}.png"
    try:
        drawn.save(target)
    except OSError as error:
        raise UserError(f"{shorten(target)}: cannot be written ({error.strerror}).") from None
    tqdm.write(describe(path, detections, detector.class_names))
    if not len(detections.scores):
        tqdm.write(describe_best(image, detector))
    tqdm.write(f"  saved {shorten(target)}")
    return drawn


def describe(path, detections, class_names):
    """Return lines that say what was found, best first."""
    if not len(detections.scores):
        return f"{path.name}: nothing found"
    lines = [f"{path.name}: {len(detections.scores)} found"]
    for box, score, label in zip(*detections):
        edges = " ".join(f"{edge:.0f}" for edge in box)
        lines.append(f"  {class_names[label]:<16} {score:.2f}  at {edges}")
    return "\n".join(lines)


def describe_best(image, detector):
    """Return a line on the best box below the threshold."""
    weaker = detector.detect_batch([image], confidence=0.0, max_per_image=1)[0]
    if not len(weaker.scores):
        return "  no box has any score"
    return (f"  the best box has score {weaker.scores[0]:.2f} "
            f"({detector.class_names[weaker.labels[0]]}), confidence is "
            f"{detector.settings.confidence:g}")


def typed_path(text):
    """Return the file that a typed path means: from where one stands, else from the repo."""
    path = Path(text).expanduser()
    return path.resolve() if path.exists() else resolve(path)


def has_display():
    """Tell whether a window can be opened."""
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    run(main, PredictSettings)
