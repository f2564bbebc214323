"""What the four numbers of a box mean: what its format says, unless they show something else."""

from collections.abc import Sequence

import numpy as np

from utils.cli import UserError
from utils.data.sources import Annotation, SourceObject
from utils.data.voc import edges_to_pixels
from utils.image import image_size

# x1, y1, x2, y2; x1, y1, width, height; centre, width, height: in pixels or fractions of the image.
BOX_FORMATS = ("xyxy", "xywh", "cxcywh", "xyxy_fractions", "xywh_fractions", "cxcywh_fractions")
VOC = "voc"  # xyxy in VOC's pixels, which its reader has turned into edges
MIN_BOXES, MIN_FAILING = 10, 3  # fewer do not show what a source means
FEW, MANY, ALL = 0.02, 0.25, 0.99  # shares of the boxes


def read_boxes(annotations: Sequence[Annotation], declared: str, box_format: str = "auto"
               ) -> tuple[list[Annotation], str]:
    """Return the annotations with boxes as xyxy edges in pixels, and a message or "".

    Their numbers are read as `box_format` says, or as `declared` by the format of the data; where
    many do not fit their images like that and one other reading fits all, as the other. UserError
    where no reading, or more than one, does.
    """
    sizes = [_size(item) for item in annotations]
    rows = [(item, thing, size) for item, size in zip(annotations, sizes) if size
            for thing in item.objects or ()]
    numbers = np.array([thing.box_px for _, thing, _ in rows], np.float64).reshape(-1, 4)
    numbers = edges_to_pixels(numbers) if declared == VOC else numbers
    all_sizes = np.array([size for *_, size in rows], np.float64).reshape(-1, 2)
    message = ""
    if box_format == "auto":
        box_format, message = _recognise(numbers, all_sizes, declared, rows)
    elif declared == VOC and box_format == "xyxy":
        box_format = VOC
    if box_format == VOC:
        return [*annotations], message
    boxes = map(tuple, to_edges(numbers, all_sizes, box_format).tolist())
    return [item._replace(objects=[SourceObject(name, next(boxes), *more)
                                   for name, _, *more in item.objects])
            if size and item.objects else item for item, size in zip(annotations, sizes)], message


def to_edges(numbers: np.ndarray, sizes: np.ndarray, box_format: str) -> np.ndarray:
    """Return the (N, 4) xyxy edges in pixels of boxes in images of (N, 2) width, height."""
    form, _, unit = box_format.partition("_")
    low, high = numbers[:, :2], numbers[:, 2:]
    if form == "cxcywh":
        low = low - high / 2
    if form != "xyxy":
        high = low + high
    return np.concatenate([low, high], axis=1) * (np.tile(sizes, 2) if unit else 1)


def _size(item):
    """Return the (width, height) that the boxes of an annotation are drawn in, or None."""
    try:
        return item.size or item.image and image_size(item.image)
    except UserError:  # the doctor reports it
        return None


def _recognise(numbers, sizes, declared, rows):
    """Return (box format that the numbers are in, message or "")."""
    name = "xyxy" if declared == VOC else declared
    is_whole = np.isfinite(numbers).all(1)
    failing = np.flatnonzero(is_whole & ~_fits(numbers, sizes, name))
    if is_whole.sum() < MIN_BOXES or len(failing) < max(MIN_FAILING, FEW * is_whole.sum()):
        return declared, ""
    others = [form for form in BOX_FORMATS if form != name
              and _fits(numbers, sizes, form)[is_whole].mean() >= ALL]
    # Another unit is likelier than other numbers than the format says.
    others = [form for form in others if form.split("_")[0] == name.split("_")[0]] or others
    is_much = len(failing) >= MANY * is_whole.sum()
    item, thing, size = rows[failing[0]]
    numbers = ", ".join(f"{number:g}" for number in numbers[failing[0]])
    what = (f"{len(failing)} of {is_whole.sum()} boxes do not fit into their images as {name}, "
            f"such as {item.origin}, {thing.position} ({thing.name}): "
            f"{numbers} in {size[0]}x{size[1]} pixels")
    if is_much and len(others) == 1:
        return others[0], f"boxes are read as {others[0]}, which all fit: {what}"
    if others or is_much:
        remedy = f"set box_format to {' or '.join(others)}, as which all fit" if others else \
            "export them again"
        raise UserError(f"{what}; {remedy}, or set box_format to {name} to take them so.")
    return declared, ""


def _fits(numbers, sizes, box_format):
    """Return whether each box has a pixel or more, all of it in its image but for rounding."""
    edges, rounding = to_edges(numbers, sizes, box_format), 1 + sizes / 100
    low, high = edges[:, :2], edges[:, 2:]
    return ((high - low > 0.99) & (low >= -rounding) & (high <= sizes + rounding)).all(1)
