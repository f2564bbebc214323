"""What every annotation reader returns, and the index that finds the image of an annotation.

The readers are voc.py, coco.py, yolo.py and csv_table.py. Each returns a list of Annotation, one
per image, with boxes as xyxy edges in pixels, and a list of Problem.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from utils.cli import UserError
from utils.image import IMAGE_SUFFIXES

# Images that are not read here; the doctor says so.
UNREAD_SUFFIXES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".psd")


class ProblemKind(Enum):
    """What can be wrong with a data set, and the decision that is then taken."""

    UNREADABLE_ANNOTATION = "unreadable annotation", "left out"
    BAD_OBJECT = "bad object", "left out"
    IMAGE_MISSING = "image missing", "image left out"
    IMAGE_UNREADABLE = "image unreadable", "image left out"
    IMAGE_TRUNCATED = "image truncated", "image left out"
    NO_ANNOTATION = "no annotation", "image not used"
    NO_LABEL_FILE = "no label file", "taken as background"
    SPLIT_NAMES_NOTHING = "split names nothing", "left out"
    IN_NO_SPLIT = "in no split", "image not used"
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

    def __init__(self, text: str, decision: str):
        self.text, self.decision = text, decision


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
    position: str  # in the file, such as "object 3" or "line 7"


class Annotation(NamedTuple):
    """What a source says about one image."""

    key: str  # names the image in split files
    origin: str  # the file to look into, for messages
    image: Path | None  # None: missing
    objects: list[SourceObject] | None  # None: the annotation cannot be read
    size: tuple[int, int] | None  # (width, height) according to the source


def walk_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return {path relative to folder, with slashes: absolute path}, sorted; links are followed."""
    files = {}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        prefix = "" if parent == str(folder) else f"{Path(parent).relative_to(folder).as_posix()}/"
        files |= {prefix + name: Path(parent, name) for name in sorted(names)
                  if name.lower().endswith(suffixes)}
    return files


class ImageIndex:
    """The images under a folder, sub-folders included, and which of them an annotation means."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; set images_path to the folder of images.")
        self.folder, self.paths = folder, walk_files(folder, IMAGE_SUFFIXES + UNREAD_SUFFIXES)
        self._by_tail = defaultdict(list)  # end of a path, without ending -> relative paths
        for relative in self.paths:
            for tail in tails(_fold(os.path.splitext(relative)[0])):
                self._by_tail[tail].append(relative)

    def match(self, wanted: Sequence[tuple[str, str]]) -> list[Path | None]:
        """Return the image of each annotation, None where there is none.

        `wanted` has the path without ending and the file name, perhaps "", of every annotation. An
        image of the same path comes first. Else the end of the file name decides, then that of the
        path, where it means one image and no other annotation means the same. Raises UserError
        where not a single image is found.
        """
        names = [os.path.splitext(name) for _, name in wanted]
        exact = [self._same_path(stem, ending) for (stem, _), (_, ending) in zip(wanted, names)]
        guesses = [None if image else self._same_end(*name) or self._same_end(stem, "")
                   for image, (stem, _), name in zip(exact, wanted, names)]
        claims = Counter([*exact, *guesses])
        images = [image or (guess if claims[guess] == 1 else None)
                  for image, guess in zip(exact, guesses)]
        if wanted and not any(images):
            raise UserError(f"{self.folder}: none of the {len(wanted)} annotated images is in it, "
                            f"such as {wanted[0][1] or wanted[0][0]!r}; put them there, or set "
                            "images_path.")
        return [self.paths.get(image) for image in images]

    def _same_path(self, stem, ending):
        """Return the image of a path; of several endings the given one, else the first."""
        if stem + ending in self.paths:
            return stem + ending
        images = [image for image in self._by_tail.get(_fold(stem), ())
                  if _fold(os.path.splitext(image)[0]) == _fold(stem)]
        return min(images, default=None, key=lambda image: os.path.splitext(image)[0] != stem)

    def _same_end(self, stem, ending):
        """Return the only image whose path has the longest end in common, or None."""
        images = next((self._by_tail[tail] for tail in tails(_fold(stem))
                       if tail in self._by_tail), [])
        if len(images) > 1:
            images = [image for image in images if image.lower().endswith(ending.lower())]
        return images[0] if len(images) == 1 else None


def _fold(path):
    """Return a path in the form in which paths are compared; systems differ in case and accents."""
    return unicodedata.normalize("NFC", path.replace("\\", "/")).lower()


def tails(path: str) -> list[str]:
    """Return a path without its first 0, 1, 2 .. folders; `.` and `..` are left out."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[k:]) for k in range(len(parts))]


def gather_rows(rows: Iterable[tuple[str, tuple[int, int] | None, list[SourceObject]]],
                index: ImageIndex, table: str) -> list[Annotation]:
    """Return one Annotation per image of a table, the name of whose file is `table`.

    `rows` gives (file name, size or None, objects); an image may come up again.
    """
    items = {}
    for name, size, objects in rows:
        name = next(iter(tails(name)), "")
        key = name if name in index.paths else _fold(name)  # p0.jpg and ./P0.JPG are one
        item = items.setdefault(key, Annotation(name, f"{table}, {name}", None, [], size))
        item.objects.extend(objects)
    images = index.match([(os.path.splitext(item.key)[0], item.key) for item in items.values()])
    return [item._replace(image=image) for item, image in zip(items.values(), images)]


def is_true(value: object) -> bool:
    """Tell whether a flag is set, which may be text, a number or JSON's true."""
    return str(value).strip().lower() in ("1", "1.0", "true", "yes", "y", "t")


def int_size(width: object, height: object) -> tuple[int, int] | None:
    """Return (width, height) as integers, or None where a source has no sensible numbers."""
    try:
        size = int(float(width)), int(float(height))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None
