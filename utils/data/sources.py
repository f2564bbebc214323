"""What every annotation reader returns, and the index that finds the image of an annotation.

The readers are voc.py, coco.py, yolo.py and csv_table.py. Each returns a list of Annotation, one
per image, with boxes as xyxy edges in pixels, and a list of Problem.
"""

import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from utils.cli import UserError, shorten
from utils.image import IMAGE_SUFFIXES

# Images that OpenCV cannot read on every system.
UNREAD_SUFFIXES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".psd")
# A list file cannot hold these: line breaks, and bytes of a name that are not UTF-8.
UNLISTABLE = re.compile(r"[\r\n\ud800-\udfff]")


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

    def __str__(self) -> str:
        return self.value[0]

    @property
    def decision(self) -> str:
        return self.value[1]


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
    """Return {path relative to folder, with slashes: absolute path} of the files, sorted.

    Linked folders are entered. Raises UserError for a folder that cannot be read and for a name
    that a list file cannot hold.
    """
    files = {}
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        folders.sort()
        prefix = "" if parent == str(folder) else f"{Path(parent).relative_to(folder).as_posix()}/"
        for name in sorted(names):
            if name.lower().endswith(suffixes):
                if UNLISTABLE.search(name):
                    raise UserError(f"{parent}/{name!a}: the name has a line break, or bytes that "
                                    "are not UTF-8; rename the file.")
                files[prefix + name] = Path(parent, name)
    return files


def _refuse_folder(error):
    raise UserError(f"{shorten(error.filename)}: the folder cannot be read ({error.strerror}).")


class ImageIndex:
    """Finds images under a folder, sub-folders included, by their path or by their name alone."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; set images_path to the folder of the "
                            "images.")
        self.folder, self.paths, self.problems = folder, {}, []
        self._by_path, self._by_name = defaultdict(list), defaultdict(list)
        for relative, path in walk_files(folder, IMAGE_SUFFIXES + UNREAD_SUFFIXES).items():
            if not relative.lower().endswith(IMAGE_SUFFIXES):
                self.problems.append(Problem(
                    ProblemKind.IMAGE_UNREADABLE, shorten(path),
                    f"images ending in {path.suffix} are not read; convert it to .png or .jpg"))
                continue
            self.paths[relative] = path
            for text in (_fold(relative), _fold(os.path.splitext(relative)[0])):
                self._by_path[text].append(relative)
                self._by_name[text.rpartition("/")[2]].append(relative)

    def match(self, wanted: Sequence[tuple[str, str]]) -> list[Path | None]:
        """Return the image of each annotation, None where there is none.

        `wanted` has the path without ending and the file name, perhaps "", of every annotation. An
        image of the same path is taken first. Else the file name decides, then the bare name: where
        it means one image, no other annotation means that image, and the folders do not contradict.
        Raises UserError where not a single image is found.
        """
        exact = [self._same_path(stem, name) for stem, name in wanted]
        guesses = [None if image else self._same_name(name) or self._same_name(stem)
                   for image, (stem, name) in zip(exact, wanted)]
        claims = Counter([*exact, *guesses])
        images = [image or (guess if claims[guess] == 1 else None)
                  for image, guess in zip(exact, guesses)]
        if wanted and not any(images):
            raise UserError(f"{self.folder}: none of the {len(wanted)} annotated images is in it, "
                            f"such as {wanted[0][1] or wanted[0][0]!r}; put them there, or set "
                            "images_path.")
        return [self.paths.get(image) for image in images]

    def _same_path(self, stem, name):
        """Return the image of this path; of several endings the one of `name`, else the first."""
        images = self._by_path.get(_fold(stem), ())
        return min(images, default=None, key=lambda image: (
            image != name, os.path.splitext(image)[0] != stem))

    def _same_name(self, text):
        """Return the only image that a path of another folder or machine can mean, or None."""
        text = _fold(text)
        images = self._by_name.get(text.rpartition("/")[2], [])
        agreeing = [image for image in images if _folders_agree(text, _fold(image))]
        if not agreeing and (text.startswith(("/", "~")) or text[1:2] == ":"):
            agreeing = images  # a path of another machine says nothing about folders
        return agreeing[0] if len(agreeing) == 1 else None

    def spelling(self, name: str) -> str:
        """Return a file name as the folder spells it, so that p0.jpg and ./P0.JPG are one."""
        name = posixpath.normpath(name.replace("\\", "/")) if name else ""
        images = self._by_path.get(_fold(name), ())
        return name if name in self.paths or len(images) != 1 else images[0]


def _fold(path):
    """Return a path in the form in which paths are compared; systems differ in case and accents."""
    return unicodedata.normalize("NFC", path.replace("\\", "/")).lower()


def _folders_agree(path, other):
    """Tell whether the folders of one path are the last folders of the other."""
    pairs = zip(path.split("/")[-2::-1], other.split("/")[-2::-1])
    return all(folder == other_folder for folder, other_folder in pairs)


def gather_rows(rows: Iterable[tuple[str, tuple[int, int] | None, list[SourceObject]]],
                index: ImageIndex, table: str) -> list[Annotation]:
    """Return one Annotation per image of a table in which images may come up again.

    `rows` gives (file name, size or None, objects); `table` is the name of the table's file.
    """
    items = {}
    for name, size, objects in rows:
        name = index.spelling(name)
        item = items.setdefault(name, Annotation(name, f"{table}, {name}", None, [], size))
        item.objects.extend(objects)
    images = index.match([(os.path.splitext(name)[0], name) for name in items])
    return [item._replace(image=image) for item, image in zip(items.values(), images)]


def is_true(value: object) -> bool:
    """Tell whether a flag is set, which may be text, a number or JSON's true."""
    return str(value).strip().lower() in ("1", "1.0", "true", "yes", "y", "t")


def unreadable(error: UserError) -> Problem:
    """Return the Problem of an annotation file that cannot be read."""
    where, _, what = str(error).partition(": ")
    return Problem(ProblemKind.UNREADABLE_ANNOTATION, where, what)


def int_size(width: object, height: object) -> tuple[int, int] | None:
    """Return (width, height) as integers, or None where a source has no sensible numbers."""
    try:
        size = int(float(width)), int(float(height))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None
