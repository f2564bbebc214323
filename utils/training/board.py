"""What can be watched beside the curves: samples.jpg, and TensorBoard where it is installed."""

import importlib.util
import io
import os
import socket
import time
from pathlib import Path
from typing import Any

from utils.cli import UserError, writing
from utils.data.annotations import Record
from utils.distributed import rank
from utils.data.samples import choose_samples, draw_samples


class Board:
    """Shows each epoch of a run; what cannot be shown costs a line, and the training goes on.

    `detector` is an SSD, `records` what samples are chosen from, `kind` what the sheet calls them;
    `num_images` are those of an epoch. A `sample_period` of 0 draws no samples.
    """

    def __init__(self, folder: Path, detector: Any, records: list[Record], *, kind: str,
                 num_images: int, sample_period: int):
        self.folder, self.detector, self.kind = folder, detector, kind
        self.num_images, self.sample_period = num_images, sample_period
        self.samples = choose_samples(records) if sample_period else []
        self.events = None
        self.has_tensorboard = importlib.util.find_spec("tensorboard") is not None

    def show(self, row: dict, *, last: bool) -> None:
        """Show an epoch by its row of the history; `last` is that of the run."""
        if rank():
            return
        epoch, image = row["epoch"], None
        try:
            if self.sample_period and (last or epoch % self.sample_period == 0):
                image = self._draw(epoch)
        except UserError as error:
            print(f"note: {error} Training goes on.")
        if not self.has_tensorboard:
            return
        try:
            self._add(row, image)
        # Versions of tensorboard, protobuf and NumPy that do not fit fail in many ways.
        except (OSError, ImportError, AttributeError, TypeError, ValueError) as error:
            self.has_tensorboard = False
            print(f"note: nothing more for TensorBoard ({error}). Training goes on.")

    def _draw(self, epoch):
        """Write samples.jpg; return (JPEG file, height, width), or None where there is none."""
        sheet = draw_samples(self.samples, self.detector, f"epoch {epoch}, {self.kind} images")
        if sheet is None:
            return None
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=90)
        with writing(self.folder / "samples.jpg") as part:
            part.write_bytes(buffer.getvalue())
        return buffer.getvalue(), sheet.height, sheet.width

    def _add(self, row, image):
        if self.events is None:  # the first epoch of this process hides those that come again
            self.events = EventFile(self.folder, first_step=row["epoch"])
        values = {f"loss/{name}": row[name] for name in ("loss", "loc", "conf")}
        values |= {"learning_rate": row["learning_rate"], "val_map": row["val_map"],
                   "images_per_second": self.num_images / max(row["train_seconds"], 0.05)}
        self.events.add(row["epoch"], {k: v for k, v in values.items() if v is not None}, image)


class _WholeFile(io.FileIO):
    """A file without a buffer, which would be written, and fail, once more at the end."""

    def write(self, data):
        rest = memoryview(data)
        while rest:  # on a nearly full disk a part is written without an error
            rest = rest[super().write(rest):]
        return len(data)


class EventFile:
    """A file of TensorBoard's, written by whoever calls: the thread of torch's SummaryWriter prints
    its own traceback where the disk is full, and makes of a picture a PNG ten times as large.

    Opened, it hides what earlier files of `folder` say of `first_step` and later steps. Raises
    OSError where the disk takes no more.
    """

    def __init__(self, folder: Path, *, first_step: int):
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        # TensorBoard reads a folder's files in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.records = RecordWriter(_WholeFile(folder / name, "wb"))
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, scalars: dict[str, float], image: tuple | None) -> None:
        """Add a step: {tag: value}, and the (JPEG file, height, width) of samples, if any."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        if image:
            data, height, width = image
            values.append(Summary.Value(tag="samples", image=Summary.Image(
                encoded_image_string=data, height=height, width=width, colorspace=3)))
        self._write(step=step, summary=Summary(value=values))

    def _write(self, **fields):
        from tensorboard.compat.proto.event_pb2 import Event

        self.records.write(Event(wall_time=time.time(), **fields).SerializeToString())
