"""The table of backbones: the paper's numbers. tests/tiny_train.py trains one more entry."""

import pytest

from nets.ssd import build_spec
from utils.multibox.spec import CAFFE_MEAN, COCO_SCALES, VOC_SCALES, SSDSpec

VGG_GRIDS, MOBILE_GRIDS = (38, 19, 10, 5, 3, 1), (19, 10, 5, 3, 2, 1)
GRIDS_512 = (64, 32, 16, 8, 4, 2, 1)


@pytest.mark.parametrize("backbone, size, grids, steps, per_cell", [
    ("vgg", 300, VGG_GRIDS, (8, 16, 32, 64, 100, 300), (4, 6, 6, 6, 4, 4)),
    ("resnet50", 300, VGG_GRIDS, (8, 16, 32, 64, 100, 300), (4, 6, 6, 6, 4, 4)),
    ("mobilenetv2", 300, MOBILE_GRIDS, (16, 32, 64, 100, 150, 300), (6,) * 6),
    ("vgg", 512, GRIDS_512, (8, 16, 32, 64, 128, 256, 512), (4, 6, 6, 6, 6, 4, 4)),
    ("resnet50", 512, GRIDS_512, (8, 16, 32, 64, 128, 256, 512), (4, 6, 6, 6, 6, 4, 4)),
    ("vgg", 320, (40, 20, 10, 5, 3, 1), None, (4, 6, 6, 6, 4, 4)),
    ("mobilenetv3", 320, (20, 10, 5, 3, 2, 1), None, (6,) * 6),
    ("mobilenetv3", 300, MOBILE_GRIDS, None, (6,) * 6),
    ("mobilenetv3", 512, (32, 16, 8, 4, 2, 1), None, (6,) * 6),
])
def test_spec_per_backbone_and_size(backbone, size, grids, steps, per_cell):
    spec = build_spec(backbone, size)
    assert (spec.backbone, spec.size, spec.grids, spec.steps) == (backbone, size, grids, steps)
    assert spec.priors_per_cell == per_cell
    assert (spec.mean, spec.prior_clip) == (((127.5,) * 3, "size") if backbone == "mobilenetv3"
                                            else (CAFFE_MEAN, "none"))


def test_the_papers_spec_is_the_default():
    assert build_spec("vgg", 300) == SSDSpec()


# min_size and the last max_size in the prototxt files of Caffe's published models.
@pytest.mark.parametrize("size, scales, anchors_size", [
    (300, VOC_SCALES, (30, 60, 111, 162, 213, 264, 315)),
    (300, COCO_SCALES, (21, 45, 99, 153, 207, 261, 315)),
    (512, VOC_SCALES, (35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6)),
    (512, COCO_SCALES, (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)),
])
def test_sizes_are_those_published(size, scales, anchors_size):
    assert build_spec("vgg", size, scales=scales).anchors_size == anchors_size


@pytest.mark.parametrize("size", [-1, 0, 20, 200])
def test_sizes_that_leave_a_layer_without_input_are_refused(size):
    with pytest.raises(ValueError, match="too small"):
        build_spec("vgg", size)
