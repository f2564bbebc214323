"""SSDSpec: every number that trained weights depend on, in one frozen record."""

import dataclasses
import math
from dataclasses import dataclass

PRIOR_CLIPS = ("none", "corners", "centre_size", "size")
BOX_CLIPS = ("none", "before_nms", "after_nms")
RESIZES = ("area_linear_uint8", "cv2_linear_uint8", "cv2_linear_float32", "pil_bicubic_uint8")

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

    # Image to network input.
    mean: tuple[float, float, float] = CAFFE_MEAN
    std: tuple[float, float, float] = CAFFE_STD
    resize: str = "area_linear_uint8"  # see image.resize
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
        for name in ("input_shape", "grids", "steps"):
            if min(getattr(self, name) or (1,)) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name, length in lengths.items():
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name} needs {length} entries, got {getattr(self, name)}")
        for name, choices in (("prior_clip", PRIOR_CLIPS), ("box_clip", BOX_CLIPS),
                              ("resize", RESIZES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.input_shape[0] != self.input_shape[1]:
            raise ValueError(f"input_shape must be square, got {self.input_shape}")
        sizes = self.anchors_size
        if min(sizes) <= 0 or any(a >= b for a, b in zip(sizes, sizes[1:])):
            raise ValueError(f"anchors_size must be positive and increasing, got {sizes}")
        if min(self.std) <= 0 or min(self.variances) <= 0:
            raise ValueError("std and variances must be positive, "
                             f"got {self.std}, {self.variances}")

    @property
    def size(self):
        """Side of the square network input in pixels."""
        return self.input_shape[0]

    @property
    def priors_per_cell(self):
        """Number of priors at each position, one entry a map: s, s', and two for each ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    def summary(self):
        """Return what a person wants to know of the spec, in a line."""
        steps = "division" if self.steps is None else "step"
        mean = ", ".join(f"{value:.6g}" for value in self.mean)
        scale = "" if self.std == (1, 1, 1) else " scaled"
        return (f"{self.backbone}, input {self.size}, {steps} priors clipped {self.prior_clip}, "
                f"RGB - ({mean}){scale}, {self.resize}"
                + (", letterbox" if self.letterbox else ""))

    def to_dict(self):
        """Return the spec as plain types, for checkpoints."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values):
        """Rebuild a spec from `to_dict` or its JSON form; ValueError on unknown fields."""
        values = dict(values)
        # Specs had a channel order once; nothing was ever trained in another than this.
        if values.get("channel_order") == "rgb":
            del values["channel_order"]
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"unknown spec fields {sorted(unknown)}; update this repo")
        return cls(**{name: _as_tuple(value) for name, value in values.items()})


def _as_tuple(value):
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value


# The input sizes that have steps of their own; others use input size / grid. MobileNetV2's first
# map is its layer 13's, at stride 16.
NOMINAL_STEPS = {("vgg", 300): (8, 16, 32, 64, 100, 300),
                 ("resnet50", 300): (8, 16, 32, 64, 100, 300),
                 ("mobilenetv2", 300): (16, 32, 64, 100, 150, 300),
                 ("vgg", 512): (8, 16, 32, 64, 128, 256, 512),
                 ("resnet50", 512): (8, 16, 32, 64, 128, 256, 512)}

# Sides of the priors as parts of the input, by number of maps: SSD300's and SSD512's for VOC, and
# those of models trained on COCO, whose objects are smaller (paper sections 3.1 to 3.4).
VOC_SCALES = {6: (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05),
              7: (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05)}
COCO_SCALES = {6: (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
               7: (0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06)}


def make_spec(backbone, size, grids, *, scales=VOC_SCALES, **changes):
    """Return the paper's spec for a network with these feature maps.

    Args:
        backbone: "vgg", "mobilenetv2" or "resnet50".
        size: side of the square input in pixels.
        grids: sides of the feature maps; nets.ssd.build_spec takes them from the network.
        scales: VOC_SCALES or COCO_SCALES.
        changes: fields of SSDSpec that differ.

    Raises:
        ValueError: an impossible combination.
    """
    maps = len(grids)
    if maps not in scales:
        raise ValueError(f"the paper has sizes for 6 or 7 feature maps, grids has {maps}: {grids}")
    few = backbone != "mobilenetv2"  # the first and the last two maps of VGG16 have ratio 2 only
    ratios = ((2,), *((2, 3),) * (maps - 3), (2,), (2,)) if few else ((2, 3),) * maps
    values = {"backbone": backbone, "input_shape": (size, size), "grids": tuple(grids),
              "steps": NOMINAL_STEPS.get((backbone, size)), "aspect_ratios": ratios,
              "anchors_size": tuple(round(scale * size, 2) for scale in scales[maps])}
    return SSDSpec(**(values | changes))


# What the published implementations do differently from the paper's Caffe code. Their weights
# were trained with these numbers and give their boxes with these numbers only.
FAMILIES = {
    "amdegroot": {"prior_clip": "centre_size", "box_clip": "none", "log_size_clamp": None,
                  "resize": "cv2_linear_uint8"},
    "bubbliiiing": {"steps": None, "prior_clip": "corners", "box_clip": "before_nms",
                    "log_size_clamp": None, "resize": "pil_bicubic_uint8",
                    "mean": (104.0, 117.0, 123.0),  # Caffe's BGR means on RGB: theirs, so ours
                    "resnet_pool_padding": 0},
    "lufficc": {"prior_clip": "centre_size", "box_clip": "none", "log_size_clamp": None,
                "resize": "cv2_linear_uint8"},
    "torchvision": {"prior_clip": "size", "box_clip": "before_nms",
                    "resize": "cv2_linear_float32", "l2_eps": 1e-12,
                    "mean": (0.48235 * 255, 0.45882 * 255, 0.40784 * 255)},
    "ssd_keras": {"box_clip": "none", "log_size_clamp": None, "resize": "cv2_linear_uint8",
                  "l2_eps": 1e-12},
    "chainercv": {"box_clip": "none", "log_size_clamp": None, "resize": "cv2_linear_float32",
                  "l2_eps": 1e-5},
}
