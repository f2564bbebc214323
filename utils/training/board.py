"""What can be watched beside the curves: samples.jpg, and TensorBoard where it is installed."""

import importlib.util
import io
from pathlib import Path
from typing import Any

from utils.cli import UserError, writing
from utils.data.annotations import Record
from utils.distributed import rank
from utils.training.samples import choose_samples, draw_samples


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
        self.writer = None
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
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard import SummaryWriter

        epoch = row["epoch"]
        if self.writer is None:  # the first epoch of this process hides those that come again
            self.writer = SummaryWriter(str(self.folder), purge_step=epoch)
        values = {f"loss/{name}": row[name] for name in ("loss", "loc", "conf")}
        values |= {"learning_rate": row["learning_rate"], "val_map": row["val_map"],
                   "images_per_second": self.num_images / max(row["train_seconds"], 0.05)}
        for name, value in values.items():
            if value is not None:
                self.writer.add_scalar(name, value, epoch)
        if image:  # SummaryWriter would make a PNG of it, ten times as large
            data, height, width = image
            part = Summary.Image(encoded_image_string=data, height=height, width=width,
                                 colorspace=3)
            self.writer.file_writer.add_summary(
                Summary(value=[Summary.Value(tag="samples", image=part)]), epoch)
        self.writer.flush()
