"""The dataset doctor: checks annotations against images, fixes what it can, lists it all."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.cli import shorten
from utils.data.annotations import Record
from utils.data.sources import Annotation, Problem
from utils.image import image_size, orientation_of

MIN_SIDE_PX = 0.999  # a box with less than a pixel of the image cannot be trained on
TINY_SIDE_PX = 8.0  # at the network's input: a cell of the finest feature map
SAME_ASPECT = 0.01  # largest difference of log aspect ratios between an image and its resized copy


class ImageFacts(NamedTuple):
    """What an image file turned out to be."""

    size: tuple[int, int] | None  # (width, height) as load_image returns it; None: unusable
    orientation: int = 1  # of EXIF, 1 for upright
    digest: bytes = b""  # of the file's content
    kind: str = "image missing"  # of Problem, for an unusable image
    reason: str = "no .jpg, .png, .bmp, .tif or .webp of this name"


def inspect_image(path: Path) -> ImageFacts:
    """Return the ImageFacts of one file, also of an unreadable one."""
    try:
        with Image.open(path) as image:
            orientation = orientation_of(image)
            image.load()  # raises where the end of the file is missing
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        return ImageFacts(image_size(path), orientation, digest)
    except Exception as error:  # decoders raise all kinds for broken files
        kind = "image truncated" if "truncated" in str(error) else "image unreadable"
        return ImageFacts(None, kind=kind, reason=str(error))


class Doctor:
    """Turns annotations into records and lists every decision in `problems`."""

    def __init__(self, class_names: Sequence[str], facts: Mapping[Path, ImageFacts],
                 input_size: int = 300, tile: int = 0):
        self.class_names, self.facts = list(class_names), facts
        self.tile, self.min_area = tile, (TINY_SIDE_PX / input_size)**2  # a share of the input
        self.problems: list[Problem] = []
        self.unknown: Counter[str] = Counter()  # objects of classes that are not in class_names

    def _note(self, kind, where, what):
        self.problems.append(Problem(kind, where, what))

    def record(self, annotation: Annotation) -> Record | None:
        """Return the Record of an annotation, or None where it or its image is unusable."""
        facts = self.facts.get(annotation.image, ImageFacts(None))
        if annotation.objects is None:  # its reader has listed it
            return None
        if facts.size is None:
            where = shorten(annotation.image or annotation.origin)
            return self._note(facts.kind, where, facts.reason)
        objects = {}
        for item, box in zip(annotation.objects, self._boxes_as_shown(annotation, facts)):
            where = f"{annotation.origin}, {item.position} ({item.name})"
            box = self._check_box(item.name, box, where, facts.size)
            if box is not None and (item.name, *box.round(3)) in objects:
                self._note("duplicate", where, "the class and box of an object before")
            elif box is not None:
                label = self.class_names.index(item.name)
                objects[item.name, *box.round(3)] = (*box, label, item.difficult)
        if annotation.objects and not objects:
            return self._note("no usable object", annotation.origin,
                              f"{len(annotation.objects)} objects, all left out")
        rows = np.array([*objects.values()]).reshape(-1, 6)
        return Record(annotation.image, rows[:, :4].astype(np.float32),
                      rows[:, 4].astype(np.int64), rows[:, 5].astype(bool))

    def _boxes_as_shown(self, annotation, facts):
        """Return the boxes of an annotation, turned or scaled as its image was after drawing."""
        boxes = [item.box_px for item in annotation.objects]
        origin, size, shown = annotation.origin, annotation.size, facts.size
        if boxes and facts.orientation > 1 and (size is None or facts.orientation < 5):
            self._note("orientation unclear", origin, f"EXIF {facts.orientation} turns the image; "
                       "were the boxes drawn before or after that?")
        if size is None or size == shown:
            return boxes
        scale, decision = np.divide(shown, size), "taken as they are"
        if facts.orientation >= 5 and size == shown[::-1]:
            boxes = [_turn(box, size, facts.orientation) for box in boxes]
            decision = "turned by EXIF"
        elif abs(math.log(scale[0] / scale[1])) < SAME_ASPECT:
            boxes, decision = [np.multiply(box, [*scale, *scale]) for box in boxes], "scaled"
        self._note("size disagrees", origin, f"annotated {size[0]}x{size[1]}, the image is "
                   f"{shown[0]}x{shown[1]}; boxes {decision}")
        return boxes

    def _check_box(self, name, box, where, size):
        """Return a box clipped to the image, or None where the object is unusable."""
        if name not in self.class_names:
            self.unknown[name] += 1
            return self._note("unknown class", where, f"{name!r} is not in the class list")
        if not np.isfinite(box).all():
            return self._note("coordinate not a number", where, str(box))
        corners = np.reshape(box, (2, 2))
        whole = np.concatenate([corners.min(0), corners.max(0)])
        box = whole.clip(0, [*size, *size])
        width, height = box[2:] - box[:2]
        what = f"{whole.round(2).tolist()} in a {size[0]}x{size[1]} image"
        if (corners[0] > corners[1]).any():
            self._note("corners swapped", where, what)
        if min(width, height) < MIN_SIDE_PX:
            return self._note("no area", where, what)
        if width * height < self.min_area * (self.tile**2 or size[0] * size[1]):
            self._note("tiny", where, what)
        # One pixel over the edge comes from counting from 0 or 1 and is no mistake.
        if np.abs(box - whole).max() > 1:
            self._note("outside the image", where, what)
        return box

    def check_lists(self, lists: Mapping[str, Sequence[Record]]) -> None:
        """List the images of {split: records} whose content comes up twice."""
        first = {}  # content -> (split, path)
        for entry in [(split, record.path) for split in lists for record in lists[split]]:
            split, path = entry
            other = first.setdefault(self.facts[path].digest, entry)
            if other is not entry:
                kind = "same image twice" if split == other[0] else "same image in two splits"
                self._note(kind, shorten(path), f"in {split}, as {shorten(other[1])} in {other[0]}")


def _turn(box, size, orientation):
    """Turn or mirror a box, xyxy in pixels of a (width, height) image, as EXIF's 1 to 8 say."""
    (x1, y1, x2, y2), (width, height) = box, size
    if orientation in (2, 3, 7, 8):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 6, 7):
        y1, y2 = height - y2, height - y1
    return (y1, x1, y2, x2) if orientation >= 5 else (x1, y1, x2, y2)
