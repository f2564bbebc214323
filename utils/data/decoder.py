"""Decode images in a process of its own, which image_check.py starts and asks.

Decoders tell of damage in lines on the C library's stderr, where threads of one process cannot
tell whose they are; and a decoder that crashes does not take the run with it.
"""

import io
import sys

import cv2
import numpy as np
from PIL import Image

ANSWER = b"\0="  # what no decoder prints


def shape_of(data):
    """Return (height, width) as stored, by the decoders of `utils.image.decode_image`.

    Not by that itself: PyTorch, which it brings along, would come into every process.
    """
    if data[8:12] == b"WEBP" or data[:4] == b"GIF8":
        image = Image.open(io.BytesIO(data))
        image.load()
        return image.size[::-1]
    # JPEGs in grey: every coefficient is read, but fewer are made into pixels.
    mode = cv2.IMREAD_GRAYSCALE if data.startswith(b"\xff\xd8") else cv2.IMREAD_COLOR
    image = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    return (0, 0) if image is None else image.shape[:2]


def serve(requests, answers):
    """Answer each image, sent as a line with its length and then its bytes, by height and width.

    0 0 stands for what is no image. Whatever the decoder prints comes before the answer.
    """
    while line := requests.readline():
        try:
            height, width = shape_of(requests.read(int(line)))
        except (cv2.error, OSError, ValueError, MemoryError):
            height = width = 0
        answers.write(b"\n%b%d %d\n" % (ANSWER, height, width))
        answers.flush()


if __name__ == "__main__":
    cv2.setNumThreads(1)
    serve(sys.stdin.buffer, sys.stdout.buffer)
