"""The dataset doctor: checks annotations against images, fixes what it can, lists it all."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm.contrib.concurrent import thread_map

from utils.cli import shorten
from utils.data.annotations import Record
from utils.data.sources import Annotation, Problem
from utils.image import image_size, input_rect, orientation_of
from utils.multibox.spec import SSDSpec

MIN_SIDE_PX = 0.999  # a box with less than a pixel of the image cannot be trained on
TINY_SIDE_PX = 8.0  # at the network's input: a cell of the finest feature map
SAME_ASPECT = 0.01  # largest difference of log aspect ratios between an image and its resized copy
LOOKS_SAME = 0.85  # likeness of an image and its copy, brightened or saved again


class ImageFacts(NamedTuple):
    """What an image file turned out to be."""

    size: tuple[int, int] | None  # (width, height) as load_image returns it; None: unusable
    orientation: int = 1  # of EXIF, 1 for upright
    digest: bytes = b""  # of the file's content
    fingerprint: np.ndarray | None = None  # (144,); the dot product of two is their likeness
    kind: str = "image missing"  # of Problem, for an unusable image
    reason: str = "no .jpg, .png, .bmp, .tif or .webp of this name, or two annotations have it"


def inspect_image(path: Path) -> ImageFacts:
    """Return the ImageFacts of one file, also of an unreadable one."""
    try:
        with Image.open(path) as image:
            orientation = orientation_of(image)
            is_jpeg, start = image.format in ("JPEG", "MPO"), image.fp.tell()  # of its pixels
            image.load()  # raises where the end of the file is missing
            fingerprint, data = _fingerprint(image), path.read_bytes()
            # Zeros decode without an error. A flat image has not as many.
            zeros = bytes(64 + image.width * image.height // 80)
            if is_jpeg and zeros in data[start:data.find(b"\xff\xd9", start)]:
                raise ValueError(f"truncated: {len(zeros)} bytes of its pixels are zeros")
        digest = hashlib.blake2b(data, digest_size=16).digest()
        return ImageFacts(image_size(path), orientation, digest, fingerprint)
    except Exception as error:  # decoders raise all kinds for broken files
        kind = "image truncated" if "truncated" in str(error) else "image unreadable"
        return ImageFacts(None, kind=kind, reason=str(error))


def inspect_images(annotations: Iterable[Annotation]) -> dict[Path, ImageFacts]:
    """Return the ImageFacts of the images of annotations, with a progress bar."""
    paths = [*dict.fromkeys(item.image for item in annotations if item.image)]
    return dict(zip(paths, thread_map(inspect_image, paths, max_workers=8, desc="images",
                                      disable=None)))


def _fingerprint(image):
    """Return where grey values rise and fall in 9x9 cells, as a vector of length 1 (flat: 0)."""
    grey = np.asarray(image.convert("L").resize((9, 9), Image.Resampling.BOX), np.float32)
    steps = np.concatenate([np.diff(grey, axis=0).ravel(), np.diff(grey, axis=1).ravel()])
    signs = np.where(np.abs(steps) > 2, np.sign(steps), 0)
    length = np.linalg.norm(signs)
    return signs / length if length >= 4 else np.zeros_like(signs)


class Doctor:
    """Turns annotations into records and lists every decision in `problems`."""

    def __init__(self, class_names: Sequence[str], facts: Mapping[Path, ImageFacts],
                 spec: SSDSpec):
        self.class_names, self.facts, self.spec = list(class_names), facts, spec
        self.problems: list[Problem] = []
        self.unknown: Counter[str] = Counter()  # objects of classes that are not in class_names

    def _note(self, kind, where, what, images=(), box_px=None):
        self.problems.append(Problem(kind, where, what, images, box_px))

    def record(self, annotation: Annotation, *, measured: bool = False) -> Record | None:
        """Return the Record of an annotation, or None where it or its image is unusable.

        Objects to be `measured` on keep their boxes and duplicates, as the tools of VOC and COCO
        would read them; those to be trained on are clipped to the image and come once.
        """
        facts = self.facts.get(annotation.image, ImageFacts(None))
        if annotation.objects is None:  # its reader has listed it
            return None
        if facts.size is None:
            where = shorten(annotation.image or annotation.origin)
            return self._note(facts.kind, where, facts.reason)
        rows, known = [], set()
        for item, box in zip(annotation.objects, self._boxes_as_shown(annotation, facts)):
            where = f"{annotation.origin}, {item.position} ({item.name})"
            note = partial(self._note, where=where, images=(annotation.image,), box_px=tuple(box))
            box = self._check_box(item.name, box, note, facts.size, measured)
            if box is None:
                continue
            key = item.name, *box.round(3)
            if key in known:
                note("duplicate", what="the class and box of an object before")
                if not measured:
                    continue
            known.add(key)
            area = item.area if annotation.size in (None, facts.size) else math.nan
            rows.append((*box, self.class_names.index(item.name), item.difficult, area))
        if annotation.objects and not rows:
            return self._note("no usable object", annotation.origin,
                              f"{len(annotation.objects)} objects, all left out")
        rows = np.array(rows, np.float64).reshape(-1, 7)
        return Record(annotation.image, rows[:, :4], rows[:, 4].astype(np.int64),
                      rows[:, 5].astype(bool), rows[:, 6], facts.size)

    def _boxes_as_shown(self, annotation, facts):
        """Return the boxes of an annotation, turned or scaled as its image was after drawing."""
        boxes = [item.box_px for item in annotation.objects]
        origin, size, shown = annotation.origin, annotation.size, facts.size
        if boxes and facts.orientation > 1 and (size is None or facts.orientation < 5):
            self._note("orientation unclear", origin, f"EXIF {facts.orientation} turns the image; "
                       "were the boxes drawn before or after that?", (annotation.image,))
        if size is None or size == shown:
            return boxes
        scale, decision = np.divide(shown, size), "taken as they are"
        if facts.orientation >= 5 and size == shown[::-1]:
            boxes = [_turn(box, size, facts.orientation) for box in boxes]
            decision = "turned by EXIF"
        elif abs(math.log(scale[0] / scale[1])) < SAME_ASPECT:
            boxes, decision = [np.multiply(box, [*scale, *scale]) for box in boxes], "scaled"
        self._note("size disagrees", origin, f"annotated {size[0]}x{size[1]}, the image is "
                   f"{shown[0]}x{shown[1]}; boxes {decision}", (annotation.image,))
        return boxes

    def _check_box(self, name, box, note, size, measured):
        """Return the box of an object for a list, or None where the object is unusable."""
        if name not in self.class_names:
            self.unknown[name] += 1
            return note("unknown class", what=f"{name!r} is not in the class list")
        if not np.isfinite(box).all():
            return note("coordinate not a number", what=str(box))
        corners = np.reshape(box, (2, 2))
        whole = np.concatenate([corners.min(0), corners.max(0)])
        clipped = whole.clip(0, [*size, *size])
        width, height = clipped[2:] - clipped[:2]
        what = f"{whole.round(2).tolist()} in a {size[0]}x{size[1]} image"
        if (corners[0] > corners[1]).any():
            note("corners swapped", what=what)
        if min(width, height) <= (0.001 if measured else MIN_SIDE_PX):
            return note("no area", what=what)
        seen = (self.spec.tile,) * 2 if self.spec.tile else size
        x0, y0, x1, y1 = input_rect(*seen, self.spec)
        if width * height * (x1 - x0) * (y1 - y0) < TINY_SIDE_PX**2 * seen[0] * seen[1]:
            note("tiny", what=what)
        # One pixel over the edge comes from counting from 0 or 1 and is no mistake.
        if np.abs(clipped - whole).max() > 1:
            note("outside the image", what=what)
        return whole if measured else clipped

    def check_lists(self, lists: Mapping[str, Sequence[Record]]) -> None:
        """List the images of {split: records} that come up twice, or look so in two splits."""
        first = {}  # content -> (split, path)
        for split, records in lists.items():
            others = [*first.values()]
            fingerprints = np.array([self.facts[path].fingerprint for _, path in others])
            for record in records:
                facts, entry = self.facts[record.path], (split, record.path)
                other, kind = first.setdefault(facts.digest, entry), "same image in two splits"
                if other is entry and others:
                    likeness = fingerprints @ facts.fingerprint
                    if likeness.max() >= LOOKS_SAME:
                        other, kind = others[likeness.argmax()], "look-alikes in two splits"
                if other is not entry:
                    kind = "same image twice" if split == other[0] else kind
                    what = f"in {split}, as {shorten(other[1])} in {other[0]}"
                    self._note(kind, shorten(record.path), what, (record.path, other[1]))


def _turn(box, size, orientation):
    """Turn a box, xyxy in pixels of a (width, height) image, on its side, as EXIF's 5 to 8 say."""
    (x1, y1, x2, y2), (width, height) = box, size
    if orientation in (7, 8):
        x1, x2 = width - x2, width - x1
    if orientation in (6, 7):
        y1, y2 = height - y2, height - y1
    return y1, x1, y2, x2
