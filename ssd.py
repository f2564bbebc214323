"""The SSD detector: the only path from an image to detections.

    from ssd import SSD
    detector = SSD()                            # the newest training result under logs/
    boxes, scores, labels = detector.detect("img/street.jpg")
    detector.detect_image("img/street.jpg").show()
"""

import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from nets.build import read_network
from nets.runtimes.export import export_onnx, quantise
from nets.runtimes.onnx import OnnxRuntime, Outputs, RuntimeName
from nets.runtimes.torch import TorchRuntime
from nets.ssd import SSDNet
from nets.weights.families import FAMILIES
from utils.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from utils.cli import (ROOT, Settings, UserError, check_fields, given_path, make_folder, resolve,
                       writing)
from utils.data.annotations import Record, read_class_names, read_records
from utils.detections import Detections, class_indices, class_texts
from utils.device import HostCopy, pick_device, set_precision
from utils.distributed import share_out
from utils.draw import draw_detections
from utils.evaluation.voc_ap import ClassResult, evaluate_voc, mean_ap
from utils.image import ImageInput, as_rgb_array, boxes_to_pixels, prepare
from utils.multibox.postprocess import NmsRule, Thresholds, select
from utils.read_ahead import run_ahead
from utils.tiling import detect_windows, sample_inputs

SCORING = Thresholds()  # the paper's and Caffe's: mAP needs the weak detections too
# Of weights that have none stored: those of others, and of a training without val.
DEFAULT_CONFIDENCE = {"confidence": 0.5, "confidence_from": "the default"}
RULES = ("confidence", "nms_iou", "nms", "classes")  # settings that are fields of Thresholds
CALIBRATION_IMAGES = 100  # at most, of int8: they tell the range of activations
IMAGES_PER_PASS = 16  # of detect_batch: a pass of 200 through VGG takes tens of GB


@dataclass(frozen=True)
class WeightsSettings(Settings):
    """Which detector, and where it runs. Classes, sizes and colours come with the weights."""

    # A best.pth, an exported .onnx, or a published file (see the README); "coco" and the faster
    # "coco-light" download torchvision's models of 80 everyday classes; "" takes the newest
    # best.pth under save_dir.
    model_path: str = ""
    save_dir: str = "logs"  # where train.py leaves its results
    # Only for published files of other classes than VOC's or COCO's: the list of their classes.
    classes_path: str = ""
    # Whose conventions a published file needs; "auto" recognises them by its tensors.
    weights_family: Literal[("auto", *FAMILIES)] = "auto"
    device: str = "auto"  # an NVIDIA GPU if there is one; or "cpu", "cuda", "cuda:1", "mps"
    # "auto" is bf16 where the hardware multiplies it: twice as fast, boxes a pixel and mAP a few
    # tenths of a point off. fp16 is for older GPUs.
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    runtime: RuntimeName = "auto"  # of .onnx files: OpenVINO if it is installed, or ONNX Runtime


@dataclass(frozen=True)
class SSDSettings(WeightsSettings):
    """What counts as a detection."""

    # Least score; higher: fewer false boxes, lower: fewer missed objects. 0 takes the one that
    # train.py stored with the weights, that of the best F1 on val, or 0.5 where there is none.
    confidence: float = 0.0
    nms_iou: float = 0.45  # of two boxes that overlap more (IoU), the weaker one is dropped
    nms: NmsRule = "class"  # or "agnostic": across classes, so that an object gets one box
    classes: tuple[str, ...] = ()  # to look for, names or numbers from 0; without any, all of them


class SSD:
    """A detector of SSDSettings, or of a file: SSD("best.pth", confidence=0.3).

    In place of a file, an SSDNet in memory with its class names runs as it is and where it is, and
    keeps its modes.
    Raises UserError for weights that cannot be read and for settings out of range.
    """

    def __init__(self, settings: SSDSettings | str | os.PathLike = SSDSettings(), *,
                 network: SSDNet | None = None, class_names: Sequence[str] = (),
                 **changes: Any):
        if isinstance(settings, (str, os.PathLike)):
            settings = SSDSettings(model_path=os.fspath(settings))
        if "classes" in changes:
            changes["classes"] = class_texts(changes["classes"])
        self.settings = settings = replace(settings, **changes)
        check_fields(settings)
        if network is None:
            self.runtime, about = _open(settings)
        else:
            precision = set_precision(settings.precision, network.coder.priors.device)
            self.runtime = TorchRuntime(network, class_names, precision=precision, owned=False)
            about = {}
        self.spec, self.class_names = self.runtime.spec, self.runtime.class_names
        self.device, self.precision = self.runtime.device, self.runtime.precision
        # What is known of the weights, and the confidence in use: for files and messages.
        self.about = DEFAULT_CONFIDENCE | about
        if settings.confidence:
            self.about |= {"confidence": float(settings.confidence), "confidence_from": "as set"}
        self.thresholds = SCORING
        rules = {name: getattr(settings, name) for name in RULES}
        self.thresholds = self._override(rules | {"confidence": self.about["confidence"]})

    @property
    def confidence_text(self) -> str:
        """The confidence in use and where it comes from, such as "confidence 0.37, as set"."""
        return "confidence {confidence:g}, {confidence_from}".format(**self.about)

    @property
    def network(self) -> SSDNet:
        """The network that PyTorch runs; UserError where something else runs an exported one.

        Detection follows what is changed in it, and is slower from the first use of this on.
        """
        network = self.runtime.network
        self.runtime.copy = None
        return network

    def detect(self, image: ImageInput, *, bgr: bool = False, **overrides: Any) -> Detections:
        """Find objects in one image, best first, with boxes in pixels of the image.

        `image` is a path, the bytes of a file, a PIL image, or a uint8 array of grey (H, W) or RGB
        (H, W, 3 or 4), with `bgr` in OpenCV's order. `overrides` are fields of Thresholds, such as
        confidence=0.3; `classes` are names or numbers, one or several. Raises UserError for a file
        that cannot be read, TypeError or ValueError for what is no image.
        """
        return self.detect_batch([image], bgr=bgr, **overrides)[0]

    def detect_batch(self, images: Iterable[ImageInput], *, bgr: bool = False, **overrides: Any
                     ) -> list[Detections]:
        """Do what `detect` does for several images, of any sizes, together."""
        if not np.iterable(images) or isinstance(images, (str, bytes, os.PathLike)) or getattr(
                images, "ndim", 4) < 4:
            raise TypeError(f"expected a list of images, got {images!r:.80}")
        self._override(overrides)
        images, detections = iter(images), []
        while batch := list(islice(images, IMAGES_PER_PASS)):
            prepared = [prepare(image, self.spec, bgr=bgr) for image in batch]
            detections += self._detect_prepared(prepared, overrides)
        return detections

    def detect_stream(self, images: Iterable[ImageInput], *, batch_size: int = 4,
                      keep_images: bool = True, bgr: bool = False, **overrides: Any
                      ) -> Iterator[tuple[ImageInput, np.ndarray | None, Detections | UserError]]:
        """Do what `detect` does for any number of images, two batches ahead of the caller.

        Yields (image as it was given, (H, W, 3) uint8 RGB array or None without `keep_images`,
        Detections or the UserError of an image that cannot be read), in order.
        """
        self._override(overrides)
        batch_size = 1 if self.spec.tile else max(1, batch_size)  # tiles of an image fill a batch
        return run_ahead(images, batch_size,
                         partial(self._read, keep_image=keep_images, bgr=bgr),
                         partial(self._detect_read, overrides=overrides))

    def _read(self, source, keep_image, bgr):
        """Return (source, array or None, what is prepared of it or UserError)."""
        try:
            array = as_rgb_array(source, bgr=bgr)
            return source, array if keep_image else None, prepare(array, self.spec)
        except UserError as error:
            return source, None, error

    def _detect_read(self, batch, overrides):
        """Replace what `_read` prepared by Detections."""
        prepared = [item for *_, item in batch if not isinstance(item, UserError)]
        detections = iter(self._detect_prepared(prepared, overrides))
        return [(source, array, item if isinstance(item, UserError) else next(detections))
                for source, array, item in batch]

    def _detect_prepared(self, prepared, overrides):
        """Return the Detections of images that came as (network input, (width, height))."""
        thresholds = self._override(overrides)
        if self.spec.tile:  # max_per_image is that of a tile, unless the caller gives it
            limit = overrides.get("max_per_image") or None
            return [detect_windows(image, self.spec, self._detect_pass, thresholds)[:limit]
                    for image, _ in prepared]
        return self._detect_pass(*zip(*prepared), thresholds) if prepared else []

    def _detect_pass(self, inputs, sizes, thresholds):
        """Return the Detections of one pass, in pixels of images of these (width, height) sizes."""
        outputs = self.runtime(np.stack(inputs))
        damaged = HostCopy(sum(output.isnan().any() for output in outputs))
        kept = select(*outputs, thresholds, clip=self.spec.box_clip == "after_nms")
        if damaged.tolist():  # `select` has waited for a GPU
            raise UserError("the network's outputs are not numbers: its weights are damaged, or "
                            f"{self.precision} is too narrow for them.")
        return [Detections(boxes_to_pixels(boxes, *size, self.spec), scores.numpy(),
                           labels.numpy(), self.class_names)
                for (boxes, scores, labels), size in zip(kept, sizes)]

    def _override(self, changes):
        """Return the detector's thresholds with changes, whose classes are names or numbers."""
        if "classes" in changes:
            changes = changes | {"classes": class_indices(changes["classes"], self.class_names)}
        try:
            return replace(self.thresholds, **changes)
        except ValueError as error:
            raise UserError(f"{error}.") from None

    def detect_image(self, image: ImageInput, *, bgr: bool = False, **overrides: Any
                     ) -> Image.Image:
        """Return the image with what `detect` finds drawn on it, as a PIL image."""
        array = as_rgb_array(image, bgr=bgr)
        return draw_detections(array, self.detect(array, **overrides))

    def evaluate(self, records: list[Record]) -> list[ClassResult]:
        """Return the result of each class by VOC's rules, on all ranks."""
        return evaluate_voc(self.detect_records(records), records, len(self.class_names))

    def detect_records(self, records: list[Record], *, batch_size: int = 8) -> list[Detections]:
        """Detect by the thresholds for scoring, on all ranks; nothing in an unreadable image."""
        def detect(records):
            nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32),
                                 np.zeros(0, np.int64), self.class_names)
            stream = self.detect_stream(
                [record.path for record in records], batch_size=batch_size, keep_images=False,
                **{name: getattr(SCORING, name) for name in RULES})
            for *_, detections in tqdm(stream, "mAP", len(records), leave=False, disable=None):
                if isinstance(detections, UserError):
                    print(f"{detections} Its objects count as missed.")
                    detections = nothing
                yield detections

        return share_out(records, detect)

    def save(self, path: str | os.PathLike) -> None:
        """Write the detector, wherever its weights came from, as a checkpoint of this project."""
        weights = self.runtime.network.state_dict()
        save_checkpoint(given_path(path), Checkpoint(self.spec, self.class_names, weights, {},
                                                     self.about))

    def export(self, path: str | os.PathLike, *, outputs: Outputs = "detections",
               precision: Literal["fp32", "int8"] = "fp32",
               train_list: str | os.PathLike = ROOT / "2007_train.txt",
               val_list: str | os.PathLike = ROOT / "2007_val.txt", max_loss: float = 1.0) -> None:
        """Write the detector as an .onnx file, which `model_path` takes; print what it is.

        `outputs` are those of docs/inference.md. "int8" is calibrated on `train_list`, and
        refused where it loses more than `max_loss` points of mAP@0.5 on `val_list`.
        """
        path = given_path(path)
        if path.suffix.lower() != ".onnx":
            raise UserError(f"{path}: an exported file must end in .onnx.")
        if outputs == "detections" and (self.settings.nms != "class" or self.settings.classes):
            raise UserError('exported "detections" are of all classes, by nms = "class"; leave nms '
                            'and classes out, or take the outputs "boxes".')
        with TemporaryDirectory() as folder:
            file = Path(folder, "fp32.onnx")
            export_onnx(self.runtime.network, self.class_names, file, outputs=outputs,
                        thresholds=self.thresholds, about=self.about)
            if precision == "int8":
                train, val = (read_records(given_path(name), self.class_names, "the weights")
                              for name in (train_list, val_list))
                step = math.ceil(len(train) / CALIBRATION_IMAGES) or 1
                file = quantise(
                    file, sample_inputs((record[:2] for record in train[::step]), self.spec),
                    score=lambda file: mean_ap(SSD(file, runtime="onnxruntime").evaluate(val)),
                    max_loss=max_loss)
            make_folder(path.parent)
            with writing(path) as part:
                shutil.copyfile(file, part)
        print(f"exported: {path}: {precision}, {outputs}, {self.confidence_text}, "
              f"{path.stat().st_size / 2 ** 20:.1f} MiB")


def _open(settings):
    """Return the Runtime of the weights that the settings name, and what is known of them."""
    class_names = read_class_names(settings.classes_path) if settings.classes_path else None
    path = settings.model_path or newest_checkpoint(settings.save_dir)
    if not path:
        raise UserError(f"no best.pth under {resolve(settings.save_dir)}: run train.py, or set "
                        'model_path = "coco" or to a file.')
    model = {"model": "/".join(Path(path).parts[-2:])}
    if str(path).lower().endswith(".onnx"):
        runtime = OnnxRuntime(path, device=settings.device, precision=settings.precision,
                              runtime=settings.runtime)
        return runtime, runtime.about | model
    device = pick_device(settings.device)
    precision = set_precision(settings.precision, device, tf32=True)
    network, names = read_network(path, family=settings.weights_family, class_names=class_names)
    runtime = TorchRuntime(network.to(device).eval(), names, precision=precision, owned=True)
    return runtime, network.about | model
