"""What annotation readers return: Annotation and Problem; and the index that finds their images."""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.cli import UserError
from utils.data.annotations import plain_name
from utils.image import IMAGE_SUFFIXES

# What can be wrong with a data set, by the decision that is then taken.
KINDS_BY_DECISION = {
    "left out": ("unreadable annotation", "bad object", "split names nothing"),
    "image left out": ("image missing", "image unreadable", "image truncated"),
    "image not used": ("no annotation", "in no split"),
    "taken as background": ("no label file",),
    "see each": ("size disagrees",),
    "kept, boxes taken as shown": ("orientation unclear",),
    "object left out": ("unknown class", "coordinate not a number", "no area"),
    "left out of train": ("duplicate",),
    "put right": ("corners swapped",),
    "clipped for training": ("outside the image",),
    "kept, but hardly learnable at this input size": ("tiny",),
    "kept in both: take one out": ("same image in two splits", "look-alikes in two splits"),
    "kept, and counts twice": ("same image twice",)}
DECISIONS = {kind: decision for decision, kinds in KINDS_BY_DECISION.items() for kind in kinds}


class Problem(NamedTuple):
    """One thing that is wrong with a data set."""

    kind: str  # of DECISIONS
    where: str  # file, and number of the object
    what: str


class SourceObject(NamedTuple):
    """An object as the source has it."""

    name: str
    box_px: tuple[float, float, float, float]  # xyxy edges counted from 0; may be NaN or outside
    difficult: bool
    position: str  # in the file, such as "object 3" or "line 7"
    area: float = math.nan  # in pixels, where the source has one beside the box


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
            raise UserError(f"{folder}: no such folder; put the images there, or set images_path.")
        self.folder, self.paths = folder, walk_files(folder, IMAGE_SUFFIXES)
        self._by_stem = defaultdict(list)  # path without ending -> relative paths
        self._by_tail = defaultdict(list)  # end of that, in lower case -> relative paths
        for relative in self.paths:
            stem = os.path.splitext(relative)[0]
            self._by_stem[stem].append(relative)
            for tail in tails(plain_name(stem).lower()):
                self._by_tail[tail].append(relative)

    def match(self, wanted: Sequence[tuple[str, str]]) -> list[Path | None]:
        """Return the image of each (path without ending, file name or ""), None if there is none.

        An image that several mean belongs to that of its path. UserError where not one is there.
        """
        images = [self._find(stem, name) for stem, name in wanted]
        claims = Counter(images)
        paths = [self.paths.get(image) if stem in self._by_stem or claims[image] == 1 else None
                 for image, (stem, _) in zip(images, wanted)]
        if wanted and not any(paths):
            raise UserError(f"{self.folder}: none of the {len(wanted)} annotated images is in it, "
                            f"such as {wanted[0][0]!r}; put them there, or set images_path.")
        return paths

    def _find(self, stem, name):
        """Return the image of this path, else the only one with the same end of a path, or None."""
        file_stem, ending = os.path.splitext(name.lower())
        if stem in self._by_stem:
            images = self._by_stem[stem]
            return next((image for image in images if image.lower().endswith(ending)), images[0])
        for tail in [*tails(plain_name(file_stem)), *tails(plain_name(stem).lower())]:
            images = self._by_tail.get(tail, [])
            images = [image for image in images if image.lower().endswith(ending)] or images
            if len(images) == 1:
                return images[0]
        return None


def tails(path: str) -> list[str]:
    """Return a path without its first 0, 1, 2 .. folders; `.` and `..` are left out."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[k:]) for k in range(len(parts))]


def gather_rows(rows: Iterable[tuple[str, tuple[int, int] | None, list[SourceObject]]],
                index: ImageIndex, table: str) -> list[Annotation]:
    """Return one Annotation per image of a file `table` of (file name, size or None, objects)."""
    items = {}
    for name, size, objects in rows:
        name = next(iter(tails(name)), "")
        item = items.setdefault(name, Annotation(name, f"{table}, {name}", None, [], size))
        item.objects.extend(objects)
    images = index.match([(os.path.splitext(item.key)[0], item.key) for item in items.values()])
    return [item._replace(image=image) for item, image in zip(items.values(), images)]


def int_size(width: object, height: object) -> tuple[int, int] | None:
    """Return (width, height) as integers, or None where a source has no sensible numbers."""
    try:
        size = int(float(width)), int(float(height))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None
