"""The SSD detector: the only path from an image to detections.

    from ssd import SSD
    detector = SSD()                            # the newest training result under logs/
    boxes, scores, labels = detector.detect("img/street.jpg")
    detector.detect_image("img/street.jpg").show()
"""

import math
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from nets.build import read_network
from nets.runtimes.export import export_onnx, quantise
from nets.runtimes.onnx import OnnxRuntime, Outputs, RuntimeName
from nets.runtimes.torch import Runtime, TorchRuntime, wrap_network
from nets.ssd import SSDNet
from nets.weights.families import FAMILIES
from utils.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from utils.cli import UserError, check_fields, make_folder, resolve, shorten, writing
from utils.data.annotations import Record, read_class_names, read_records
from utils.detections import Detections, class_indices
from utils.device import pick_device, set_precision
from utils.distributed import share_out
from utils.draw import draw_detections
from utils.evaluation.voc_ap import ClassResult, evaluate_voc, mean_ap
from utils.image import ImageInput, as_rgb_array, boxes_to_pixels, prepare
from utils.multibox.postprocess import NmsRule, Thresholds, select
from utils.tiling import detect_windows, sample_inputs

SCORING = Thresholds()  # the paper's and Caffe's: mAP needs the weak detections too
CALIBRATION_IMAGES = 100  # at most, of int8: they tell the range of activations


@dataclass(frozen=True)
class WeightsSettings:
    """Which detector, and where it runs. Classes, sizes and colours come with the weights."""

    # A best.pth or last.pth, an .onnx of SSD.export, or a published file (see the README); "coco"
    # downloads torchvision's model of 80 everyday classes; "" takes the newest best.pth under
    # save_dir.
    model_path: str = ""
    save_dir: str = "logs"  # where train.py leaves its results
    # Leave "": checkpoints know their classes. Published files of other classes than VOC's or
    # COCO's need the list that they were trained with.
    classes_path: str = ""
    # Whose conventions a published file needs; "auto" recognises them by its tensors.
    weights_family: Literal[("auto", *FAMILIES)] = "auto"
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
    """What counts as a detection."""

    confidence: float = 0.5  # least score; higher: fewer false boxes, lower: fewer missed objects
    # Of two boxes of one class that overlap more than this (IoU), the weaker one is dropped.
    nms_iou: float = 0.45
    # What drops what: "class", boxes of one class; "agnostic", boxes of any class, for objects that
    # are of one class alone; "soft" lowers scores instead, for crowds.
    nms: NmsRule = "class"
    classes: tuple[str, ...] = ()  # names of the classes to look for; without any, all of them


class SSD:
    """A detector ready to use.

    Args:
        settings: SSDSettings, or the path of a file with weights.
        changes: fields of SSDSettings in place of those: SSD("best.pth", confidence=0.3).
        network: an SSDNet in memory; then no file is read. It runs as it is and keeps its device,
            memory layout and modes. Changes to it take effect.
        class_names: names for that network.

    Raises UserError for weights that cannot be read and for settings out of range.
    """

    def __init__(self, settings: SSDSettings | str | os.PathLike = SSDSettings(), *,
                 network: SSDNet | None = None, class_names: Sequence[str] | None = None,
                 **changes: Any):
        if isinstance(settings, (str, os.PathLike)):
            settings = SSDSettings(model_path=os.fspath(settings))
        self.settings = settings = replace(settings, **changes)
        check_fields(settings)
        self.runtime = _open(settings) if network is None else wrap_network(
            network, class_names, device=settings.device, precision=settings.precision)
        self.spec, self.class_names = self.runtime.spec, self.runtime.class_names
        self.device, self.precision = self.runtime.device, self.runtime.precision
        self.thresholds = SCORING
        self.thresholds = self._override({"confidence": settings.confidence, "nms": settings.nms,
                                          "nms_iou": settings.nms_iou, "classes": settings.classes})

    @property
    def network(self) -> SSDNet:
        """The network that PyTorch runs; UserError where something else runs an exported one."""
        return self.runtime.network

    def detect(self, image: ImageInput) -> Detections:
        """Find objects in one image.

        `image` is a path, a PIL image, or an (H, W, 3) uint8 RGB array. A relative path is looked
        for in the current directory, then in the repo. Returns Detections, best
        first, as NumPy arrays: boxes (N, 4) float32 xyxy edges in pixels of the image, scores (N,),
        labels (N,) indices into `class_names`. Raises UserError for a file that is missing or no
        image; TypeError, ValueError for what is no image at all.
        """
        return self.detect_batch([image])[0]

    def detect_batch(self, images: Iterable[ImageInput], **overrides: Any) -> list[Detections]:
        """Find objects in several images, of any sizes, with one pass of the network.

        Takes a list of what `detect` takes, returns a list of what it returns. `overrides` are
        fields of Thresholds, with `classes` by name. Weights with a `tile` look at tiles instead.
        """
        thresholds = self._override(overrides)
        return self._detect_prepared([prepare(image, self.spec) for image in images], thresholds)

    def detect_stream(self, images: Iterable[ImageInput], *, batch_size: int = 4,
                      keep_images: bool = True, **overrides: Any
                      ) -> Iterator[tuple[ImageInput, np.ndarray | None, Detections | UserError]]:
        """Find objects in any number of images; reading and the network are ahead of the caller.

        Args:
            images: any iterable of what `detect` takes, taken some 3 * `batch_size` images ahead.
            batch_size: images in one pass of the network.
            keep_images: whether the images themselves are wanted, to draw on.
            overrides: those of `detect_batch`.

        Yields (source as it was given, (H, W, 3) uint8 RGB array or None, Detections), in order; a
        UserError in place of the Detections of an image that cannot be read.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        # The tiles of one large image fill the passes.
        return self._stream(iter(images), 1 if self.spec.tile else batch_size, keep_images,
                            self._override(overrides))

    def _stream(self, images, batch_size, keep_images, thresholds):
        """Read in two threads and detect in a third, two batches ahead of the caller."""
        with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(1) as runner:
            waiting = deque()
            while batch := list(islice(images, batch_size)):
                reads = [readers.submit(self._read, image, keep_images) for image in batch]
                waiting.append(runner.submit(self._detect_read, reads, thresholds))
                if len(waiting) > 2:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()

    def _read(self, source, keep_image):
        """Return (source, array or None, what is prepared of it or UserError)."""
        try:
            array = as_rgb_array(source)
            return source, array if keep_image else None, prepare(array, self.spec)
        except UserError as error:
            return source, None, error

    def _detect_read(self, reads, thresholds):
        """Replace what `_read` prepared by Detections."""
        batch = [read.result() for read in reads]
        prepared = [item for *_, item in batch if not isinstance(item, UserError)]
        detections = iter(self._detect_prepared(prepared, thresholds))
        return [(source, array, item if isinstance(item, UserError) else next(detections))
                for source, array, item in batch]

    def _detect_prepared(self, prepared, thresholds):
        """Return the Detections of images that came as (network input, (width, height))."""
        if not prepared:
            return []
        inputs, sizes = zip(*prepared)
        if not self.spec.tile:
            return self._detect_pass(inputs, sizes, thresholds)
        detections = [detect_windows(image, self.spec, self._detect_pass, thresholds)
                      for image in inputs]
        if thresholds.max_per_image in (0, Thresholds.max_per_image):  # of each window
            return detections
        return [each[:thresholds.max_per_image] for each in detections]

    def _detect_pass(self, inputs, sizes, thresholds):
        """Return the Detections of one pass, in pixels of images of these (width, height) sizes."""
        kept = select(*self.runtime(np.stack(inputs)), thresholds,
                      clip=self.spec.box_clip == "after_nms")
        return [Detections(boxes_to_pixels(boxes, *size, self.spec), scores.numpy(),
                           labels.numpy(), self.class_names)
                for (boxes, scores, labels), size in zip(kept, sizes)]

    def _override(self, changes):
        """Return the detector's thresholds with changes, whose classes are names."""
        if "classes" in changes:
            changes = changes | {"classes": class_indices(changes["classes"], self.class_names)}
        if self.spec.tile and changes.get("nms") == "soft":
            raise UserError('nms = "soft" does not work with tiled inference (the weights have '
                            f'tile = {self.spec.tile}); take "class".')
        try:
            return replace(self.thresholds, **changes)
        except ValueError as error:
            raise UserError(f"{error}.") from None

    def detect_image(self, image: ImageInput) -> Image.Image:
        """Return the image with the detections drawn on it, as a PIL image."""
        array = as_rgb_array(image)
        return draw_detections(array, self.detect(array))

    def evaluate(self, records: list[Record], *, batch_size: int = 8
                 ) -> tuple[list[ClassResult], list[Detections]]:
        """Score the detector on records by PASCAL VOC's rules, with the thresholds for scoring.

        Returns, on all ranks, the ClassResult of each class and the Detections of each image.
        """
        detections = self.detect_records(records, batch_size=batch_size)
        return evaluate_voc(detections, records, len(self.class_names)), detections

    def detect_records(self, records: list[Record], *, batch_size: int = 8) -> list[Detections]:
        """Return the Detections of each record's image, with the thresholds for scoring.

        Ranks share the batches; all get all results, or the UserError of an image.
        """
        def detect(batches):
            paths = [record.path for batch in batches for record in batch]
            stream = self.detect_stream(paths, batch_size=batch_size, keep_images=False,
                                        **asdict(SCORING))
            for batch in tqdm(batches, desc="mAP", unit="batch", leave=False, disable=None):
                results = [detections for *_, detections in islice(stream, len(batch))]
                for error in results:
                    if isinstance(error, UserError):
                        raise error
                yield results

        batches = [records[k:k + batch_size] for k in range(0, len(records), batch_size)]
        return list(chain(*share_out(batches, detect)))

    def save(self, path: str | os.PathLike) -> None:
        """Write the detector, wherever its weights came from, as a checkpoint of this project."""
        save_checkpoint(path, Checkpoint(self.spec, self.class_names, self.network.state_dict(),
                                         {}, {}))

    def export(self, path: str | os.PathLike, *, outputs: Outputs = "detections",
               precision: Literal["fp32", "int8"] = "fp32", train_list: str = "2007_train.txt",
               val_list: str = "2007_val.txt", max_loss: float = 1.0, force: bool = False) -> None:
        """Write the detector as an .onnx file, which `model_path` takes; print what it is.

        Args:
            outputs: see nets/runtimes/export.py; "detections" by this detector's thresholds.
            precision: "int8" runs faster and finds a little less; how much is measured.
            train_list, val_list: for int8, to calibrate it and to measure its mAP.
            max_loss: points of mAP@0.5 that int8 may lose; above, only `force` writes it.
        """
        path = resolve(path)
        if path.suffix.lower() != ".onnx":
            raise UserError(f"{path}: an exported file must end in .onnx.")
        if outputs == "detections" and (self.settings.nms != "class" or self.settings.classes):
            raise UserError('exported "detections" are of all classes, by nms "class": leave nms '
                            'and classes out, or set export_outputs = "boxes".')
        with TemporaryDirectory() as folder:
            file = Path(folder, "fp32.onnx")
            export_onnx(self.network, self.class_names, file, outputs=outputs,
                        thresholds=self.thresholds)
            if precision == "int8":
                train, val = (read_records(name, self.class_names, "the weights")
                              for name in (train_list, val_list))
                step = math.ceil(len(train) / CALIBRATION_IMAGES) or 1
                file = quantise(
                    file, sample_inputs((record[:2] for record in train[::step]), self.spec),
                    score=lambda file: mean_ap(SSD(file, runtime="onnxruntime").evaluate(val)[0]),
                    max_loss=math.inf if force else max_loss)
            make_folder(path.parent)
            with writing(path) as part:
                shutil.copyfile(file, part)
        print(f"exported: {shorten(path)}: {precision}, {outputs}, "
              f"{path.stat().st_size / 2 ** 20:.1f} MiB")


def _open(settings):
    """Return the Runtime of the weights that the settings name."""
    class_names = read_class_names(settings.classes_path) if settings.classes_path else None
    path = str(settings.model_path or newest_checkpoint(settings.save_dir) or "")
    if not path:
        raise UserError(f"no weights yet: there is no best.pth under {settings.save_dir}; run "
                        'train.py, or set model_path = "coco" or to a file.')
    if os.path.isfile(path):  # in the current directory; else in the repo
        path = os.path.abspath(path)
    if path.lower().endswith(".onnx"):
        runtime: Runtime = OnnxRuntime(path, device=settings.device, precision=settings.precision,
                                       runtime=settings.runtime)
    else:
        device = pick_device(settings.device)
        precision = set_precision(settings.precision, device)
        network, names = read_network(path, family=settings.weights_family, class_names=class_names)
        runtime = TorchRuntime(network.to(device).eval(), names, precision=precision, owned=True)
    if class_names not in (None, runtime.class_names):
        print(f"note: {settings.classes_path} differs from the classes of the weights, which count")
    return runtime
