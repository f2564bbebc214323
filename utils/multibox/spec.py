"""SSDSpec: every number that trained weights depend on, in one frozen record."""

import dataclasses
import math
from dataclasses import dataclass
from numbers import Integral, Real

PRIOR_CLIPS = ("none", "corners", "centre_size", "size")
BOX_CLIPS = ("none", "before_nms", "after_nms")
RESIZES = ("area_linear_uint8", "cv2_linear_uint8", "cv2_linear_float32", "pil_bicubic_uint8")
CHOICES = {"prior_clip": PRIOR_CLIPS, "box_clip": BOX_CLIPS, "resize": RESIZES,
           "letterbox": (False, True), "resnet_pool_padding": (0, 1)}

# RGB grey levels. Caffe's SSD subtracts the rounded means of its VGG16 and does not scale.
CAFFE_MEAN, CAFFE_STD = (123.0, 117.0, 104.0), (1.0, 1.0, 1.0)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

# Far above what anyone trains; a damaged or crafted file must not ask for all memory.
MAX_INPUT, MAX_PRIORS, MAX_ENTRIES = 4096, 4_000_000, 64  # pixels a side, priors, items of a list
TILES = (64, 16384)  # pixels; smaller ones would be thousands in an image


@dataclass(frozen=True)
class SSDSpec:
    """What a set of weights was trained with, and therefore must be used with.

    The defaults are the paper's SSD300 (arXiv 1512.02325) as its Caffe code builds it. Lengths are
    in pixels of the network input, colours in grey levels 0-255 in RGB order, sizes as
    (height, width). A spec is stored in every checkpoint and read back.

    Raises ValueError when fields contradict each other.
    """

    backbone: str = "vgg"
    input_shape: tuple[int, int] = (300, 300)

    # Priors, one entry a feature map (anchors_size has one more: the last map's s').
    grids: tuple[int, ...] = (38, 19, 10, 5, 3, 1)
    steps: tuple[float, ...] | None = (8, 16, 32, 64, 100, 300)  # None: input size / grid
    anchors_size: tuple[float, ...] = (30, 60, 111, 162, 213, 264, 315)
    aspect_ratios: tuple[tuple[float, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    prior_clip: str = "none"  # see priors.clip_priors

    # Box coder.
    variances: tuple[float, float] = (0.1, 0.2)
    log_size_clamp: float | None = math.log(1000 / 16)  # keeps exp() finite; far above real boxes
    box_clip: str = "after_nms"

    # Image to network input.
    mean: tuple[float, float, float] = CAFFE_MEAN
    std: tuple[float, float, float] = CAFFE_STD
    resize: str = "area_linear_uint8"  # see image.resize
    letterbox: bool = False
    letterbox_fill: int = 128
    tile: int = 0  # pixels of the image, a side of the windows to look at; 0: the whole image

    # Network.
    l2_eps: float = 1e-10
    resnet_pool_padding: int = 1  # 0: the ceil-mode max pooling of some Caffe-style ResNets

    def __post_init__(self):
        """Refuse what cannot be built, before a network or a run is made of it."""
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices or type(value) is not type(choices[0]):
                raise ValueError(f"{name} must be one of {choices}, got {value!r}")
        if not isinstance(self.backbone, str):
            raise ValueError(f"backbone must be a name, got a {type(self.backbone).__name__}")
        _check_numbers("grids", self.grids, 1, MAX_INPUT, whole=True)
        maps = len(self.grids)
        _check_numbers("input_shape", self.input_shape, 1, MAX_INPUT, length=2, whole=True)
        if self.steps is not None:
            _check_numbers("steps", self.steps, 1e-3, 4 * MAX_INPUT, length=maps)
        _check_numbers("anchors_size", self.anchors_size, 1, 4 * MAX_INPUT, length=maps + 1)
        _check_tuple("aspect_ratios", self.aspect_ratios, maps)
        for ratios in self.aspect_ratios:
            _check_numbers("aspect_ratios", ratios, 0.01, 100)
        _check_numbers("variances", self.variances, 1e-6, 100, length=2)
        _check_numbers("mean", self.mean, -1e4, 1e4, length=3)
        _check_numbers("std", self.std, 1e-6, 1e4, length=3)
        _check_numbers("letterbox_fill", (self.letterbox_fill,), 0, 255, whole=True)
        if type(self.tile) is not int or self.tile and not TILES[0] <= self.tile <= TILES[1]:
            raise ValueError(f"tile must be 0 or a whole number in {TILES[0]}..{TILES[1]}, "
                             f"got {self.tile!r:.40}")
        _check_numbers("l2_eps", (self.l2_eps,), 0, 1)
        if self.log_size_clamp is not None:
            _check_numbers("log_size_clamp", (self.log_size_clamp,), 0, 80)  # exp(88) overflows
        if self.input_shape[0] != self.input_shape[1]:
            raise ValueError(f"input_shape must be square, got {self.input_shape}")
        if any(a >= b for a, b in zip(self.anchors_size, self.anchors_size[1:])):
            raise ValueError(f"anchors_size must be increasing, got {self.anchors_size}")
        priors = sum(grid * grid * cell for grid, cell in zip(self.grids, self.priors_per_cell))
        if priors > MAX_PRIORS:
            raise ValueError(f"{priors} priors are more than the {MAX_PRIORS} allowed, "
                             f"grids {self.grids}")

    @property
    def size(self) -> int:
        """Side of the square network input in pixels."""
        return self.input_shape[0]

    @property
    def priors_per_cell(self) -> tuple[int, ...]:
        """Number of priors at each position, one entry a map: s, s', and two for each ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    def summary(self) -> str:
        """Return what a person wants to know of the spec, in a line."""
        steps = "division" if self.steps is None else "step"
        return (f"{self.backbone}, input {self.size}, {steps} priors clipped {self.prior_clip}, "
                f"{self.colours()}, {self.resize}" + (", letterbox" if self.letterbox else "")
                + (f", windows of {self.tile} px" if self.tile else ""))

    def colours(self) -> str:
        """Return how grey levels become the network's input, such as "RGB - (123, 117, 104)"."""
        mean = ", ".join(f"{value:.6g}" for value in self.mean)
        return f"RGB - ({mean})" + ("" if self.std == (1, 1, 1) else " scaled")

    def to_dict(self) -> dict:
        """Return the spec as plain types, for checkpoints."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "SSDSpec":
        """Rebuild a spec from `to_dict` or its JSON form; ValueError on unknown fields."""
        values = dict(values)
        # Specs had a channel order once; nothing was ever trained in another than this.
        if values.get("channel_order") == "rgb":
            del values["channel_order"]
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"unknown spec fields {sorted(unknown)}; update this repo")
        return cls(**{name: _as_tuple(value) for name, value in values.items()})


def _as_tuple(value, depth=2):
    """Turn lists into tuples; a file may nest lists without end, a spec nests them once."""
    if not isinstance(value, (list, tuple)):
        return value
    if depth == 0 or len(value) > MAX_ENTRIES:
        raise ValueError("a list in it is too long or too deep")
    return tuple(_as_tuple(entry, depth - 1) for entry in value)


def _check_tuple(name, value, length):
    if not isinstance(value, tuple):
        raise ValueError(f"{name} must be a tuple, got {str(value)[:60]}")
    if length not in (None, len(value)):
        raise ValueError(f"{name} needs {length} entries, got {value}")


def _check_numbers(name, values, low, high, *, length=None, whole=False):
    """Raise ValueError unless all entries are numbers within low..high, which nan never is."""
    _check_tuple(name, values, length)
    for value in values:
        if not isinstance(value, Integral if whole else Real) or isinstance(value, bool):
            raise ValueError(f"{name} needs {'whole ' if whole else ''}numbers, got {values}")
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in {low:g}..{high:g}, got {values}")


# Sides of the priors as parts of the input, by number of maps: SSD300's and SSD512's for VOC, and
# those of models trained on COCO, whose objects are smaller (paper sections 3.1 to 3.4).
VOC_SCALES = {6: (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05),
              7: (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05)}
COCO_SCALES = {6: (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
               7: (0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06)}
