"""What every annotation reader gives, and how it finds the image of an annotation.

The readers are voc.py, coco.py, yolo.py and csv_table.py: each gives a list of Annotation, one a
image, with boxes as edges in pixels.
"""

import os
import re
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from utils.cli import UserError
from utils.image import IMAGE_SUFFIXES

TRUE_WORDS = ("1", "true", "yes", "y", "t")
# In a file name these would break the lines of lists and splits, or cannot be written as UTF-8.
UNLISTABLE = re.compile(r"[\n\v\f\r\x1c-\x1e\x85\u2028\u2029\ud800-\udfff]")


class ProblemKind(str, Enum):
    """What can be wrong with a data set, and what is then done. Strict mode makes it an error."""

    decision: str

    UNREADABLE_ANNOTATION = "unreadable annotation", "left out"
    BAD_OBJECT = "bad object", "left out"
    IMAGE_MISSING = "image missing", "image left out"
    IMAGE_UNREADABLE = "image unreadable", "image left out"
    IMAGE_TRUNCATED = "image truncated", "image left out"
    IMAGE_DAMAGED = "image damaged", "image left out"
    NO_ANNOTATION = "no annotation", "image not used"
    SPLIT_NAMES_NOTHING = "split names nothing", "left out"
    SIZE_DISAGREES = "size disagrees", "see each"
    ORIENTATION_UNCLEAR = "orientation unclear", "kept, boxes taken as shown"
    UNKNOWN_CLASS = "unknown class", "object left out"
    NOT_A_NUMBER = "coordinate not a number", "object left out"
    CORNERS_SWAPPED = "corners swapped", "put right"
    OUTSIDE_THE_IMAGE = "outside the image", "clipped"
    NO_AREA = "no area", "object left out"
    DUPLICATE = "duplicate", "object left out"
    TINY = "tiny", "kept, but hardly learnable at this input size"
    IN_TWO_SPLITS = "same image in two splits", "kept in both"
    TWICE = "same image twice", "kept, and counts twice"
    UNUSED_CLASS = "unused class", "nothing to learn from"

    def __new__(cls, text, decision):
        kind = str.__new__(cls, text)
        kind._value_, kind.decision = text, decision
        return kind

    __str__ = str.__str__


class Problem(NamedTuple):
    """One thing that is wrong with a data set."""

    kind: ProblemKind
    where: str  # file, and number of the object
    what: str


class SourceObject(NamedTuple):
    """An object as the source has it."""

    name: str
    box_px: tuple[float, float, float, float]  # xyxy edges counted from 0; may be NaN or outside
    difficult: bool
    place: str  # "object 3", "line 7": where it stands in the file


class Annotation(NamedTuple):
    """What a source says about one image."""

    key: str  # names the image in split files
    origin: str  # the file to look into, for messages
    image: Path | None  # None: not found
    objects: list[SourceObject]
    size: tuple[int, int] | None  # (width, height) that the source gives, where it makes sense


def walk_files(folder, suffixes):
    """Return {path relative to folder, as text with slashes: absolute Path}, sorted.

    Linked folders are not entered, so that circles of links end; pipes and devices, which may
    never end, are passed over. Raises UserError for a name that no list can hold.
    """
    found = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in suffixes:
                path = Path(place, name)
                if UNLISTABLE.search(str(path)):
                    raise UserError(f"{str(path)!a}: a line break, or a letter that is not UTF-8, "
                                    "is in the name; rename it.")
                if path.exists() and not path.is_file():
                    continue
                found[path.relative_to(folder).as_posix()] = path
    return found


class ImageIndex:
    """Finds images by name under a folder, sub-folders included."""

    def __init__(self, folder):
        self.by_path = walk_files(folder, IMAGE_SUFFIXES)
        self.by_stem, self.by_name, self.bare = {}, {}, {}
        for relative, path in self.by_path.items():
            self.by_stem.setdefault(os.path.splitext(relative)[0], path)
            self.by_name.setdefault(path.name.lower(), []).append(path)
            self.bare.setdefault(path.stem, []).append(path)

    def find(self, stem, filename=None):
        """Return the image of an annotation, or None.

        By the same path without ending (the file name that the annotation holds decides where
        endings differ), then by that file name, then by the bare name; a name that several
        images share finds none.
        """
        name = (filename or "").replace("\\", "/")
        if name in self.by_path and os.path.splitext(name)[0] == stem:
            return self.by_path[name]
        if stem in self.by_stem:
            return self.by_stem[stem]
        if name in self.by_path:
            return self.by_path[name]
        for same in (self.by_name.get(name.rpartition("/")[2].lower(), []),
                     self.bare.get(stem.rpartition("/")[2], [])):
            if len(same) == 1:
                return same[0]
        return None


def unreadable(error):
    """Return the Problem of an annotation file that cannot be read."""
    where, _, what = str(error).partition(": ")
    return Problem(ProblemKind.UNREADABLE_ANNOTATION, where, what)


def whole_size(width, height):
    """Return (width, height) as whole numbers where both make sense, else None."""
    try:
        width, height = int(float(width)), int(float(height))
    except (TypeError, ValueError, OverflowError):
        return None
    return (width, height) if min(width, height) > 0 else None
