"""Decode images with OpenCV in a process of its own, which image_check.py starts and asks.

Decoders tell of damage in lines on the C library's stderr, where threads of one process cannot
tell whose they are; and a decoder that crashes does not take the run with it.
"""

import sys

import cv2
import numpy as np

ANSWER = b"\0="  # what no decoder prints


def serve(requests, answers):
    """Answer each image, sent as a line with its length and then its bytes, by height and width.

    0 0 stands for what is no image. Whatever the decoder prints comes before the answer.
    """
    while line := requests.readline():
        data = np.frombuffer(requests.read(int(line)), np.uint8)
        try:  # grey: every coefficient is read, but fewer are made into pixels
            image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
        except (cv2.error, MemoryError):
            image = None
        height, width = (0, 0) if image is None else image.shape[:2]
        answers.write(b"\n%b%d %d\n" % (ANSWER, height, width))
        answers.flush()


if __name__ == "__main__":
    cv2.setNumThreads(1)
    serve(sys.stdin.buffer, sys.stdout.buffer)
