"""The SSD detector: the only path from an image to detections.

    from ssd import SSD
    detector = SSD()                            # the newest training result under logs/
    boxes, scores, labels = detector.detect("img/street.jpg")
    detector.detect_image("img/street.jpg").show()
"""

import copy
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from PIL import Image

from nets.runtimes.export import ExportPrecision, export
from nets.weights.families import FAMILIES
from nets.runtimes.onnx import Outputs, RuntimeName
from nets.opening import hold_network, open_detector
from nets.runtimes.quantise import calibration_inputs
from nets.ssd import SSDNet
from utils.ahead import read_ahead
from utils.checkpoint import Checkpoint, save_checkpoint
from utils.cli import UserError, check_fields, check_value
from utils.data.annotations import Record, read_class_names, read_records
from utils.detections import Detections, class_numbers
from utils.draw import draw_detections
from utils.evaluation.scoring import detect_records
from utils.evaluation.voc_ap import ClassResult, evaluate_voc, mean_ap
from utils.image import ImageInput, as_rgb_array, boxes_to_pixels, check_images, find_image
from utils.multibox.postprocess import Kept, NmsRule, Thresholds, select
from utils.tiling import check_rule, detect_windows, read_to_detect

# Thresholds for scoring, the paper's and Caffe's: mAP needs the weak detections too.
SCORING = {"confidence": 0.01, "nms_iou": 0.45, "max_per_class": Thresholds.max_per_class,
           "max_per_image": Thresholds.max_per_image}
THRESHOLDS = {"confidence": (0, 1), "nms_iou": (0, 1)}


def check_thresholds(values):
    """Raise UserError for a keyword of `detect_batch` out of its range."""
    try:
        Thresholds(**values)
    except ValueError as error:
        raise UserError(f"{error}.") from None


@dataclass(frozen=True)
class WeightsSettings:
    """Which detector, and where it runs. Classes, sizes and colours come with the weights."""

    # ---- Weights ----

    # A best.pth or last.pth, an .onnx of SSD.export, or a published file (see the README); "coco"
    # downloads torchvision's model of 80 everyday classes; "" takes the newest best.pth under
    # save_dir.
    model_path: str = ""
    # Where train.py leaves its results.
    save_dir: str = "logs"
    # Leave "": checkpoints know their classes. Published files of other classes than VOC's or
    # COCO's need the list that they were trained with.
    classes_path: str = ""
    # Whose conventions a published file needs. "auto" tells by its contents, and says so where
    # two families name their tensors alike and only the order tells.
    weights_family: Literal[("auto", *FAMILIES)] = "auto"

    # ---- Machine ----

    # "auto" takes an NVIDIA GPU if there is one (.onnx files: the processor); else "cpu", "cuda",
    # "cuda:1", "mps".
    device: str = "auto"
    # "fp32" gives the same numbers everywhere. "auto" is bf16 where the processor or GPU multiplies
    # it: twice as fast, boxes a pixel and mAP a few tenths of a point off. fp16 is for older GPUs.
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    # What runs .onnx files. "auto": OpenVINO on Intel's processors and in bf16, else ONNX Runtime.
    runtime: RuntimeName = "auto"


@dataclass(frozen=True)
class SSDSettings(WeightsSettings):
    """How to look at images."""

    # ---- What counts as found ----

    # Least score of a box. Higher: fewer false boxes; lower: fewer missed objects.
    confidence: float = 0.5
    # Of two boxes of one class that overlap more than this (IoU), the weaker one is dropped.
    nms_iou: float = 0.45
    # What drops what: "class", boxes of one class; "agnostic", boxes of any class, for objects that
    # are of one class alone; "soft" lowers scores instead, for crowds.
    nms: NmsRule = "class"
    # Names of the classes to look for; without any, all of them.
    classes: tuple[str, ...] = ()


class SSD:
    """A detector ready to use.

    Args:
        settings: SSDSettings, or the path of a file with weights.
        changes: fields of SSDSettings in place of those: SSD("best.pth", confidence=0.3).
        network: an SSDNet in memory; then no file is read. It is used as it is and left as it was
            found: device, memory layout, train or eval mode. Changes to it are seen.
        class_names: names for that network.

    Raises:
        UserError: no weights, an unreadable file, a class list of another order, or a setting
            that is none of its choices or out of range.
        ValueError: a network on another device than the settings', or without class names.
    """

    def __init__(self, settings: SSDSettings | str | os.PathLike = SSDSettings(), *,
                 network: SSDNet | None = None, class_names: Sequence[str] | None = None,
                 **changes: Any):
        if isinstance(settings, (str, os.PathLike)):
            settings = SSDSettings(model_path=os.fspath(settings))
        if not isinstance(settings, SSDSettings):
            raise TypeError(f"expected a path or SSDSettings(model_path=...), got "
                            f"{type(settings).__name__}")
        settings = replace(settings, **changes)
        check_fields(settings, THRESHOLDS)
        self.settings = settings
        self.runtime = _load(settings) if network is None else hold_network(
            network, class_names, device=settings.device, precision=settings.precision)
        self.spec, self.class_names = self.runtime.spec, self.runtime.class_names
        self.device, self.precision = self.runtime.device, self.runtime.precision
        class_numbers(settings.classes, self.class_names)
        check_rule(settings.nms, self.spec)

    @property
    def network(self) -> SSDNet:
        """The network that PyTorch runs; UserError where something else runs an exported one."""
        return self.runtime.network

    def detect(self, image: ImageInput) -> Detections:
        """Find objects in one image.

        Args:
            image: path, PIL image, or (H, W, 3) uint8 RGB array. A relative path is looked for
                where one stands, then in the repo.

        Returns:
            Detections as NumPy arrays, best first: boxes (N, 4) float32 xyxy edges in pixels of
            the image, scores (N,), labels (N,) indices into `class_names`.

        Raises:
            UserError: a file that is missing or no image.
            TypeError, ValueError: something else than an image; an array of another shape or
                dtype, or without pixels.
        """
        return self.detect_batch([image])[0]

    def detect_batch(self, images: Iterable[ImageInput], **thresholds: float) -> list[Detections]:
        """Find objects in several images, of any sizes, with one pass of the network.

        Where the weights know a `tile`, images are looked at window by window instead.
        `thresholds` are confidence, nms_iou, max_per_class, max_per_image, nms, classes, in place
        of the settings'. Takes a list of what `detect` takes, returns a list of what it returns.
        """
        check_thresholds(thresholds)
        check_images(images)
        images = [find_image(image) for image in images]
        if not images:
            return []
        inputs, sizes = zip(*(read_to_detect(image, self.spec) for image in images))
        return self._detect_inputs(inputs, sizes, thresholds)

    def detect_stream(self, images: Iterable[ImageInput], *, batch_size: int = 4,
                      keep_images: bool = True, **thresholds: float
                      ) -> Iterator[tuple[ImageInput, np.ndarray | None, Detections | UserError]]:
        """Find objects in any number of images, which are read and looked at ahead of the caller.

        Args:
            images: any iterable of what `detect` takes; taken in the calling thread, some
                3 * `batch_size` images before their results.
            batch_size: images in one pass of the network.
            keep_images: whether the images themselves are wanted, to draw on; False is faster for
                large JPEG files.
            thresholds: those of `detect_batch`.

        Yields:
            (source as it was given, (H, W, 3) uint8 RGB array or None, Detections), in order. An
            image that cannot be read has a UserError in place of its Detections.
        """
        check_thresholds(thresholds)
        check_images(images)
        # Of large images few are held at a time: their windows fill the passes.
        return read_ahead(images, partial(self._read, keep_image=keep_images),
                          partial(self._detect_read, thresholds=thresholds),
                          batch_size=1 if self.spec.tile else batch_size)

    def _read(self, source, keep_image):
        """Return (source, array or None, (input, size) or UserError)."""
        try:
            image = find_image(source)
            array = as_rgb_array(image) if keep_image else None
            return source, array, read_to_detect(image if array is None else array, self.spec)
        except UserError as error:
            return source, None, error

    def _detect_read(self, batch, thresholds):
        """Put Detections in the place of what `_read` read."""
        inputs = [read for *_, read in batch if not isinstance(read, UserError)]
        found = iter(self._detect_inputs(*zip(*inputs), thresholds) if inputs else ())
        return [(source, array, read if isinstance(read, UserError) else next(found))
                for source, array, read in batch]

    def detect_image(self, image: ImageInput) -> Image.Image:
        """Return the image with the objects found drawn on it, as a PIL image."""
        array = as_rgb_array(find_image(image))
        return draw_detections(array, self.detect(array), self.class_names)

    def save(self, path: str | os.PathLike) -> None:
        """Write the detector, wherever its weights came from, as a checkpoint of this project."""
        save_checkpoint(path, Checkpoint(self.spec, self.class_names, self.network.state_dict(),
                                         {}, {}))

    def export(self, path: str | os.PathLike, *, outputs: Outputs = "detections",
               precision: ExportPrecision = "fp32", train_list: str = "2007_train.txt",
               val_list: str = "2007_val.txt", max_loss: float = 1.0, force: bool = False) -> None:
        """Write the detector as an .onnx file (see nets/export.py) and print what it is.

        Args:
            path: the file; `model_path` of SSDSettings takes it.
            outputs: what the file gives; in "detections" with this detector's thresholds.
            precision: "int8" runs faster and finds a little less; how much is measured.
            train_list, val_list: of voc_annotation.py, for int8: images of the first tell the
                range of activations, those of the second how much mAP is lost.
            max_loss: points of mAP@0.5 that int8 may lose; above, nothing is written.
            force: write it all the same.

        Raises UserError for a bad choice, list or path, a missing package, and too much lost.
        """
        check_value("max_loss", max_loss, float, (0, 100))
        if outputs == "detections" and (self.settings.nms != "class" or self.settings.classes):
            raise UserError('an exported file finds all classes, by nms "class": leave nms and '
                            'classes out, or set export_outputs = "boxes" and do the rest there.')
        train, val = (read_records(name, self.class_names, "the weights")
                      if precision == "int8" else [] for name in (train_list, val_list))
        thresholds = SCORING | {"confidence": self.settings.confidence,
                                "nms_iou": self.settings.nms_iou}

        def score(runtime):
            scored = copy.copy(self)
            scored.runtime = runtime
            return mean_ap(scored.evaluate(val)[0])

        export(self.network, self.class_names, path, outputs=outputs, precision=precision,
               thresholds=thresholds, score=score,
               inputs=(calibration_inputs([record[:2] for record in train], self.spec)
                       if precision == "int8" else ()),
               max_loss=math.inf if force else max_loss)

    def evaluate(self, records: list[Record], *, batch_size: int = 8
                 ) -> tuple[list[ClassResult], list[Detections]]:
        """Score the detector on records by PASCAL VOC's rules, with the thresholds for scoring.

        The records have this detector's class numbers; `batch_size` images go through the network
        at a time. All ranks get the results: (list of ClassResult by class, list of Detections by
        image).
        """
        detections = self.detect_records(records, batch_size=batch_size)
        return evaluate_voc(detections, records, len(self.class_names)), detections

    def detect_records(self, records: list[Record], *, batch_size: int = 8) -> list[Detections]:
        """Find what counts for scoring in the images of records, on all ranks.

        Ranks share the batches out, and all of them get the Detections of each image.
        """
        # Of windows each has its own caps, as in detection.
        rules = {name: value for name, value in SCORING.items()
                 if not (self.spec.tile and name.startswith("max_per"))}
        stream = partial(self.detect_stream, keep_images=False, nms="class", classes=(), **rules)
        return detect_records(stream, records, batch_size)

    def _detect_inputs(self, inputs, sizes, thresholds):
        """Turn what `read_to_detect` returned of images into Detections in pixels."""
        rules = {name: getattr(self.settings, name)
                 for name in ("confidence", "nms_iou", "nms", "classes")} | thresholds
        rules["classes"] = class_numbers(rules["classes"], self.class_names)
        if self.spec.tile:
            found = detect_windows(inputs, self.spec, self._detect_pass, rules)
        else:
            found = [kept._replace(boxes=boxes_to_pixels(kept.boxes, width, height, self.spec))
                     for kept, (width, height) in zip(self._detect_pass(inputs, rules), sizes)]
        return [Detections(*kept, self.class_names) for kept in found]

    def _detect_pass(self, inputs, rules):
        """Return what is kept of one pass, as NumPy arrays in fractions of the input."""
        found = select(*self.runtime(np.stack(inputs)), Thresholds(**rules),
                       clip=self.spec.box_clip == "after_nms")
        return [Kept(*(part.numpy() for part in kept)) for kept in found]


def _load(settings):
    """Return the Runtime of the file that the settings ask for, and say which it is."""
    given = read_class_names(settings.classes_path) if settings.classes_path else None
    runtime = open_detector(settings.model_path, save_dir=settings.save_dir, class_names=given,
                            family=settings.weights_family, device=settings.device,
                            precision=settings.precision, runtime=settings.runtime)
    if given and given != runtime.class_names:
        print(f"note: {settings.classes_path} differs from the classes in the weights, which "
              f"are used: {', '.join(runtime.class_names)}")
    return runtime
