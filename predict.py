"""Find objects in images, videos and cameras; or look into a detector.

    python predict.py a.jpg photos clip.mp4      # images, folders, videos
    python predict.py rtsp://camera/stream       # a stream
    python predict.py                            # asks for images until you type q
    python predict.py --mode video               # the first camera, until you type q
"""

import contextlib
import math
import os
import sys
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from nets.runtimes.inspect import heat_map, measure_speed, summarise
from ssd import SSD, SSDSettings
from utils.cli import UserError, check_fields, make_folder, resolve, run
from utils.data.voc import is_of_person
from utils.detections import Detections
from utils.device import keep_freed_memory
from utils.distributed import check_device, on_rank0, process_group, rank, rank0_first, world_size
from utils.draw import draw_detections, draw_heat, write_line
from utils.image import as_rgb_array
from utils.media.frames import Frame, Source, find_sources, read_frames
from utils.media.outputs import ImageFormat, Outputs, write_ranking

DARK = 64  # of 255: as 14 bits of data look in a file of 16
HAS_DISPLAY = sys.platform in ("win32", "darwin") or "DISPLAY" in os.environ


@dataclass(frozen=True)
class PredictSettings(SSDSettings):
    """What to look at, and what is kept of it."""

    # Images, videos, folders of both, numbers of cameras, addresses; without any, mode decides.
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    # predict asks for images; dir_predict takes a folder; video a file or a camera; fps measures
    # the speed; heatmap shows where each class scores; summary lists the layers.
    mode: Literal["predict", "dir_predict", "video", "fps", "heatmap", "export",
                  "summary"] = "predict"
    dir_origin_path: str = "img"  # the folder of dir_predict
    video_path: str = "0"  # the file or address of video, or a camera's number: 0 is the first
    batch_size: int = 4  # images, or frames of a file, that go through the network at a time
    batch_sizes: tuple[int, ...] = (1, 4, 16)  # those that fps tries
    show: bool = True  # open a single file as it is drawn, where there is a display; q closes it

    dir_save_path: str = "img_out"  # everything is written here: a.jpg, clip.mp4
    draw: bool = True  # images and videos with the boxes drawn
    image_format: ImageFormat = "jpg"  # png is exact, and takes 20 times as long to write
    crop: bool = False  # each object as a file in crops/, named by image, class and score
    count: bool = False  # print the objects of each class in all
    save_json: bool = False  # a .json beside each drawing, and all objects in coco_results.json
    save_csv: bool = False  # all objects in detections.csv
    save_xml: bool = False  # an .xml beside each image to be corrected, but over none of a person
    rank: bool = False  # instead: to_label.html, images that a label would teach most from first

    export_path: str = "model_data/ssd.onnx"  # the file that is written; model_path takes it
    # "detections" are after NMS, with the thresholds above; "boxes" before it; "raw": loc and conf.
    export_outputs: Literal["detections", "boxes", "raw"] = "detections"
    export_precision: Literal["fp32", "int8"] = "fp32"
    train_list: str = "2007_train.txt"  # int8 is calibrated on images of this list
    val_list: str = "2007_val.txt"  # and scored on this one
    max_loss: float = 1.0  # points of mAP@0.5 that int8 may lose, else it is not written


def main(settings: PredictSettings) -> None:
    """Load the detector once, then run it on what is named, on a folder, or on what is typed."""
    check_fields(settings, {"batch_size": (1, math.inf), "batch_sizes": (1, math.inf)})
    keep_freed_memory()
    with process_group():
        detector = rank0_first(lambda: SSD(settings))
        check_device(detector.device, settings.device)
        outputs = Outputs(make_folder(settings.dir_save_path), settings.draw, settings.crop,
                          settings.save_json, settings.save_csv, settings.count,
                          settings.image_format, detector.about, settings.save_xml)
        if settings.rank or settings.mode in ("summary", "fps", "heatmap", "export"):
            on_rank0(lambda: look_into(detector, outputs, settings))
            return
        if rank() == 0:
            print(detector.confidence_text)
        if not settings.images and settings.mode == "predict" and world_size() == 1:
            ask(detector, outputs, settings)
        else:
            sources = named_sources(settings, outputs)
            try:
                detect(detector, sources[rank()::world_size()], outputs, settings)
            finally:  # what was detected before Ctrl-C is kept
                outputs.finish(detector.class_names)
            if rank() == 0:
                outputs.sum_up(sources)


def named_sources(settings: PredictSettings, outputs: Outputs) -> list[Source]:
    """Return the sources that the settings name; UserError where there are none."""
    default = (settings.video_path if settings.mode == "video"
               else str(resolve(settings.dir_origin_path)))
    sources = find_sources(settings.images or (default,), outputs.folder, outputs.report)
    if not sources:
        raise UserError("no images or videos there; name some, or set dir_origin_path.")
    return sources


def ask(detector: SSD, outputs: Outputs, settings: PredictSettings) -> None:
    """Ask for images, videos and folders until the user stops."""
    with contextlib.suppress(EOFError):
        while (text := input("image (q to stop): ").strip()) not in ("q", "quit", "exit"):
            sources = find_sources([text] if text else [], outputs.folder, outputs.report)
            detect(detector, sources, outputs, settings)
            outputs.finish(detector.class_names)
            outputs.failures.clear()  # each line is a new try


def detect(detector: SSD, sources: list[Source], outputs: Outputs, settings: PredictSettings
           ) -> None:
    """Detect in each frame of the sources; write, print and show the results."""
    single = len(sources) == 1
    show = single and settings.show and HAS_DISPLAY
    frames, ahead = tee(read_frames(sources, outputs.report))
    images = (frame.source.path if frame.image is None else frame.image for frame in ahead)
    # A camera or stream waits for no batch.
    is_live = any(source.is_video and not isinstance(source.path, Path) for source in sources)
    stream = detector.detect_stream(images, batch_size=1 if is_live else settings.batch_size)
    total = None if any(source.is_video for source in sources) else len(sources)
    results = tqdm(zip(frames, stream), total=total, leave=False, disable=None)
    explained = False  # the first image without detections is looked at once more
    for frame, (_, image, detections) in results:
        if isinstance(detections, UserError):
            outputs.report(frame.source.name, detections)
            continue
        drawn = draw(image, frame, detections, detector) if settings.draw or show else None
        outputs.write(frame._replace(image=image), detections, drawn)
        if frame.number is None:
            in_detail = single or not (len(detections) or explained)
            print_detections(frame.source, image, detections, detector if in_detail else None)
            explained |= not len(detections)
            if show:
                Image.fromarray(drawn).show()
        elif show:
            cv2.imshow(frame.source.name, drawn[..., ::-1])
            if cv2.waitKey(1) in (ord("q"), 27):
                break


def draw(image: np.ndarray, frame: Frame, detections: Detections, detector: SSD) -> np.ndarray:
    """Return an image with its detections, or (not in videos) the words that there are none."""
    canvas = draw_detections(image, detections)
    if frame.number is None and not len(detections):
        write_line(canvas, f"nothing above {detector.confidence_text}", (4, 0),
                   height=max(18, sum(canvas.size) // 50), room=canvas.width - 8)
    return np.asarray(canvas)


def print_detections(source: Source, image: np.ndarray, detections: Detections,
                     detector: SSD | None) -> None:
    """Print how many objects of each class an image has; with a detector, in detail."""
    counts = ", ".join(f"{name} {count}" for name, count in detections.counts().items())
    summary, *details = repr(detections).split("\n")
    text = f"{summary}: {counts}" if counts else "nothing found"
    if image.max() < DARK:
        text += f"; its brightest pixel is {image.max()} of 255: scale 12-bit data to 16 bits"
    lines = [f"{source.name}: {text}"]
    if detector and not counts:
        best = detector.detect(image, confidence=0.0, max_per_image=1)
        details = [f"  the best box has a lower score:{box}" for box in repr(best).split("\n")[1:]]
    tqdm.write("\n".join(lines + details if detector else lines))


def look_into(detector: SSD, outputs: Outputs, settings: PredictSettings) -> None:
    """Print a detector's layers or speed, draw where it scores, or export it."""
    if settings.mode == "summary":
        print(summarise(detector.network))
    elif settings.mode == "heatmap":
        sources = named_sources(settings, outputs)
        for source in tqdm(sources, leave=False, disable=None):
            try:
                image = as_rgb_array(str(source.path))  # UserError for a video or a camera
                sheet = draw_heat(image, heat_map(detector.runtime, image), detector.class_names)
                outputs.write_image(f"{source.output}.heat", np.asarray(sheet))
            except UserError as error:
                outputs.report(source.name, error)
        outputs.sum_up(sources)
    elif settings.rank:
        paths = [Path(str(source.path)) for source in named_sources(settings, outputs)
                 if not source.is_video]
        write_ranking(outputs.folder / "to_label.html", [
            path for path in paths if not is_of_person(path.with_suffix(".xml"))], detector)
    elif settings.mode == "export":
        detector.export(
            resolve(settings.export_path), outputs=settings.export_outputs,
            precision=settings.export_precision, train_list=resolve(settings.train_list),
            val_list=resolve(settings.val_list), max_loss=settings.max_loss)
    else:
        path = named_sources(settings, outputs)[0].path
        print(measure_speed(detector.runtime, path, settings.batch_sizes, detector.thresholds))


if __name__ == "__main__":
    run(main, PredictSettings)
