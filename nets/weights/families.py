"""The code bases whose weights are read: how their tensors are renamed, and their numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from nets.backbones import TORCHVISION_FILES, rename
from utils.coco_ids import COCO_GAPS
from utils.detections import Detections

# Caffe's names of the convolutions in our VGG16, by their index there.
VGG_LAYERS = {"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12,
              "conv3_3": 14, "conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 24,
              "conv5_2": 26, "conv5_3": 28, "fc6": 31, "fc7": 33}
# The layers with heads in Caffe; SSD300 has no conv10_2.
CAFFE_MAPS = ("conv4_3_norm", "fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2", "conv10_2")

# What these values of model_path download: torchvision's COCO_V1 of both networks.
COCO_DETECTORS = {
    "coco": f"{TORCHVISION_FILES}/ssd300_vgg16_coco-b556d3b4.pth",
    "coco-light": f"{TORCHVISION_FILES}/ssdlite320_mobilenet_v3_large_coco-a79551df.pth"}
_COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote",
    "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush")

_names = iter(_COCO)
# Class names by their count, without background. Of COCO's 90 numbers 10 are unused.
PUBLISHED_NAMES = {
    20: ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
         "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
         "train", "tvmonitor"),
    80: _COCO,
    90: tuple(f"N/A {number}" if number in COCO_GAPS else next(_names) for number in range(1, 91)),
}


def names_without_gaps(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return COCO's 80 class names for its 90 numbers, others as they are."""
    return _COCO if tuple(class_names) == PUBLISHED_NAMES[90] else tuple(class_names)


def without_gaps(detections: Detections) -> Detections:
    """Return detections of COCO's 90 numbers as those of its 80 classes, others as they are."""
    if detections.class_names != PUBLISHED_NAMES[90]:
        return detections
    indices = [_COCO.index(name) if name in _COCO else -1 for name in detections.class_names]
    labels = np.array(indices)[detections.labels]
    return replace(detections[labels >= 0], labels=labels[labels >= 0], class_names=_COCO)


@dataclass(frozen=True)
class Family:
    """A code base whose weights are read."""

    signature: str  # pattern of a tensor name that its files hold
    read: Callable[[dict], dict]  # file contents -> our tensor names
    preset: Mapping  # fields of SSDSpec that differ from the paper's
    uses_coco_sizes: Callable[[int], bool] = lambda classes: classes == 80  # without background
    order: tuple[str, ...] = ()  # of its modules, where another family has the same names
    sizes: Mapping = field(default_factory=dict)  # (input size, COCO's?) -> anchors_size, if odd


# Many number the layers of all extra blocks through.
EXTRAS = (*((rf"(?:backbone\.)?extras\.{k}\.(\w+)", rf"extras.{k // 2}.{k % 2 * 2}.\1")
            for k in range(12)), (r"extras\.(\d+)\.(conv\..*)", r"extras.\1.0.\2"))
AMDEGROOT = (*EXTRAS, ("(.*)", r"\1"))

LUFFICC = (*EXTRAS, (r"backbone\.(vgg\..*)", r"\1"),
           (r"backbone\.l2_norm\.weight", "L2Norm.weight"),
           (r"box_head\.predictor\.cls_headers\.(.*)", r"conf.\1"),
           (r"box_head\.predictor\.reg_headers\.(.*)", r"loc.\1"), ("(.*)", r"\1"))

# conv5, fc6 and fc7 are the first block of SSD300's extra layers. SSDLite's come last.
TORCHVISION = ((r"backbone\.features\.(\d+\.\w+)", r"vgg.\1"),
               (r"backbone\.scale_weight", "L2Norm.weight"),
               *((rf"backbone\.extra\.0\.{block}\.(\w+)", rf"vgg.{layer}.\1") for block, layer in
                 ((1, 24), (3, 26), (5, 28), (r"7\.1", 31), (r"7\.3", 33))),
               *((rf"backbone\.extra\.{k + 1}\.(\d\.\w+)", rf"extras.{k}.\1") for k in range(4)),
               (r"backbone\.features\.(.*)", r"mobilenetv3.\1"),
               (r"backbone\.extra\.(.*)", r"extras.\1"),
               (r"head\.classification_head\.module_list\.(.*)", r"conf.\1"),
               (r"head\.regression_head\.module_list\.(.*)", r"loc.\1"), ("(.*)", r"\1"))


def _caffe_modules(first_extra):
    """Return {name of a layer: our module}; the extra layers begin with conv<first_extra>_1."""
    vgg = {layer: f"vgg.{index}" for layer, index in VGG_LAYERS.items()}
    return vgg | {f"conv{first_extra + k}_{half + 1}": f"extras.{k}.{2 * half}"
                  for k in range(6) for half in range(2)}


def read_ssd_keras(tensors: dict) -> dict:
    """Rename pierluigiferrari/ssd_keras: Caffe's layers, HWIO kernels, a first layer for BGR."""
    modules = {rf"{layer}_mbox_{head}\w*": f"{head}.{k}" for head in ("loc", "conf")
               for k, layer in enumerate(CAFFE_MAPS)}
    modules |= _caffe_modules(first_extra=6) | {"conv4_3_norm": "L2Norm"}
    state = rename(tensors, [(rf"{layer}/(?:.*/)?\w*{pattern}(?::0)?", f"{module}.{kind}")
                             for layer, module in modules.items()
                             for pattern, kind in (("(?:bias|_b)", "bias"), ("", "weight"))])
    state = {name: value.permute(3, 2, 0, 1) if value.ndim == 4 else value
             for name, value in state.items()}
    return state | {"vgg.0.weight": state["vgg.0.weight"].flip(1)}


def read_chainercv(tensors: dict) -> dict:
    """Rename ChainerCV's SSD300 and SSD512: slashes, W and b, and loc as (dy, dx, dh, dw)."""
    modules = {f"multibox/{head}/{k}": f"{head}.{k}" for head in ("loc", "conf") for k in range(7)}
    modules |= _caffe_modules(first_extra=8) | {"norm4": "L2Norm", "conv6": "vgg.31",
                                                "conv7": "vgg.33"}
    state = rename(tensors, [(rf"(?:.*/)?{layer}/{pattern}", f"{module}.{kind}")
                             for layer, module in modules.items()
                             for pattern, kind in (("(?:W|scale)", "weight"), ("b", "bias"))])
    return {name: value.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)
            if name.startswith("loc.") else value for name, value in state.items()}


# Most follow Caffe's SSD in these.
CAFFE = {"box_clip": "none", "log_size_clamp": None, "resize": "cv2_linear_uint8"}
FAMILIES = {
    "amdegroot": Family(
        r"vgg\.0\.weight", partial(rename, rules=AMDEGROOT), CAFFE | {"prior_clip": "centre_size"},
        # Its code takes COCO's sizes for any number of classes but VOC's.
        uses_coco_sizes=lambda classes: classes != 20,
        order=("vgg", "L2Norm", "extras", "loc", "conf")),
    "bubbliiiing": Family(
        r"(vgg\.0|mobilenet\.0\.0|resnet\.0)\.weight", partial(rename, rules=AMDEGROOT),
        {"steps": None, "prior_clip": "corners", "box_clip": "before_nms", "log_size_clamp": None,
         "resize": "pil_bicubic_uint8", "resnet_pool_padding": 0,
         "mean": (104.0, 117.0, 123.0)},  # Caffe's BGR means on RGB, as they do it
        uses_coco_sizes=lambda classes: False,
        order=("vgg", "extras", "L2Norm", "loc", "conf")),
    "lufficc": Family(
        r"backbone\.vgg\.0\.weight", partial(rename, rules=LUFFICC),
        CAFFE | {"prior_clip": "centre_size"},
        # Their configuration file says 537.65 where 1.05 x 512 is 537.6.
        sizes={(512, False): (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.65)}),
    "torchvision": Family(
        r"head\.classification_head\.module_list\.0\.(1\.)?weight",
        partial(rename, rules=TORCHVISION),
        {"prior_clip": "size", "box_clip": "before_nms", "resize": "cv2_linear_float32",
         "l2_eps": 1e-12},  # its mean differs from Caffe's by less than 0.001
        uses_coco_sizes=lambda classes: True),
    "ssd_keras": Family(
        r"conv4_3_norm_mbox_conf\w*/.*", read_ssd_keras, CAFFE | {"l2_eps": 1e-12}),
    "chainercv": Family(
        r"multibox/conf/0/W", read_chainercv,
        CAFFE | {"resize": "cv2_linear_float32", "l2_eps": 1e-5}),
}
