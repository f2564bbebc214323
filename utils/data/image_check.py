"""Every image file of a data set read once: its size, its content, and whether it is whole."""

import hashlib
import io
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from PIL import Image

from utils.cli import UserError
from utils.data import decoder
from utils.data.sources import ProblemKind
from utils.image import JPEG_START, decode_image, image_size, orientation_of

# What libjpeg and libtiff say where they make pixels up. A few needless bytes before the end mark,
# as some cameras write them, and a bad colour profile cost no pixel.
DAMAGE = re.compile(r"Premature end of JPEG file|(?:\w+Decode|TIFFFill\w+): .*|"
                    r"Corrupt JPEG data: (?!bad ICC|\d\d? extraneous bytes before marker 0xd9).*")
_IDLE = SimpleQueue()  # processes of decoder.py; they end with this one, which holds their stdin


class ImageFacts(NamedTuple):
    """What an image file turned out to be."""

    size: tuple[int, int] | None  # (width, height) as load_image gives it; None: unreadable
    orientation: int  # of EXIF, 1 for upright
    digest: bytes  # of the file's content
    fault: ProblemKind | None
    reason: str


def inspect_images(paths, *, num_threads, progress=iter):
    """Read every image once.

    Args:
        paths: iterable of Path.
        num_threads: readers.
        progress: wrapped around the files, such as tqdm.

    Returns:
        {path: ImageFacts}.
    """
    paths = list(dict.fromkeys(paths))
    with warnings.catch_warnings(), ThreadPoolExecutor(num_threads) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # they name no file
        return dict(zip(paths, progress(pool.map(inspect_image, paths))))


def inspect_image(path):
    """Return the ImageFacts of one file; a failure is a fact, not an exception."""
    size, orientation, digest = None, 1, b""
    fault, reason = ProblemKind.IMAGE_UNREADABLE, ""
    try:
        data = path.read_bytes()
        digest = hashlib.blake2b(data, digest_size=16).digest()
        size = image_size(io.BytesIO(data), path)
        with Image.open(io.BytesIO(data)) as header:
            orientation = orientation_of(header)
        fault, reason = find_fault(data, path, size, orientation)
    except OSError as error:
        reason = error.strerror or str(error)
    except UserError as error:
        reason = str(error).partition(": ")[2].partition(";")[0]
    except Exception as error:  # of damaged files decoders raise struct.error, RuntimeError, ...
        reason = f"not an image that can be read ({type(error).__name__}: {error})"
    if fault == ProblemKind.IMAGE_UNREADABLE:
        size, orientation = None, 1
    return ImageFacts(size, orientation, digest, fault, reason)


def find_fault(data, path, size, orientation):
    """Return (ProblemKind or None, reason) of an image whose header says (width, height) `size`."""
    if is_truncated(data):
        return ProblemKind.IMAGE_TRUNCATED, "the end of the file is missing"
    found, said = decode_apart(data)
    damage = DAMAGE.search(said)
    if damage:
        return ProblemKind.IMAGE_DAMAGED, damage[0][:200]
    if found is None:
        words = f" ({' '.join(said.split())[-200:]})" if said.strip() else ""
        return ProblemKind.IMAGE_UNREADABLE, f"not an image that can be read{words}"
    if orientation > 1:  # does the reader of the training turn it as the header says?
        found = decode_image(data, path).shape[1::-1]
    if found != size:
        return ProblemKind.IMAGE_UNREADABLE, (f"its header says {size[0]}x{size[1]}, decoded it "
                                              f"has {found[0]}x{found[1]}")
    return None, ""


def decode_apart(data):
    """Decode an image in another process.

    Returns:
        ((width, height) as stored, or None for what is no image; what the decoder printed).
    """
    try:
        process = _IDLE.get_nowait()
    except Empty:
        process = None
    if process is None or process.poll() is not None:  # none yet, or one that was killed
        process = subprocess.Popen([sys.executable, str(Path(decoder.__file__))],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
    lines = []
    try:
        process.stdin.write(b"%d\n" % len(data) + data)
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith(decoder.ANSWER):
                _IDLE.put(process)
                height, width = map(int, line[len(decoder.ANSWER):].split())
                return (width, height) if width else None, b"".join(lines).decode(errors="replace")
            lines.append(line)
    except OSError:  # it ended while it was written to
        pass
    process.kill()
    return None, "the decoder crashed on it"


def is_truncated(data):
    """Tell whether a JPEG or PNG file lacks its end mark; decoders fill the rest with grey."""
    if data.startswith(JPEG_START):
        place = 2
        # Past the segments before the scan: a thumbnail in them has an end mark of its own.
        while data[place:place + 1] == b"\xff" and data[place + 1:place + 2] != b"\xda":
            filler = data[place + 1:place + 2] == b"\xff"
            place += 1 if filler else 2 + int.from_bytes(data[place + 2:place + 4], "big")
        return b"\xff\xd9" not in data[place:]
    return data.startswith(b"\x89PNG") and b"IEND\xaeB`\x82" not in data
