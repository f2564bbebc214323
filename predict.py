"""Find objects in images, videos and cameras; or look into a detector.

    python predict.py a.jpg photos clip.mp4      # images, folders, videos
    python predict.py                            # asks for images until you type q
    python predict.py --mode video --video_path 0      # the first camera, until you type q
    python predict.py --mode heatmap a.jpg       # where each class scores
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import tee
from typing import Literal

import numpy as np
import tyro
from tqdm import tqdm

from nets.runtimes.inspect import heat_map, measure_speed, summarise
from ssd import SSD, SSDSettings
from utils.cli import UserError, make_folder, run
from utils.detections import Detections
from utils.device import keep_freed_memory
from utils.distributed import (check_device, on_rank0, process_group, rank, rank0_first,
                               world_size)
from utils.draw import draw_heat
from utils.image import load_image
from utils.media.frames import Frame, Source, SourceFinder, read_frames
from utils.media.outputs import HAS_DISPLAY, ImageFormat, Outputs, show_frame


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
    dir_origin_path: str = "img"  # the folder of dir_predict
    video_path: str = "0"  # the file of video, or the number of a camera: 0 is the first
    batch_size: int = 4  # images, or frames of a file, that go through the network at a time
    batch_sizes: tuple[int, ...] = (1, 4, 16)  # those that fps tries
    # Open the drawn image of a single file, or a window of a video, where there is a display; q
    # closes the window.
    show: bool = True

    # ---- What is kept ----

    # Everything is written here, in sub-folders as they were, under the whole name of the
    # original: a.jpg.jpg, clip.avi.mp4.
    dir_save_path: str = "img_out"
    draw: bool = True  # images and videos with the boxes drawn
    image_format: ImageFormat = "jpg"  # png is exact, and takes 20 times as long to write
    crop: bool = False  # each object as a file in crops/, named by image, class and score
    count: bool = False  # print the objects of each class in all
    save_json: bool = False  # a .json beside each drawing, and all objects in coco_results.json
    save_csv: bool = False  # all objects in detections.csv

    # ---- Export ----

    export_path: str = "model_data/ssd.onnx"  # the file that is written; model_path takes it
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
    """Load the detector once, then run it on what is named, on a folder, or on what is typed."""
    if settings.batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {settings.batch_size}.")
    keep_freed_memory()
    with process_group():
        detector = rank0_first(lambda: SSD(settings))
        check_device(detector.device, settings.device)
        outputs = Outputs(make_folder(settings.dir_save_path), draw=settings.draw,
                          crop=settings.crop, save_json=settings.save_json,
                          save_csv=settings.save_csv, image_format=settings.image_format)
        names = settings.images
        if not names and settings.mode != "predict":
            names = (settings.video_path if settings.mode == "video" else settings.dir_origin_path,)
        finder = SourceFinder(outputs.folder)
        if settings.mode in ("summary", "fps", "export"):
            on_rank0(lambda: look_into(detector, finder, names, settings))
        elif not names and world_size() == 1:
            ask(detector, finder, outputs, settings)
        else:
            sources = find(names, finder, outputs)
            run_mode = draw_heat_maps if settings.mode == "heatmap" else detect
            try:
                run_mode(detector, sources[rank()::world_size()], outputs, settings)
            finally:  # what was detected before Ctrl-C is kept
                outputs.write_tables(detector.class_names)
            if rank() == 0:
                outputs.sum_up(sources, count=settings.count)


def find(names: Iterable[str], finder: SourceFinder, outputs: Outputs) -> list[Source]:
    """Return the sources that are named, each once."""
    sources = []
    for name in names:
        try:
            sources += finder.find(name)
        except UserError as error:
            outputs.report(name, error)
    return list(dict.fromkeys(sources))


def ask(detector: SSD, finder: SourceFinder, outputs: Outputs, settings: PredictSettings) -> None:
    """Ask for images, videos and folders until the user stops."""
    with contextlib.suppress(EOFError):
        while (text := input("image (q to stop): ")).strip().lower() not in ("q", "quit", "exit"):
            if text.strip():
                detect(detector, find([text], finder, outputs), outputs, settings)
                outputs.write_tables(detector.class_names)
                outputs.failures.clear()  # each line is a new try


def detect(detector: SSD, sources: list[Source], outputs: Outputs, settings: PredictSettings
           ) -> None:
    """Detect in each frame of the sources; write, print and show the results."""
    single, has_video = len(sources) == 1, any(source.is_video for source in sources)
    show = single and settings.show and HAS_DISPLAY
    frames = detect_frames(detector, sources, outputs, batch_size=settings.batch_size,
                           keep_images=settings.draw or settings.crop or show)
    with contextlib.closing(outputs):  # completes a video that is being written
        for frame, detections in tqdm(frames, unit="frame" if has_video else "image", leave=False,
                                      total=None if has_video else len(sources),
                                      disable=True if single and not has_video else None):
            drawn = outputs.write(frame, detections)
            if frame.number is None:
                print_detections(frame.source, detections, detector if single else None)
            if show and not show_frame(frame, drawn):
                break


def detect_frames(detector: SSD, sources: list[Source], outputs: Outputs, *, batch_size: int,
                  keep_images: bool) -> Iterator[tuple[Frame, Detections]]:
    """Yield each frame with its Detections; several go through the network at a time."""
    frames = read_frames(sources, outputs.report)
    if any(isinstance(source.path, int) for source in sources):  # a camera waits for no batch
        yield from ((frame, detector.detect(frame.image)) for frame in frames)
        return
    frames, ahead = tee(frames)
    images = (frame.source.path if frame.image is None else frame.image for frame in ahead)
    stream = detector.detect_stream(images, batch_size=batch_size, keep_images=keep_images)
    for frame, (_, image, detections) in zip(frames, stream):
        if isinstance(detections, UserError):
            outputs.report(frame.source.name, detections)
        else:
            yield frame._replace(image=image), detections


def print_detections(source: Source, detections: Detections, detector: SSD | None) -> None:
    """Print how many objects of each class an image has.

    With a detector, for a single image: also each object, or the best score if there is none.
    """
    summary, *objects = repr(detections).split("\n")
    counts = ", ".join(f"{name} {count}" for name, count in detections.counts().items())
    tqdm.write(f"{source.name}: " + (f"{summary}: {counts}" if counts else "nothing found"))
    if detector and counts:
        print("\n".join(objects))
    elif detector:
        best = detector.detect_batch([source.path], confidence=0.0, max_per_image=1)[0]
        for name, score in zip(best.names, best.scores):
            print(f"  the best box has score {score:.2f} ({name}), confidence is "
                  f"{detector.settings.confidence:g}")


def draw_heat_maps(detector: SSD, sources: list[Source], outputs: Outputs, _: PredictSettings
                   ) -> None:
    """Write a sheet for each image that shows where each class scores."""
    for source in tqdm(sources, unit="image", leave=False, disable=None):
        try:
            if source.is_video:
                raise UserError(f"{source.name}: heatmap is for images, not for videos.")
            image = load_image(source.path)
            sheet = draw_heat(image, heat_map(detector.runtime, image), detector.class_names)
            outputs.write_image(f"{source.name}.heat", np.asarray(sheet))
        except UserError as error:
            outputs.report(source.name, error)


def look_into(detector: SSD, finder: SourceFinder, names: Iterable[str],
              settings: PredictSettings) -> None:
    """Print the layers or the speed of a detector, or export it."""
    if settings.mode == "summary":
        print(summarise(detector.network))
    elif settings.mode == "export":
        detector.export(settings.export_path, outputs=settings.export_outputs,
                        precision=settings.export_precision, train_list=settings.train_list,
                        val_list=settings.val_list, max_loss=settings.max_loss,
                        force=settings.force)
    else:
        images = [source.path for name in names for source in finder.find(name)
                  if not source.is_video]
        if not images or not settings.batch_sizes or min(settings.batch_sizes) < 1:
            raise UserError("fps needs an image, named or in dir_origin_path, and batch_sizes "
                            "from 1.")
        print(measure_speed(detector.runtime, images[0], settings.batch_sizes,
                            detector.thresholds))


if __name__ == "__main__":
    run(main, PredictSettings)
