"""What annotation readers return: Annotation and Problem; and the index that finds their images."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from utils.cli import UserError, walk_files
from utils.data.annotations import plain_name
from utils.image import IMAGE_SUFFIXES

# Images may have been converted since: their annotations still name the old files.
ENDINGS = "(?:" + "|".join(map(re.escape, (*IMAGE_SUFFIXES, ".gif", ".heic", ".avif"))) + ")"
ENDING = re.compile(rf"{ENDINGS}$", re.I)
# What may follow the name in a line of a split file: `dir/a.jpg dir/a.xml`, `a 1`.
LINE_END = re.compile(rf"(?:{ENDINGS}|\.xml)(?:\s.*)?$|\s+-?[01]$", re.I)
MASKS = re.compile("Segmentation(Class|Object)/")  # VOC's, named as its images
# Folders that say what is in them, and nothing about which image.
ROLE = re.compile(r"(?:(?<=/)|^)(?:images?|jpegimages|imgs?|labels?|annotations?|xmls?)/", re.I)

# What can be wrong with a data set, by the decision that is then taken.
KINDS_BY_DECISION = {
    "left out": ("unreadable annotation", "bad object"),
    "image left out": ("image missing", "image unreadable", "image truncated"),
    "image not used": ("no annotation", "in no split", "no usable object"),
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
    images: tuple[Path, ...] = ()  # that show it
    box_px: tuple[float, ...] | None = None  # xyxy in the image, may be nonsense


class SourceObject(NamedTuple):
    """An object of an image."""

    name: str
    # xyxy edges in pixels, counted from 0; may be NaN or outside. In what the reader of a format
    # returns: the four numbers of its file, which `read_boxes` turns into that.
    box_px: tuple[float, float, float, float]
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
    file_name: str = ""  # of the image according to the source


def four_numbers(values: Iterable[object] | None) -> tuple[float, float, float, float]:
    """Return the numbers of a box; decimal commas are points; all NaN unless there are four."""
    try:
        numbers = tuple([float(str(value).replace(",", ".")) for value in values])
    except (TypeError, ValueError):
        numbers = ()
    return numbers if len(numbers) == 4 else (math.nan,) * 4


def turning_margins(width: float, height: float, degrees: float) -> tuple[float, float]:
    """Return what a box turned about its centre needs more at each side, across and down."""
    cos, sin = (abs(part(math.radians(degrees))) for part in (math.cos, math.sin))
    return (width * cos + height * sin - width) / 2, (width * sin + height * cos - height) / 2


class ImageIndex:
    """The images under a folder, found by paths of another machine, ending or letter case too."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; put the images there, or set images_path.")
        self.folder, self.files = folder, walk_files(folder)
        self.paths = {name: path for name, path in self.files.items()
                      if name.lower().endswith(IMAGE_SUFFIXES) and not MASKS.search(name)}
        self._by_stem = defaultdict(list)  # path without ending and role folders -> paths
        self._by_tail = defaultdict(list)  # end of a path without ending, in lower case -> paths
        for path in self.paths:
            stem = ENDING.sub("", path)
            self._by_stem[ROLE.sub("", stem)].append(path)
            for tail in tails(plain_name(stem).lower()):
                self._by_tail[tail].append(path)

    def find(self, path: str, file_name: str = "") -> str | None:
        """Return this path, whatever its ending, else the only one that ends alike, or None."""
        stem, name = ENDING.sub("", path), ENDING.sub("", file_name.lower())
        ending = file_name.lower()[len(name):]
        paths = self._by_stem.get(ROLE.sub("", stem))
        if paths:
            return next((path for path in paths if path.lower().endswith(ending)), paths[0])
        ends = [*tails(plain_name(name)), *tails(plain_name(stem).lower())]
        for tail in ends + [unquote(end) for end in ends]:  # VoTT writes `a%20b.jpg`
            paths = self._by_tail.get(tail, [])
            paths = [path for path in paths if path.lower().endswith(ending)] or paths
            if len(paths) == 1:
                return paths[0]
        return None

    def match(self, annotations: Sequence[Annotation]) -> list[str | None]:
        """Return the relative path of each annotation's image, None where there is none.

        An image that several mean belongs to that of its path. UserError where not one is there.
        """
        found = [self.find(item.key, item.file_name) for item in annotations]
        claims = Counter(found)
        exact = [ROLE.sub("", ENDING.sub("", item.key)) in self._by_stem for item in annotations]
        found = [path if claims[path] == 1 or is_exact else None
                 for path, is_exact in zip(found, exact)]
        if annotations and not any(found):
            name = annotations[0].file_name or annotations[0].key
            raise UserError(f"{self.folder}: no annotated image such as {name!r}; set images_path.")
        return found


def tails(path: str) -> list[str]:
    """Return a path without its first 0, 1, 2 .. folders; `.` and `..` are left out."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[k:]) for k in range(len(parts))]


def gather_rows(rows: Iterable[tuple[str, tuple[int, int] | None, list[SourceObject]]],
                table: str) -> list[Annotation]:
    """Return one Annotation per image of a file `table` of (file name, size or None, objects)."""
    items = {}
    for name, size, objects in rows:
        name = next(iter(tails(name)), "")
        item = items.setdefault(name, Annotation(name, f"{table}, {name}", None, [], size, name))
        item.objects.extend(objects)
    return [*items.values()]


def int_size(width: object, height: object) -> tuple[int, int] | None:
    """Return (width, height) as integers, or None where a source has no sensible numbers."""
    try:
        size = int(float(width)), int(float(height))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None
