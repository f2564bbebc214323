"""SSDSpec: every number that trained weights depend on, in one frozen record."""

import math
from dataclasses import asdict, dataclass

PRIOR_CLIPS = ("none", "corners", "centre_size", "size")
BOX_CLIPS = ("none", "before_nms", "after_nms")
RESIZES = ("area_linear_uint8", "cv2_linear_uint8", "cv2_linear_float32", "pil_bicubic_uint8")

# RGB pixel values. Caffe's SSD subtracts the rounded means of its VGG16 and does not scale.
CAFFE_MEAN, CAFFE_STD = (123.0, 117.0, 104.0), (1.0, 1.0, 1.0)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

TILES = (64, 16384)  # smallest and largest side of a tile in pixels

# Sides of the priors as fractions of the input, by number of maps (SSD300 and SSD512): a scale of
# its own for the first map (paper section 3.1), then eq. 4 for the m maps behind it, in per cents,
# s_k = s_min + floor((s_max - s_min) / (m - 1)) * (k - 1), then the s' of the last map.
VOC_SCALES = {6: (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05),
              7: (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05)}
COCO_SCALES = {6: (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),  # smaller objects (section 3.4)
               7: (0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06)}


@dataclass(frozen=True)
class SSDSpec:
    """What a set of weights was trained with, and therefore must be used with.

    The defaults are the paper's SSD300 (arXiv 1512.02325) as its Caffe code builds it. Lengths are
    in pixels of the input, colours RGB pixel values. ValueError where fields contradict each other.
    """

    backbone: str = "vgg"
    input_shape: tuple[int, int] = (300, 300)

    # Priors, one entry a feature map (anchors_size has one more: the last map's s').
    grids: tuple[int, ...] = (38, 19, 10, 5, 3, 1)
    steps: tuple[float, ...] | None = (8, 16, 32, 64, 100, 300)  # Caffe's; None: size / grid
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
    reduced_tail: bool = True  # mobilenetv3's last blocks have half their channels
    resnet_pool_padding: int = 1  # 0: the ceil-mode max pooling of some Caffe-style ResNets

    def __post_init__(self):
        maps, sizes, ratios = len(self.grids), self.anchors_size, self.aspect_ratios
        for name, is_valid, wanted in (
                ("prior_clip", self.prior_clip in PRIOR_CLIPS, f"one of {PRIOR_CLIPS}"),
                ("box_clip", self.box_clip in BOX_CLIPS, f"one of {BOX_CLIPS}"),
                ("resize", self.resize in RESIZES, f"one of {RESIZES}"),
                ("input_shape", len(set(self.input_shape)) == 1, "square"),
                ("anchors_size", len(sizes) == maps + 1 and all(
                    a < b for a, b in zip((0, *sizes), sizes)), f"{maps + 1} increasing numbers"),
                ("aspect_ratios", len(ratios) == maps and min((1, *sum(ratios, ()))) > 0,
                 f"numbers above 0 for {maps} maps"),
                ("steps", self.steps is None or len(self.steps) == maps, f"{maps} numbers"),
                ("tile", self.tile == 0 or TILES[0] <= self.tile <= TILES[1],
                 f"0 or lie in {TILES[0]}..{TILES[1]}")):
            if not is_valid:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)}")

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
        changes = ", letterbox" if self.letterbox else ""
        changes += f", tiles of {self.tile} pixels" if self.tile else ""
        return f"SSD{self.size} with {self.backbone}{changes}"

    def to_dict(self) -> dict:
        """Return the spec as plain types, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "SSDSpec":
        """Rebuild a spec from `to_dict` or its JSON form; TypeError for unknown fields."""
        return cls(**{name: _as_tuple(value) for name, value in values.items()})


def _as_tuple(value):
    """Turn the lists of JSON, nested or not, into tuples."""
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value
