"""Video files that browsers play, by whatever is installed that can write them."""

from fractions import Fraction

import cv2
import numpy as np

from utils.cli import UserError

# What OpenCV is asked for, best first; its wheels for Linux have no H.264.
CODECS = (("avc1", ".mp4", "H.264"), ("VP80", ".webm", "VP8"),
          ("mp4v", ".mp4", "MPEG-4, which browsers do not play: pip install av"))


class AvWriter:
    """Writes H.264 by PyAV, as cv2.VideoWriter is called."""

    def __init__(self, av, path: str, rate: float, size: tuple[int, int]):
        self.make_frame, self.file = av.VideoFrame.from_ndarray, av.open(path, "w")
        self.stream = self.file.add_stream("libx264", Fraction(rate).limit_denominator(1001))
        self.stream.width, self.stream.height = size
        self.stream.pix_fmt = "yuv420p"  # the one that all browsers play

    def write(self, image: np.ndarray) -> None:
        """Add an (H, W, 3) uint8 BGR image."""
        self.file.mux(self.stream.encode(self.make_frame(image, format="bgr24")))

    def release(self) -> None:
        """Complete the file."""
        self.file.mux(self.stream.encode())
        self.file.close()


def open_writer(path: str, rate: float, size: tuple[int, int]
                ) -> tuple[AvWriter | cv2.VideoWriter, str, str]:
    """Return (writer, suffix of its file, codec) for frames of an even width and height."""
    try:
        import av
        return AvWriter(av, f"{path}.mp4", rate, size), ".mp4", "H.264"
    except (ImportError, ValueError):  # or PyAV without x264
        for code, suffix, codec in CODECS:
            writer = cv2.VideoWriter(path + suffix, cv2.VideoWriter_fourcc(*code), rate, size)
            if writer.isOpened():
                return writer, suffix, codec
        raise UserError(f"{path}.mp4: cannot be written.") from None
