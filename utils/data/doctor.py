"""The dataset doctor: checks annotations against images, fixes what it can, lists it all."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.cli import UserError, shorten
from utils.data.annotations import Record
from utils.data.sources import UNREAD_SUFFIXES, Annotation, Problem, ProblemKind
from utils.image import image_size, orientation_of

MIN_SIDE_PX = 0.999  # a box with less than a pixel of the image cannot be trained on
TINY_SIDE_PX = 8.0  # at the network's input: a cell of the finest feature map
SAME_ASPECT = 0.01  # largest difference of log aspect ratios between an image and its resized copy
Box = Sequence[float]  # xyxy edges in pixels


class ImageFacts(NamedTuple):
    """What an image file turned out to be."""

    size: tuple[int, int] | None  # (width, height) as load_image returns it; None: unreadable
    orientation: int = 1  # of EXIF, 1 for upright
    digest: bytes = b""  # of the file's content
    fault: ProblemKind | None = None
    reason: str = ""


def inspect_images(paths: Iterable[Path], *, num_threads: int,
                   progress: Callable[[Iterable], Iterable] = iter) -> dict[Path, ImageFacts]:
    """Read every image once; `progress`, such as tqdm, is wrapped around the results."""
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(num_threads) as pool:
        return dict(zip(paths, progress(pool.map(inspect_image, paths))))


def inspect_image(path: Path) -> ImageFacts:
    """Return the ImageFacts of one file; damage is reported in them, not raised."""
    fault = ProblemKind.IMAGE_UNREADABLE
    if path.suffix.lower() in UNREAD_SUFFIXES:
        return ImageFacts(None, fault=fault, reason="convert it to .png or .jpg")
    try:
        size = image_size(path)
        with Image.open(path) as image:
            orientation = orientation_of(image)
            image.load()  # raises where the end of the file is missing
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        return ImageFacts(size, orientation, digest)
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ").partition(";")[0]
    except Exception as error:  # for damaged files Pillow raises OSError, struct.error and others
        reason = str(error)
        if "truncated" in reason:
            fault, reason = ProblemKind.IMAGE_TRUNCATED, "the end of the file is missing"
    return ImageFacts(None, fault=fault, reason=reason)


class Doctor:
    """Turns annotations into records and lists every decision in `problems`.

    `facts` are those of all images; `input_size` is the side of the network's input in pixels, to
    tell which objects are tiny there; `tile` is the side of a window in pixels of the image, 0 for
    images as a whole. `unknown` counts the objects of each class that is not in `class_names`.
    """

    def __init__(self, class_names: Sequence[str], facts: Mapping[Path, ImageFacts],
                 input_size: int = 300, tile: int = 0):
        self.class_names, self.facts = list(class_names), facts
        self.input_size, self.tile = input_size, tile
        self.problems: list[Problem] = []
        self.unknown: Counter[str] = Counter()

    def _note(self, kind, where, what):
        self.problems.append(Problem(kind, where, what))

    def record(self, annotation: Annotation) -> Record | None:
        """Return the Record of an annotation, or None where it or its image is unusable."""
        path, facts = annotation.image, self.facts.get(annotation.image)
        if annotation.objects is None:  # which its reader listed
            return None
        if facts is None:
            self._note(ProblemKind.IMAGE_MISSING, annotation.origin, f"no image: {annotation.key}")
            return None
        if facts.fault:
            self._note(facts.fault, shorten(path), facts.reason)
            return None
        transform, kept = self._transform(annotation, facts), {}
        for item in annotation.objects:
            where = f"{annotation.origin}, {item.position} ({item.name})"
            box = self._check_box(item, where, transform, facts.size)
            if box is None:
                continue
            key = (item.name, *np.round(box, 3))
            if key in kept:
                self._note(ProblemKind.DUPLICATE, where, "the class and box of an object before")
            else:
                kept[key] = box, self.class_names.index(item.name), item.difficult
        boxes, labels, difficult = zip(*kept.values()) if kept else ((), (), ())
        return Record(path, np.array(boxes, np.float32).reshape(-1, 4),
                      np.array(labels, np.int64), np.array(difficult, bool))

    def _transform(self, annotation, facts):
        """Return the function from boxes of the annotation to boxes of the image as it is shown."""
        size, shown = annotation.size, facts.size
        undecided = size is None or facts.orientation < 5 or shown[0] == shown[1]
        if facts.orientation > 1 and undecided and annotation.objects:
            self._note(ProblemKind.ORIENTATION_UNCLEAR, annotation.origin,
                       f"EXIF {facts.orientation} turns or mirrors the image; its size cannot tell "
                       "whether the boxes were drawn before or after that")
        decision, transform = "taken as they are", lambda box: box
        if size is None or size == shown:
            return transform
        scale_x, scale_y = shown[0] / size[0], shown[1] / size[1]
        if facts.orientation >= 5 and size == shown[::-1]:
            decision, transform = "turned by EXIF", lambda box: turn_box(
                box, size, facts.orientation)
        elif abs(math.log(scale_x / scale_y)) < SAME_ASPECT:
            decision, transform = "scaled", lambda box: (
                box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
        self._note(ProblemKind.SIZE_DISAGREES, annotation.origin, f"annotated {size[0]}x{size[1]}, "
                   f"the image is {shown[0]}x{shown[1]}; boxes {decision}")
        return transform

    def _check_box(self, item, where, transform, size):
        """Return the object's box, clipped to the image, or None where it is unusable."""
        if item.name not in self.class_names:
            self.unknown[item.name] += 1
            self._note(ProblemKind.UNKNOWN_CLASS, where, f"{item.name!r} is not in the class list")
            return None
        if not np.isfinite(item.box_px).all():
            self._note(ProblemKind.NOT_A_NUMBER, where, f"{item.box_px}")
            return None
        x1, y1, x2, y2 = transform(item.box_px)
        if x1 > x2 or y1 > y2:
            self._note(ProblemKind.CORNERS_SWAPPED, where, _format_box((x1, y1, x2, y2)))
        whole = np.array([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)])
        box = whole.clip(0, [*size, *size])
        width, height = box[2:] - box[:2]
        description = f"{_format_box(whole)} in a {size[0]}x{size[1]} image"
        if min(width, height) < MIN_SIDE_PX:
            self._note(ProblemKind.NO_AREA, where, description)
            return None
        side = self.input_size * math.sqrt(width * height / (self.tile**2 or size[0] * size[1]))
        if side < TINY_SIDE_PX:
            self._note(ProblemKind.TINY, where,
                       f"{_format_box(box)}: a side of {side:.1f} px at the network's input")
        # One pixel over the edge comes from counting from 0 or 1 and is no mistake.
        if np.abs(box - whole).max() > 1:
            self._note(ProblemKind.OUTSIDE_THE_IMAGE, where, description)
        return box

    def check_lists(self, lists: Mapping[str, Sequence[Record]]) -> None:
        """List images whose content comes up twice in the {split: records}, and unused classes."""
        first, used = {}, set()
        for split, record in [(split, record) for split in lists for record in lists[split]]:
            used.update(record.labels.tolist())
            digest = self.facts[record.path].digest
            other_split, other = first.setdefault(digest, (split, record))
            if other is not record:
                kind = ProblemKind.TWICE if split == other_split else ProblemKind.IN_TWO_SPLITS
                self._note(kind, shorten(record.path),
                           f"in {split}; the same as {shorten(other.path)} in {other_split}")
        for label, name in enumerate(self.class_names):
            if label not in used:
                self._note(ProblemKind.UNUSED_CLASS, name, "no object of this class in any split")


def turn_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Turn or mirror a box as an EXIF orientation, 1 to 8, does with the image.

    From xyxy edges in pixels of the stored image, of (width, height) `size`, to the image as shown.
    """
    x1, y1, x2, y2 = box
    width, height = size
    if orientation in (2, 3, 7, 8):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 6, 7):
        y1, y2 = height - y2, height - y1
    return (y1, x1, y2, x2) if orientation >= 5 else (x1, y1, x2, y2)


def _format_box(box):
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"
