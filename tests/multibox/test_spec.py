"""SSDSpec: storage as plain types, and what it refuses."""

import dataclasses
import json

import pytest

from utils.multibox.spec import IMAGENET_MEAN, IMAGENET_STD, SSDSpec

UNLIKE_DEFAULT = SSDSpec(
    backbone="resnet50", input_shape=(512, 512), grids=(64, 32, 16), steps=None,
    anchors_size=(20.5, 51.2, 133.12, 215.04), aspect_ratios=((2,), (2, 3), ()),
    prior_clip="centre_size", variances=(0.2, 0.3), log_size_clamp=None, box_clip="before_nms",
    mean=IMAGENET_MEAN, std=IMAGENET_STD, resize="pil_bicubic_uint8",
    letterbox=True, letterbox_fill=0, tile=600, l2_eps=1e-6, reduced_tail=False,
    resnet_pool_padding=0)
SPECS = [SSDSpec(), SSDSpec(grids=(19, 10, 5, 3, 2, 1), steps=None), UNLIKE_DEFAULT]


def test_the_unlike_spec_changes_every_field():
    default = SSDSpec()
    assert [field.name for field in dataclasses.fields(SSDSpec)
            if getattr(UNLIKE_DEFAULT, field.name) == getattr(default, field.name)] == []


@pytest.mark.parametrize("spec", SPECS)
def test_json_round_trip(spec):
    again = SSDSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    # JSON turns tuples into lists, which are unhashable and would let a frozen spec change.
    assert hash(again) == hash(spec)


def test_unknown_field_is_refused():
    with pytest.raises(TypeError, match="anchor_sizes"):
        SSDSpec.from_dict({**SSDSpec().to_dict(), "anchor_sizes": [1, 2]})


@pytest.mark.parametrize("name, value", [
    ("grids", (38, 19)), ("steps", (8, 16)), ("anchors_size", (30, 60, 111, 162, 213, 264)),
    ("anchors_size", (30, 60, 111, 162, 213, 264, 200)),
    ("anchors_size", (0, 60, 111, 162, 213, 264, 315)), ("aspect_ratios", ((2,), (2, 3))),
    ("aspect_ratios", ((2,), (2, 0), (2,), (2,), (2,), (2,))), ("input_shape", (300, 512)),
    ("prior_clip", "corner"), ("box_clip", "after"), ("resize", "cv2_area"), ("tile", 63)])
def test_contradictions_name_the_field(name, value):
    with pytest.raises(ValueError, match="anchors_size" if name == "grids" else name):
        SSDSpec(**{name: value})
