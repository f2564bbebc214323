"""Every image file of a data set read once: its size, its content, and whether it is whole."""

import atexit
import hashlib
import io
import os
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from PIL import Image

from utils.cli import UserError
from utils.data import decoder
from utils.data.sources import ProblemKind
from utils.image import JPEG_START, decode_image, image_size, orientation_of

# What libjpeg and libtiff say where they make pixels up. A bad colour profile costs no pixel.
DAMAGE = re.compile(r"Premature end of JPEG file|Inconsistent progression sequence.*|"
                    r"(?:\w+Decode|TIFFFill\w+): .*|"
                    r"Corrupt JPEG data: (?!bad ICC|\d+ extraneous bytes before marker 0xd9).*")
LEFT_OVER = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_IDLE = []  # processes of decoder.py


class ImageFacts(NamedTuple):
    """What an image file turned out to be."""

    size: tuple[int, int] | None  # (width, height) as load_image gives it; None: unreadable
    orientation: int  # of EXIF, 1 for upright
    digest: bytes  # of the file's content
    fault: ProblemKind | None
    reason: str


def inspect_images(paths, *, num_threads, progress=iter):
    """Read every image once; return {path: ImageFacts}.

    `progress`, such as tqdm, is wrapped around the results of the `num_threads` readers.
    """
    paths = list(dict.fromkeys(paths))
    with warnings.catch_warnings(), ThreadPoolExecutor(num_threads) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # they name no file
        return dict(zip(paths, progress(pool.map(inspect_image, paths))))


def inspect_image(path):
    """Return the ImageFacts of one file; a failure is a fact, not an exception."""
    try:
        data = path.read_bytes()
        size = image_size(io.BytesIO(data), path)
        with Image.open(io.BytesIO(data)) as header:
            orientation = orientation_of(header)
        fault, reason = find_fault(data, path, size, orientation)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        return ImageFacts(size, orientation, digest, fault, reason)
    except OSError as error:
        reason = error.strerror or str(error)
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ").partition(";")[0]
    except Exception as error:  # of damaged files decoders raise struct.error, RuntimeError, ...
        reason = f"not an image that can be read ({type(error).__name__}: {error})"
    return ImageFacts(None, 1, b"", ProblemKind.IMAGE_UNREADABLE, reason)


def find_fault(data, path, size, orientation):
    """Return (ProblemKind or None, reason) of an image whose header says (width, height) `size`.

    Raises UserError for what cannot be read.
    """
    if is_truncated(data):
        return ProblemKind.IMAGE_TRUNCATED, "the end of the file is missing"
    found, said = decode_apart(data)
    damage = DAMAGE.search(said) or _unread_scan(data, said)
    if damage:
        return ProblemKind.IMAGE_DAMAGED, damage[0][:200]
    if found == (0, 0):
        words = f" ({' '.join(said.split())[-200:]})" if said.strip() else ""
        raise UserError(f"{path}: not an image that can be read{words}")
    if orientation > 1:  # does the reader of the training turn it as the header says?
        found = decode_image(data, path).shape[1::-1]
    if found != size:
        raise UserError(f"{path}: its header says {size[0]}x{size[1]}, decoded it has "
                        f"{found[0]}x{found[1]}")
    return None, ""


def _unread_scan(data, said):
    """Return libjpeg's complaint of scan data that it did not need: codes before it were changed.

    Cameras fill up with bytes of one value before the end mark, or add one byte: no complaint.
    """
    left = LEFT_OVER.search(said)
    if left:
        end = data.rindex(b"\xff\xd9")
        if len(set(data[end - int(left[1]):end])) > 1:
            return left
    return None


def decode_apart(data):
    """Decode an image in another process.

    Returns ((width, height) as stored, (0, 0) for what is no image; what the decoder printed).
    """
    process = None
    with suppress(IndexError):
        process = _IDLE.pop()
    if process is None or process.poll() is not None:  # none yet, or one that was killed
        process = subprocess.Popen([sys.executable, decoder.__file__],
                                   env=os.environ | {"OPENCV_LOG_LEVEL": "WARNING"},
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
    lines = []
    with suppress(OSError):  # it ended while it was written to
        process.stdin.write(b"%d\n" % len(data) + data)
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith(decoder.ANSWER):
                _IDLE.append(process)
                height, width = map(int, line[len(decoder.ANSWER):].split())
                return (width, height), b"".join(lines).decode(errors="replace")
            lines.append(line)
    with suppress(OSError), process:
        process.kill()
    return (0, 0), "the decoder crashed on it"


@atexit.register
def end_decoders():
    """End the processes of decoder.py, which they do where their stdin ends."""
    while _IDLE:
        with _IDLE.pop():
            pass


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
