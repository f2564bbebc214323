"""What every annotation reader gives, and how it finds the image of an annotation.

The readers are voc.py, coco.py, yolo.py and csv_table.py: each gives a list of Annotation, one a
image, with boxes as edges in pixels.
"""

import gc
import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from utils.cli import UserError, shorten
from utils.image import IMAGE_SUFFIXES

TRUE_WORDS = ("1", "1.0", "true", "yes", "y", "t")
# Images that OpenCV does not read, or not everywhere.
UNREAD_SUFFIXES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".psd")
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
    NO_LABEL_FILE = "no label file", "taken as background"
    SPLIT_NAMES_NOTHING = "split names nothing", "left out"
    IN_NO_SPLIT = "in no split", "image not used"
    TWO_SPELLINGS = "one image, two spellings", "objects put together"
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


def walk_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return {path relative to folder, as text with slashes: absolute Path}, sorted.

    Linked folders are entered where they lead to a folder that no other way leads to; pipes and
    devices, which may never end, are passed over. Raises UserError for a name that no list can hold
    and for a folder that cannot be read.
    """
    found, start = {}, len(os.path.join(folder, ""))
    for place, names in _walk(folder):
        for name in sorted(names):
            if not name.lower().endswith(suffixes):
                continue
            path = os.path.join(place, name)
            if UNLISTABLE.search(path):
                raise UserError(f"{path!a}: a line break, or a letter that is not UTF-8, is in the "
                                "name; rename it.")
            # A link to nothing, or in a circle, is listed, so that it is found missing.
            if os.path.isfile(path) or not os.path.exists(path):
                found[path[start:].replace(os.sep, "/")] = Path(path)
    return found


def _walk(folder):
    """Yield (folder, names of files) once each; those behind links come last, so circles end."""
    starts, seen = [os.fspath(folder)], set()
    for start in starts:
        for place, folders, names in os.walk(start, onerror=_refuse_folder):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            starts += [path for path in (os.path.join(place, name) for name in folders)
                       if os.path.islink(path)]
            yield place, names


def _refuse_folder(error):
    raise UserError(f"{shorten(error.filename)}: the folder cannot be read ({error.strerror}).")


def plain_path(name: str) -> str:
    """Return a file name of an annotation with slashes, and without detours such as `./`."""
    return posixpath.normpath(name.replace("\\", "/")) if name else ""


class ImageIndex:
    """Finds images by name under a folder, sub-folders included."""

    def __init__(self, folder):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; set images_path to the folder of the "
                            "images.")
        self.folder = folder
        self.files = walk_files(folder, IMAGE_SUFFIXES + UNREAD_SUFFIXES)
        self.by_path = {relative: path for relative, path in self.files.items()
                        if relative.lower().endswith(IMAGE_SUFFIXES)}
        self.by_stem, self.by_name, self.by_bare = {}, defaultdict(list), defaultdict(list)
        for relative in self.by_path:
            stem = os.path.splitext(relative)[0]
            self.by_stem.setdefault(stem, relative)
            self.by_name[_folded(relative)].append(relative)
            self.by_bare[_folded(stem)].append(relative)

    def find_all(self, wanted):
        """Return the images of annotations, None where there is none.

        `wanted` is a list of (path without ending, file name or None), of every annotation. An
        image of the same path but for the ending comes first (the file name decides where endings
        differ). For the others the file name, then the bare name decides, where it fits one image,
        no other annotation has or wants that image, and the folders do not contradict. Raises
        UserError where not one image was found.
        """
        found = [self._same_path(stem, name) for stem, name in wanted]
        taken = set(found)
        guesses = [None if image else self._alike(stem, name)
                   for image, (stem, name) in zip(found, wanted)]
        counts = Counter(guesses)
        found = [image or (guess if counts[guess] == 1 and guess not in taken else None)
                 for image, guess in zip(found, guesses)]
        if found and not any(found):
            raise UserError(f"{self.folder}: none of the {len(found)} annotated images is in it, "
                            f"such as {wanted[0][1] or wanted[0][0]!r}; put them there, or set "
                            "images_path.")
        return [self.by_path.get(image) for image in found]

    def unread(self):
        """Return a Problem for each image of a kind that is not read."""
        return [Problem(ProblemKind.IMAGE_UNREADABLE, shorten(path),
                        f"images ending in {path.suffix} are not read; convert it to .png or .jpg")
                for relative, path in self.files.items() if relative not in self.by_path]

    def _same_path(self, stem, name):
        if name in self.by_path and os.path.splitext(name)[0] == stem:
            return name
        return self.by_stem.get(stem)

    def _alike(self, stem, name):
        """Return the one image that a file name, else the stem, can mean, or None."""
        name = plain_path(name or "")
        if name in self.by_path:
            return name
        for names, text in ((self.by_name, name), (self.by_bare, stem)):
            same = names.get(_folded(text), [])
            if len(same) == 1 and _folders_agree(text, same[0]):
                return same[0]
        return None

    def spelt(self, name):
        """Return a file name as the folder spells it, so that p0.jpg and ./P0.JPG are one."""
        name = plain_path(name)
        same = [path for path in self.by_name.get(_folded(name), [])
                if path.lower() == name.lower()]
        return same[0] if name not in self.by_path and len(same) == 1 else name


def gather_rows(rows, index: ImageIndex, place: str) -> tuple[list[Annotation], list[Problem]]:
    """Return an Annotation an image, and problems, of a table in which images may come again.

    `rows` gives (file name, size or None, objects, where it stands); `place` names the table.
    """
    items, problems = {}, index.unread()
    for given, size, objects, where in rows:
        name = index.spelt(given)
        first, item = items.setdefault(
            name, (given, Annotation(name, f"{place}, {name}", None, [], size)))
        item.objects.extend(objects)
        if given != first:
            problems.append(Problem(ProblemKind.TWO_SPELLINGS, f"{place}, {where}",
                                    f"{given!r} is the same as {first!r}"))
    images = index.find_all([(os.path.splitext(name)[0], name) for name in items])
    return [item._replace(image=image) for (_, item), image in zip(items.values(), images)], \
        problems


def _folded(path):
    """Return the bare name in one letter case and form of accents: both differ between systems."""
    name = path.rpartition("/")[2].lower()
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _folders_agree(wanted, path):
    """Tell whether one path can be the end of the other; paths of other machines say nothing."""
    if wanted.startswith(("/", "~")) or wanted[1:2] == ":":
        return True
    ours, theirs = (text.lower().split("/")[-2::-1] for text in (wanted, path))
    return all(a == b for a, b in zip(ours, theirs))


def is_true(value) -> bool:
    """Tell whether a flag is set, which may stand as text, number or JSON's true."""
    return bool(value) and value != "0" and str(value).strip().lower() in TRUE_WORDS


@contextmanager
def collector_paused():
    """Keep Python's cycle collector from walking, again and again, all that was read so far."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


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
