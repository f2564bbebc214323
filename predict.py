"""Find objects in images, videos and cameras; or look into a detector.

    python predict.py a.jpg photos clip.mp4      # images, folders, videos
    python predict.py                            # asks for images until you type q
    python predict.py --mode video --video_path 0      # the first camera, until you type q
    python predict.py --mode heatmap a.jpg       # where each class scores
"""

import contextlib
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.request import url2pathname

import numpy as np
import torch
import tyro

from nets.runtimes.inspect import heat_map, measure_speed, summarise
from ssd import SSD, SSDSettings
from utils.cli import (UserError, describe_error, make_folder, printable, resolve, run, shorten,
                       typed_path)
from utils.device import keep_freed_memory
from utils.distributed import check_device, first_ahead, on_first, process_group, world_size
from utils.draw import draw_heat
from utils.image import image_size
from utils.media.frames import Finder
from utils.media.outputs import ImageFormat
from utils.media.viewer import Viewer
from utils.tiling import window_grid

FPS_SECONDS = 3  # for each batch size


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
    # Images, or frames of a file, that go through the network at a time.
    batch_size: int = 4
    # Those that fps tries.
    batch_sizes: tuple[int, ...] = (1, 4, 16)
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

    # ---- Export ----

    # The file that is written; model_path takes it.
    export_path: str = "model_data/ssd.onnx"
    # "detections": boxes after NMS, with the thresholds above; "boxes" and their scores before it;
    # "raw": loc and conf.
    export_outputs: Literal["detections", "boxes", "raw"] = "detections"
    # "int8" is calibrated on images of train_list and scored on val_list.
    export_precision: Literal["fp32", "int8"] = "fp32"
    train_list: str = "2007_train.txt"
    val_list: str = "2007_val.txt"
    # Points of mAP@0.5 that int8 may lose; above, nothing is written unless force says so.
    max_loss: float = 1.0
    force: bool = False


def main(settings: PredictSettings) -> None:
    """Load the detector once, then look at what was named, at a folder, or at what is typed."""
    if settings.batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {settings.batch_size}.")
    keep_freed_memory()
    with process_group():
        detector = first_ahead(lambda: SSD(settings))
        check_device(detector.device, settings.device)
        look_into = {"summary": summary, "fps": fps, "export": export}.get(settings.mode)
        if look_into:
            on_first(lambda: look_into(detector, settings))
            return
        viewer = Viewer(detector, make_folder(settings.dir_save_path), **{
            name: getattr(settings, name) for name in (
                "batch_size", "show", "count", "draw", "crop", "save_json", "save_csv",
                "image_format")})
        names = settings.images or {"predict": (), "video": (settings.video_path,)}.get(
            settings.mode, (settings.dir_origin_path,))
        if names:
            heat = functools.partial(heat_sheet, detector) if settings.mode == "heatmap" else None
            viewer.look_at_all(names, heat=heat)
        elif world_size() > 1:
            raise UserError("several processes need to be told what to look at: torchrun "
                            "predict.py folder")
        else:
            ask(viewer)


def heat_sheet(detector: SSD, image: np.ndarray) -> np.ndarray:
    """Return a drawn sheet, (H, W, 3) uint8, that shows where each class scores."""
    return np.asarray(draw_heat(image, heat_map(detector.runtime, image), detector.class_names))


def summary(detector: SSD, settings: PredictSettings) -> None:
    """Print the layers of the network."""
    print(summarise(detector.network))


def fps(detector: SSD, settings: PredictSettings) -> None:
    """Print how long each stage takes, on the first image that is named or lies in the folder."""
    names = settings.images or (settings.dir_origin_path,)
    finder = Finder(resolve(settings.dir_save_path), lambda _, error: print(describe_error(error)))
    paths = [source.path for name in names for source in finder.find(name) if not source.is_video]
    if not paths or not settings.batch_sizes or min(settings.batch_sizes) < 1:
        raise UserError("fps needs an image, named or in dir_origin_path, and batch_sizes from 1.")
    (width, height), batch_sizes = image_size(paths[0]), settings.batch_sizes
    print(f"{printable(shorten(paths[0]))}, {width}x{height}; {detector.runtime.name} in "
          f"{detector.precision} on {detector.device}, {torch.get_num_threads()} threads")
    if tile := detector.spec.tile:
        batch_sizes = (1,)
        print(f"windows of {tile} px, {len(window_grid(width, height, tile)[0])} an image; images "
              "are looked at one at a time")
    print(measure_speed(detector.runtime, paths[0], batch_sizes, seconds=FPS_SECONDS,
                        confidence=settings.confidence, nms_iou=settings.nms_iou))


def export(detector: SSD, settings: PredictSettings) -> None:
    """Write an .onnx file, and say what int8 loses on the val list."""
    if settings.export_precision == "int8" and world_size() > 1:
        raise UserError("int8 is exported by one process: python predict.py --mode export ...")
    detector.export(settings.export_path, outputs=settings.export_outputs,
                    precision=settings.export_precision, train_list=settings.train_list,
                    val_list=settings.val_list, max_loss=settings.max_loss, force=settings.force)


def ask(viewer: Viewer) -> None:
    """Ask for images until the user stops; a bad path or file is reported and asked again."""
    try:
        while True:
            try:
                text = input("image (q to stop): ")
            except EOFError:
                print()
                break
            if text.strip().lower() in ("q", "quit", "exit"):
                break
            viewer.failures.clear()  # each line is a new try
            if text.strip():
                with contextlib.suppress(UserError):
                    viewer.look_at(viewer.finder.find(pasted_path(text)))
    finally:  # what was found before Ctrl-C is kept
        viewer.write_tables()


def pasted_path(text: str) -> Path | str:
    """Return the path in a typed or dropped line: quoted, escaped, or a file:// address."""
    plain = re.sub(r"^(['\"])(.*)\1$", r"\2", text.strip())
    if plain.startswith("file://"):
        plain = url2pathname(plain.removeprefix("file://"))
    for form in (text, plain, re.sub(r"\\(.)", r"\1", plain)):
        with contextlib.suppress(UserError):
            return typed_path(form)
    return plain


if __name__ == "__main__":
    run(main, PredictSettings)
