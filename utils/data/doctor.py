"""The dataset doctor: checks annotations against images, mends what it can, lists it all."""

import math
from collections import Counter

import numpy as np

from utils.cli import shorten
from utils.data.annotations import Record
from utils.data.sources import Problem, ProblemKind

MIN_SIDE_PX = 0.999  # a box that has less of the image cannot be trained on; 1 but for rounding
TINY_SIDE_PX = 8.0  # at the network's input: a cell of the finest feature map
SAME_ASPECT = 0.01  # how far two aspect ratios may lie apart and still be one image resized


class Doctor:
    """Turns annotations into records and remembers every decision.

    Args:
        class_names: tuple.
        facts: {path: ImageFacts} of all images.
        input_size: side of the network's input in pixels, to tell which objects are tiny there.
        tile: side in pixels of the image of the windows to look at; 0 for images as a whole.
    """

    def __init__(self, class_names, facts, input_size=300, tile=0):
        self.numbers = {name: k for k, name in enumerate(class_names)}
        self.facts, self.input_size, self.tile = facts, input_size, tile
        self.problems = []
        self.unknown = Counter()  # class name -> objects left out

    def note(self, kind, where, what):
        """Remember a problem."""
        self.problems.append(Problem(kind, where, what))

    def record(self, annotation):
        """Return the Record of an Annotation, or None where its image is of no use."""
        where = annotation.origin
        if annotation.image is None:
            self.note(ProblemKind.IMAGE_MISSING, where, f"no image for {annotation.key!r}")
            return None
        facts = self.facts[annotation.image]
        if facts.fault:
            self.note(facts.fault, shorten(annotation.image), facts.reason)
            return None
        place = self._placement(annotation, facts)
        kept = {}
        for item in annotation.objects:
            here = f"{where}, {item.place} ({item.name})"
            box = self._box(item, here, place, facts.size)
            if box is None:
                continue
            label = self.numbers[item.name]
            key = (label, *np.round(box, 3))
            if key in kept:
                self.note(ProblemKind.DUPLICATE, here, "the same class and box as an object before")
                continue
            kept[key] = box, label, item.difficult
        boxes, labels, difficult = zip(*kept.values()) if kept else ((), (), ())
        return Record(annotation.image, np.array(boxes, dtype=np.float32).reshape(-1, 4),
                      np.array(labels, dtype=np.int64), np.array(difficult, dtype=bool))

    def _placement(self, annotation, facts):
        """Return a function from the annotation's pixels to the image's, as it is shown."""
        size, shown = annotation.size, facts.size
        undecided = size is None or facts.orientation < 5 or shown[0] == shown[1]
        if facts.orientation > 1 and undecided and annotation.objects:
            self.note(ProblemKind.ORIENTATION_UNCLEAR, annotation.origin,
                      f"the image is turned or mirrored by EXIF {facts.orientation}, and its size "
                      "cannot tell whether the boxes were drawn before or after that")
        if size is None or size == shown:
            return lambda box: box
        scale = shown[0] / size[0], shown[1] / size[1]
        if facts.orientation >= 5 and size == shown[::-1]:
            done, place = "turned by EXIF", lambda box: turn_box(box, size, facts.orientation)
        elif abs(math.log(scale[0] / scale[1])) < SAME_ASPECT:
            done, place = "scaled", lambda box: [v * k for v, k in zip(box, scale * 2)]
        else:
            done, place = "taken as they are", lambda box: box
        self.note(ProblemKind.SIZE_DISAGREES, annotation.origin, f"annotated {size[0]}x{size[1]}, "
                  f"the image is {shown[0]}x{shown[1]}; boxes {done}")
        return place

    def _box(self, item, where, place, size):
        """Return the object's box in the image, or None where it is hopeless."""
        if item.name not in self.numbers:
            self.unknown[item.name] += 1
            self.note(ProblemKind.UNKNOWN_CLASS, where, f"{item.name!r} is not in the class list")
            return None
        if not all(map(math.isfinite, item.box_px)):
            self.note(ProblemKind.NOT_A_NUMBER, where, f"{item.box_px}")
            return None
        x1, y1, x2, y2 = place(item.box_px)
        if x1 > x2 or y1 > y2:
            self.note(ProblemKind.CORNERS_SWAPPED, where, _px((x1, y1, x2, y2)))
        whole = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        box = [min(max(value, 0.0), float(side)) for value, side in zip(whole, size * 2)]
        width, height = box[2] - box[0], box[3] - box[1]
        placed = f"{_px(whole)} in a {size[0]}x{size[1]} image"
        if min(width, height) < MIN_SIDE_PX:
            self.note(ProblemKind.NO_AREA, where, placed)
            return None
        side = self.input_size * math.sqrt(
            width * height / (self.tile**2 or size[0] * size[1]))
        if side < TINY_SIDE_PX:
            self.note(ProblemKind.TINY, where,
                      f"{_px(box)}: a side of {side:.1f} px at the network's input")
        # One pixel over the edge is a matter of counting from 0 or 1, not a mistake.
        if max(abs(a - b) for a, b in zip(box, whole)) > 1:
            self.note(ProblemKind.OUTSIDE_THE_IMAGE, where, placed)
        return box


def turn_box(box, size, orientation):
    """Carry a box over the rotation or mirroring of an EXIF orientation, 1 to 8.

    From xyxy edges in pixels of the stored image, of (width, height) `size`, to those of the image
    as it is shown.
    """
    x1, y1, x2, y2 = box
    width, height = size
    if orientation in (2, 3, 7, 8):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 6, 7):
        y1, y2 = height - y2, height - y1
    return (y1, x1, y2, x2) if orientation >= 5 else (x1, y1, x2, y2)


def check_splits(doctor, lists):
    """Note images whose content is listed more than once, in two splits or in one."""
    first = {}
    for split, records in lists.items():
        for record in records:
            digest = doctor.facts[record.path].digest
            other, same = first.setdefault(digest, (split, record))
            if same is not record:
                doctor.note(ProblemKind.TWICE if other == split else ProblemKind.IN_TWO_SPLITS,
                            shorten(record.path),
                            f"in {split}; the same as {shorten(same.path)} in {other}")


def check_classes(doctor, lists, class_names):
    """Note classes of the list that no object has."""
    present = {label for records in lists.values() for record in records
               for label in record.labels.tolist()}
    for label in sorted(set(range(len(class_names))) - present):
        doctor.note(ProblemKind.UNUSED_CLASS, class_names[label],
                    "no object of this class in any split")


def _px(box):
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"
