"""SSDSpec: every number that trained weights depend on, in one frozen record."""

import dataclasses
import math
from dataclasses import dataclass

PRIOR_CLIPS = ("none", "corners", "centre_size", "size")
BOX_CLIPS = ("none", "before_nms", "after_nms")
RESIZES = ("area_linear_uint8", "cv2_linear_uint8", "cv2_linear_float32", "pil_bicubic_uint8")

# RGB pixel values. Caffe's SSD subtracts the rounded means of its VGG16 and does not scale.
CAFFE_MEAN, CAFFE_STD = (123.0, 117.0, 104.0), (1.0, 1.0, 1.0)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

TILES = (64, 16384)  # smallest and largest side of a tile in pixels


def prior_scales(first: int, smallest: int, largest: int, num_maps: int) -> tuple[float, ...]:
    """Return the sides of the priors as fractions of the input (paper section 2.2, eq. 4).

    s_k = s_min + (s_max - s_min) / (m - 1) * (k - 1) for the m = num_maps - 1 maps behind the
    first, which gets a scale of its own (section 3.1). As in Caffe's `ssd_pascal.py`, the
    arguments are percentages and the step is rounded down. One more scale follows, for the s' of
    the last map.
    """
    step = (largest - smallest) // (num_maps - 2)
    return (first / 100, *((smallest + k * step) / 100 for k in range(num_maps)))


# By number of maps: SSD300 and SSD512. COCO's objects are smaller (section 3.4).
VOC_SCALES = {6: prior_scales(10, 20, 90, 6), 7: prior_scales(7, 15, 90, 7)}
COCO_SCALES = {6: prior_scales(7, 15, 90, 6), 7: prior_scales(4, 10, 90, 7)}


@dataclass(frozen=True)
class SSDSpec:
    """What a set of weights was trained with, and therefore must be used with.

    The defaults are the paper's SSD300 (arXiv 1512.02325) as its Caffe code builds it. Lengths are
    in pixels of the network input, colours are RGB pixel values 0-255, sizes (height, width). A
    spec is stored in every checkpoint and read back.

    Raises ValueError where fields contradict each other.
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
    log_size_clamp: float | None = math.log(1000 / 16)  # far above real boxes; None: no limit
    box_clip: str = "after_nms"

    # Image to network input.
    mean: tuple[float, float, float] = CAFFE_MEAN
    std: tuple[float, float, float] = CAFFE_STD
    resize: str = "area_linear_uint8"  # see utils/image.py
    letterbox: bool = False
    letterbox_fill: int = 128
    tile: int = 0  # side of the tiles of an image in pixels; 0: the image as a whole

    # Network.
    l2_eps: float = 1e-10
    resnet_pool_padding: int = 1  # 0: the ceil-mode max pooling of some Caffe-style ResNets

    def __post_init__(self):
        maps, (height, width) = len(self.grids), self.input_shape
        for name, choices in (("prior_clip", PRIOR_CLIPS), ("box_clip", BOX_CLIPS),
                              ("resize", RESIZES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if height != width or height < 1:
            raise ValueError(f"input_shape must be square, got {self.input_shape}")
        if len(self.anchors_size) != maps + 1 or self.anchors_size[0] <= 0 or any(
                a >= b for a, b in zip(self.anchors_size, self.anchors_size[1:])):
            raise ValueError(f"anchors_size needs {maps + 1} increasing numbers above 0, "
                             f"got {self.anchors_size}")
        if len(self.aspect_ratios) != maps or min(
                ratio for ratios in self.aspect_ratios for ratio in (*ratios, 1)) <= 0:
            raise ValueError(f"aspect_ratios needs numbers above 0 for {maps} maps, "
                             f"got {self.aspect_ratios}")
        if self.steps is not None and len(self.steps) != maps:
            raise ValueError(f"steps needs {maps} numbers, got {self.steps}")
        if self.tile and not TILES[0] <= self.tile <= TILES[1]:
            raise ValueError(f"tile must be 0 or lie in {TILES[0]}..{TILES[1]}, got {self.tile}")

    @property
    def size(self) -> int:
        """Side of the square network input in pixels."""
        return self.input_shape[0]

    @property
    def priors_per_cell(self) -> tuple[int, ...]:
        """Number of priors at each position, one entry a map: s, s', and two for each ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    def summary(self) -> str:
        """Return what a person wants to know of the spec, in one line."""
        tiles = f", tiles of {self.tile} pixels" if self.tile else ""
        bars = ", letterbox" if self.letterbox else ""
        return f"SSD{self.size} with {self.backbone}{bars}{tiles}"

    def to_dict(self) -> dict:
        """Return the spec as plain types, for checkpoints."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "SSDSpec":
        """Rebuild a spec from `to_dict` or its JSON form; ValueError for unknown fields."""
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"unknown spec fields {sorted(unknown)}; update this repo")
        return cls(**{name: _as_tuple(value) for name, value in values.items()})


def _as_tuple(value):
    """Turn the lists of JSON, nested or not, into tuples."""
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value
