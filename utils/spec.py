"""SSDSpec: every number that trained weights depend on, in one frozen record."""

import dataclasses
import math
from dataclasses import dataclass

PRIOR_CLIPS = ("none", "corners", "centre_size", "size")
BOX_CLIPS = ("none", "before_nms", "after_nms")
RESIZES = ("cv2_linear_uint8", "cv2_linear_float32", "pil_bicubic_uint8")

# RGB grey levels. Caffe's SSD subtracts the rounded means of its VGG16 and does not scale.
CAFFE_MEAN, CAFFE_STD = (123.0, 117.0, 104.0), (1.0, 1.0, 1.0)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


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

    # Picture to network input.
    channel_order: str = "rgb"
    mean: tuple[float, float, float] = CAFFE_MEAN
    std: tuple[float, float, float] = CAFFE_STD
    resize: str = "cv2_linear_uint8"
    letterbox: bool = False
    letterbox_fill: int = 128

    # Network.
    l2_eps: float = 1e-10
    resnet_pool_padding: int = 1  # 0: the ceil-mode max pooling of some Caffe-style ResNets

    def __post_init__(self):
        """Refuse what cannot be built, before a network or a run is made of it."""
        maps = len(self.grids)
        lengths = {"aspect_ratios": maps, "anchors_size": maps + 1, "variances": 2,
                   "mean": 3, "std": 3, "input_shape": 2}
        if self.steps is not None:
            lengths["steps"] = maps
        for name, length in lengths.items():
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name} needs {length} entries, got {getattr(self, name)}")
        for name, choices in (("prior_clip", PRIOR_CLIPS), ("box_clip", BOX_CLIPS),
                              ("resize", RESIZES), ("channel_order", ("rgb", "bgr"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.input_shape[0] != self.input_shape[1]:
            raise ValueError(f"input_shape must be square, got {self.input_shape}")
        sizes = self.anchors_size
        if min(sizes) <= 0 or any(a >= b for a, b in zip(sizes, sizes[1:])):
            raise ValueError(f"anchors_size must be positive and increasing, got {sizes}")
        if min(self.std) <= 0 or min(self.variances) <= 0:
            raise ValueError(f"std and variances must be positive, got {self.std}, {self.variances}")

    @property
    def size(self):
        """Side of the square network input in pixels."""
        return self.input_shape[0]

    @property
    def priors_per_cell(self):
        """Number of priors at each position, one entry a map: s, s', and two for each ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    def to_dict(self):
        """Return the spec as plain types, for checkpoints."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values):
        """Rebuild a spec from `to_dict` or its JSON form; ValueError on unknown fields."""
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"unknown spec fields {sorted(unknown)}; update this repo")
        return cls(**{name: _as_tuple(value) for name, value in values.items()})


def _as_tuple(value):
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value


# What differs from the paper's VGG16 where another backbone sets other feature maps. ResNet50's
# maps have the sizes of VGG16's; MobileNetV2's first is conv 14's, at stride 16.
BACKBONE_SPECS = {
    "vgg": {},
    "resnet50": {},
    "mobilenetv2": {"grids": (19, 10, 5, 3, 2, 1), "steps": (16, 32, 64, 100, 150, 300),
                    "aspect_ratios": ((2, 3),) * 6},
}


def make_spec(backbone, **changes):
    """Return this project's spec for training `backbone`, with fields changed by keyword.

    Raises ValueError for an unknown backbone or an impossible combination.
    """
    if backbone not in BACKBONE_SPECS:
        raise ValueError(f"backbone must be one of {tuple(BACKBONE_SPECS)}, got {backbone!r}")
    return SSDSpec(**{"backbone": backbone, **BACKBONE_SPECS[backbone], **changes})
