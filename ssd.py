"""The SSD detector: the only path from an image to detections.

    from ssd import SSD
    detector = SSD()                            # the newest training result under logs/
    boxes, scores, labels = detector.detect("img/street.jpg")
    detector.detect_image("img/street.jpg").show()
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from tqdm import tqdm

from nets.ssd import SSDNet
from nets.weight_files import read_detector
from utils.checkpoint import Checkpoint, load_strictly, newest_checkpoint, save_checkpoint
from utils.cli import UserError, shorten
from utils.data.annotations import read_class_names
from utils.device import pick_device, pick_precision, run_in
from utils.draw import draw_detections
from utils.evaluation.voc_ap import evaluate_voc
from utils.image import as_rgb_array, boxes_to_pixels, normalise, read_input, stack_inputs
from utils.postprocess import Detections, postprocess
from utils.spec import FAMILIES

# Thresholds for scoring, the paper's and Caffe's: mAP needs the weak detections too.
SCORING = {"confidence": 0.01, "nms_iou": 0.45, "max_per_class": 400, "max_per_image": 200}

NO_WEIGHTS = ('no weights yet: there is no best.pth under {}.\n'
              'Train with voc_annotation.py and train.py, or set model_path = "coco" or to a file.')


@dataclass(frozen=True)
class SSDSettings:
    """How to look at images. Classes, sizes and colours come with the weights."""

    # ---- Weights ----

    # A best.pth or last.pth, or a published file (see the README); "coco" downloads torchvision's
    # model of 80 everyday classes; "" takes the newest best.pth under logs/.
    model_path: str = ""
    # Leave "": checkpoints know their classes. Published files of other classes than VOC's or
    # COCO's need the list that they were trained with.
    classes_path: str = ""
    # Whose conventions a published file needs. "auto" tells by its contents and takes amdegroot
    # for files that amdegroot and bubbliiiing name alike; set "bubbliiiing" for the latter's.
    weights_family: Literal[("auto", *FAMILIES)] = "auto"

    # ---- What counts as found ----

    # Least score of a box. Higher: fewer false boxes; lower: fewer missed objects.
    confidence: float = 0.5
    # Of two boxes of one class that overlap more than this (IoU), the weaker one is dropped.
    nms_iou: float = 0.45

    # ---- Machine ----

    # "auto" takes an NVIDIA GPU if there is one; else "cpu", "cuda", "cuda:1", "mps".
    device: str = "auto"
    # "fp32" gives the same numbers everywhere; "bf16" is faster where the hardware has it.
    precision: Literal["fp32", "bf16", "auto"] = "fp32"


class SSD:
    """A detector ready to use.

    Args:
        settings: SSDSettings.
        network: an SSDNet in memory; then no file is read.
        class_names: names for that network.
        logs_dir: where the newest best.pth is looked for.

    Raises:
        UserError: no weights, an unreadable file, or a class list of another order.
    """

    def __init__(self, settings=SSDSettings(), *, network=None, class_names=None, logs_dir="logs"):
        for name in ("confidence", "nms_iou"):
            if not 0 <= getattr(settings, name) <= 1:
                raise UserError(f"{name} must lie in 0..1, got {getattr(settings, name)}.")
        self.settings = settings
        self.device = pick_device(settings.device)
        self.precision = pick_precision(settings.precision, self.device)
        if network is None:
            network, class_names = _load(settings, logs_dir)
        self.network = network.to(self.device, memory_format=torch.channels_last).eval()
        self.spec, self.class_names = network.spec, tuple(class_names)

    def detect(self, image):
        """Find objects in one image.

        Args:
            image: path, PIL image, or (H, W, 3) uint8 RGB array.

        Returns:
            Detections as NumPy arrays, best first: boxes (N, 4) float32 xyxy edges in pixels of
            the image, scores (N,), labels (N,) indices into `class_names`.
        """
        return self.detect_batch([image])[0]

    def detect_batch(self, images, **thresholds):
        """Find objects in several images with one pass of the network.

        Args:
            images: list of what `detect` takes; sizes may differ.
            thresholds: confidence, nms_iou, max_per_class, max_per_image instead of the settings'.

        Returns:
            list of Detections, as `detect`.
        """
        if not len(images):
            return []
        inputs, sizes = zip(*(read_input(image, self.spec) for image in images))
        return self._detect_inputs(inputs, sizes, thresholds)

    def detect_image(self, image):
        """Return the image with the objects found drawn on it, as a PIL image."""
        array = as_rgb_array(image)
        return draw_detections(array, self.detect(array), self.class_names)

    def save(self, path):
        """Write the detector, wherever its weights came from, as a checkpoint of this project."""
        save_checkpoint(path, Checkpoint(self.spec, self.class_names, self.network.state_dict(),
                                         {}, {}))

    def evaluate(self, records, *, batch_size=8, num_threads=2):
        """Score the detector on records by PASCAL VOC's rules, with the thresholds for scoring.

        Args:
            records: list of annotations.Record with this detector's class numbers.
            batch_size: images a pass.
            num_threads: readers of image files.

        Returns:
            (list of ClassResult by class, list of Detections by image).
        """
        detections = []
        chunks = [records[k:k + batch_size] for k in range(0, len(records), batch_size)]
        with ThreadPoolExecutor(num_threads) as pool:
            following = self._read_ahead(pool, chunks[0]) if chunks else []
            for k in tqdm(range(len(chunks)), desc="mAP", unit="batch", leave=False,
                          disable=None):
                current = following
                following = self._read_ahead(pool, chunks[k + 1]) if k + 1 < len(chunks) else []
                inputs, sizes = zip(*(future.result() for future in current))
                detections += self._detect_inputs(inputs, sizes, SCORING)
        return evaluate_voc(detections, records, len(self.class_names)), detections

    def _read_ahead(self, pool, records):
        """Start reading and resizing images; return the futures of (input, size)."""
        return [pool.submit(read_input, record.path, self.spec) for record in records]

    @torch.inference_mode()
    def _detect_inputs(self, inputs, sizes, thresholds):
        """Turn resized images and the (width, height) they had into Detections in pixels."""
        batch = normalise(stack_inputs(inputs).to(self.device), self.spec)
        with run_in(self.precision, self.device):
            loc, conf = self.network(batch)
        limits = {"confidence": self.settings.confidence, "nms_iou": self.settings.nms_iou}
        found = postprocess(loc, conf, self.network.priors, self.spec, **(limits | thresholds))
        return [Detections(boxes_to_pixels(boxes.cpu().numpy(), width, height, self.spec),
                           scores.cpu().numpy(), labels.cpu().numpy())
                for (boxes, scores, labels), (width, height) in zip(found, sizes)]


def _load(settings, logs_dir):
    """Read the network and the class names that the settings ask for, and say which."""
    path = settings.model_path or newest_checkpoint(logs_dir)
    if not path:
        raise UserError(NO_WEIGHTS.format(shorten(logs_dir)))
    given = read_class_names(settings.classes_path) if settings.classes_path else None
    checkpoint, family = read_detector(path, family=settings.weights_family, class_names=given)
    spec, names = checkpoint.spec, checkpoint.class_names
    print(f"weights: {shorten(path)}: {family}, {spec.summary()}, {len(names)} classes")
    if given and given != names:
        print(f"note: {settings.classes_path} differs from the classes in the weights, which "
              f"are used: {', '.join(names)}")
    network = SSDNet(len(names) + 1, spec)
    load_strictly(network, checkpoint.state_dict, path)
    return network, names
