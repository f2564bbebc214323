"""SSDSpec: storage as plain types, and what it refuses."""

import dataclasses
import json

import pytest

from utils.spec import (
    BOX_CLIPS,
    CAFFE_MEAN,
    COCO_SCALES,
    FAMILIES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PRIOR_CLIPS,
    RESIZES,
    VOC_SCALES,
    SSDSpec,
    make_spec,
)

VGG_GRIDS, MOBILE_GRIDS = (38, 19, 10, 5, 3, 1), (19, 10, 5, 3, 2, 1)
GRIDS_512 = (64, 32, 16, 8, 4, 2, 1)

UNLIKE_DEFAULT = SSDSpec(
    backbone="resnet50", input_shape=(512, 512), grids=(64, 32, 16), steps=None,
    anchors_size=(20.5, 51.2, 133.12, 215.04), aspect_ratios=((2,), (2, 3), ()),
    prior_clip="centre_size", variances=(0.2, 0.3), log_size_clamp=None, box_clip="before_nms",
    mean=IMAGENET_MEAN, std=IMAGENET_STD, resize="pil_bicubic_uint8",
    letterbox=True, letterbox_fill=0, l2_eps=1e-6, resnet_pool_padding=0)
SPECS = [SSDSpec(), make_spec("mobilenetv2", 300, MOBILE_GRIDS), UNLIKE_DEFAULT]


def test_the_unlike_spec_changes_every_field():
    default = SSDSpec()
    assert [field.name for field in dataclasses.fields(SSDSpec)
            if getattr(UNLIKE_DEFAULT, field.name) == getattr(default, field.name)] == []


@pytest.mark.parametrize("spec", SPECS)
def test_dict_round_trip(spec):
    assert SSDSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("spec", SPECS)
def test_json_round_trip(spec):
    again = SSDSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    # JSON turns tuples into lists, which are unhashable and would let a frozen spec change.
    assert hash(again) == hash(spec)


def test_missing_fields_take_the_defaults():
    assert SSDSpec.from_dict({"letterbox": True}) == SSDSpec(letterbox=True)


def test_unknown_field_is_refused():
    with pytest.raises(ValueError, match="anchor_sizes"):
        SSDSpec.from_dict({**SSDSpec().to_dict(), "anchor_sizes": [1, 2]})


def test_specs_stored_before_still_read():
    # Every checkpoint made so far holds both fields.
    stored = {**SSDSpec().to_dict(), "channel_order": "rgb", "resize": "cv2_linear_uint8"}
    before = dict(stored)
    assert SSDSpec.from_dict(stored) == SSDSpec(resize="cv2_linear_uint8") and stored == before
    with pytest.raises(ValueError, match="channel_order"):
        SSDSpec.from_dict({**stored, "channel_order": "bgr"})


def test_what_is_trained_now_is_antialiased_and_what_was_published_is_not():
    assert SSDSpec().resize == "area_linear_uint8"
    assert all("resize" in changes for changes in FAMILIES.values())


def test_spec_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SSDSpec().letterbox = True


@pytest.mark.parametrize("name, value", [
    ("grids", (38, 19)),
    ("steps", (8, 16)),
    ("anchors_size", (30, 60, 111, 162, 213, 264)),
    ("anchors_size", (30, 60, 111, 162, 213, 264, 200)),
    ("anchors_size", (30, 30, 111, 162, 213, 264, 315)),
    ("anchors_size", (0, 60, 111, 162, 213, 264, 315)),
    ("aspect_ratios", ((2,), (2, 3))),
    ("variances", (0.1, 0.1, 0.2, 0.2)),
    ("variances", (0.1, 0)),
    ("mean", (127.5,)),
    ("std", (1.0, 1.0)),
    ("std", (1.0, 0.0, 1.0)),
    ("input_shape", (300,)),
    ("input_shape", (300, 512)),
    ("prior_clip", "corner"),
    ("box_clip", "after"),
    ("resize", "cv2_area"),
])
def test_contradiction_names_field_and_value(name, value):
    with pytest.raises(ValueError) as error:
        SSDSpec(**{name: value})
    # A wrong number of grids shows at whichever list has to agree with it.
    shown = SSDSpec().aspect_ratios if name == "grids" else value
    assert str(shown) in str(error.value)
    assert name in str(error.value) or name == "grids"


@pytest.mark.parametrize("name, choices", [("prior_clip", PRIOR_CLIPS), ("box_clip", BOX_CLIPS),
                                           ("resize", RESIZES)])
def test_every_choice_is_accepted(name, choices):
    for choice in choices:
        assert getattr(SSDSpec(**{name: choice}), name) == choice


@pytest.mark.parametrize("backbone, size, grids, steps, per_cell", [
    ("vgg", 300, VGG_GRIDS, (8, 16, 32, 64, 100, 300), (4, 6, 6, 6, 4, 4)),
    ("resnet50", 300, VGG_GRIDS, (8, 16, 32, 64, 100, 300), (4, 6, 6, 6, 4, 4)),
    ("mobilenetv2", 300, MOBILE_GRIDS, (16, 32, 64, 100, 150, 300), (6,) * 6),
    ("vgg", 512, GRIDS_512, (8, 16, 32, 64, 128, 256, 512), (4, 6, 6, 6, 6, 4, 4)),
    ("resnet50", 512, GRIDS_512, (8, 16, 32, 64, 128, 256, 512), (4, 6, 6, 6, 6, 4, 4)),
    ("vgg", 320, (40, 20, 10, 5, 3, 1), None, (4, 6, 6, 6, 4, 4)),
])
def test_make_spec_per_backbone_and_size(backbone, size, grids, steps, per_cell):
    spec = make_spec(backbone, size, grids)
    assert (spec.backbone, spec.size, spec.grids, spec.steps) == (backbone, size, grids, steps)
    assert spec.priors_per_cell == per_cell
    assert (spec.mean, spec.prior_clip) == (CAFFE_MEAN, "none")


def test_make_spec_of_the_paper_is_the_default():
    assert make_spec("vgg", 300, VGG_GRIDS) == SSDSpec()


# min_size and the last max_size in the prototxt files of Caffe's published models.
@pytest.mark.parametrize("size, grids, scales, anchors_size", [
    (300, VGG_GRIDS, VOC_SCALES, (30, 60, 111, 162, 213, 264, 315)),
    (300, VGG_GRIDS, COCO_SCALES, (21, 45, 99, 153, 207, 261, 315)),
    (512, GRIDS_512, VOC_SCALES, (35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6)),
    (512, GRIDS_512, COCO_SCALES, (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)),
])
def test_sizes_are_those_published(size, grids, scales, anchors_size):
    assert make_spec("vgg", size, grids, scales=scales).anchors_size == anchors_size


def test_make_spec_takes_changes():
    assert make_spec("mobilenetv2", 300, MOBILE_GRIDS, letterbox=True).letterbox
    assert make_spec("vgg", 300, VGG_GRIDS, steps=None).steps is None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_a_spec(family):
    spec = make_spec("vgg", 300, VGG_GRIDS, **FAMILIES[family])
    assert spec == SSDSpec(**FAMILIES[family]) != SSDSpec()


def test_make_spec_checks_the_changes():
    with pytest.raises(ValueError, match="anchors_size"):
        make_spec("vgg", 300, VGG_GRIDS, anchors_size=(30, 60))
