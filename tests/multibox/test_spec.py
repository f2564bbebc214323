"""SSDSpec: storage as plain types, and what it refuses."""

import dataclasses
import json
import math

import pytest

from utils.multibox.spec import (
    BOX_CLIPS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PRIOR_CLIPS,
    RESIZES,
    SSDSpec,
)

UNLIKE_DEFAULT = SSDSpec(
    backbone="resnet50", input_shape=(512, 512), grids=(64, 32, 16), steps=None,
    anchors_size=(20.5, 51.2, 133.12, 215.04), aspect_ratios=((2,), (2, 3), ()),
    prior_clip="centre_size", variances=(0.2, 0.3), log_size_clamp=None, box_clip="before_nms",
    mean=IMAGENET_MEAN, std=IMAGENET_STD, resize="pil_bicubic_uint8",
    letterbox=True, letterbox_fill=0, tile=600, l2_eps=1e-6, resnet_pool_padding=0)
SPECS = [SSDSpec(), SSDSpec(grids=(19, 10, 5, 3, 2, 1), steps=None), UNLIKE_DEFAULT]


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


@pytest.mark.parametrize("ratio", [0, -1, math.nan, math.inf, 1e-30, "2", None, True])
def test_ratios_that_make_no_priors(ratio):
    with pytest.raises(ValueError, match="aspect_ratios"):
        SSDSpec(aspect_ratios=((2,), (2, ratio), (2,), (2,), (2,), (2,)))


def test_more_priors_than_memory_holds():
    with pytest.raises(ValueError, match="priors are more than"):
        SSDSpec(input_shape=(4096, 4096), grids=(4096, 19, 10, 5, 3, 1))


@pytest.mark.parametrize("values", [{"grids": [[[1]]]}, {"grids": [1] * 10 ** 5}])
def test_lists_of_a_file_are_not_followed_without_end(values):
    values["grids"].append(values["grids"])
    with pytest.raises(ValueError, match="too long or too deep"):
        SSDSpec.from_dict(values)


def test_specs_stored_before_still_read():
    # Every checkpoint made so far holds both fields.
    stored = {**SSDSpec().to_dict(), "channel_order": "rgb", "resize": "cv2_linear_uint8"}
    before = dict(stored)
    assert SSDSpec.from_dict(stored) == SSDSpec(resize="cv2_linear_uint8") and stored == before
    with pytest.raises(ValueError, match="channel_order"):
        SSDSpec.from_dict({**stored, "channel_order": "bgr"})


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
    ("anchors_size", (math.nan,) * 7),
    ("anchors_size", (30, 60, 111, 162, 213, 264, math.inf)),
    ("anchors_size", (1e-30, 60, 111, 162, 213, 264, 315)),
    ("anchors_size", ("30", 60, 111, 162, 213, 264, 315)),
    ("steps", (0, 16, 32, 64, 100, 300)),
    ("steps", (8, 16, 32, 64, 100, math.inf)),
    ("grids", (38.5, 19, 10, 5, 3, 1)),
    ("grids", (10 ** 9, 19, 10, 5, 3, 1)),
    ("input_shape", (10 ** 9, 10 ** 9)),
    ("input_shape", (True, True)),
    ("mean", (math.nan, 0, 0)),
    ("variances", (math.inf, 1)),
    ("letterbox", "yes"),
    ("letterbox_fill", 256),
    ("resnet_pool_padding", True),
    ("log_size_clamp", math.inf),
    ("l2_eps", math.nan),
    ("backbone", None),
    ("tile", 63),
    ("tile", -600),
    ("tile", 10 ** 9),
    ("tile", 600.0),
    ("tile", True),
    ("tile", None),
])
def test_contradiction_names_field_and_value(name, value):
    with pytest.raises(ValueError) as error:
        SSDSpec(**{name: value})
    # A wrong number of grids shows at whichever list has to agree with it.
    shown = SSDSpec().steps if value == (38, 19) else value
    assert str(shown) in str(error.value) or name == "backbone"
    assert name in str(error.value) or value == (38, 19)


@pytest.mark.parametrize("name, choices", [("prior_clip", PRIOR_CLIPS), ("box_clip", BOX_CLIPS),
                                           ("resize", RESIZES)])
def test_every_choice_is_accepted(name, choices):
    for choice in choices:
        assert getattr(SSDSpec(**{name: choice}), name) == choice
