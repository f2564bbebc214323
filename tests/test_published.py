"""The network and its pre- and post-processing against numbers of published implementations.

The archives in tests/fixtures were recorded by running those implementations; only sampled rows
are kept. Tolerances: a hundredth of a grey level for the input, 1e-3 for raw outputs.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fill_state_dict, fixture_keys, fixture_picture

from nets.ssd import SSDNet
from ssd import SSD, SSDSettings
from utils.boxes import to_xyxy
from utils.image import normalise, resize_to_input, stack_inputs
from utils.spec import make_spec

FOLDER = Path(__file__).parent / "fixtures"
BUBBLIIIING = {"steps": None, "prior_clip": "corners", "box_clip": "before_nms",
               "mean": (104.0, 117.0, 123.0), "resize": "pil_bicubic_uint8",
               "log_size_clamp": None}
SPECS = {"amdegroot": make_spec("vgg", prior_clip="centre_size", box_clip="none"),
         "bubbliiiing-vgg": make_spec("vgg", **BUBBLIIIING),
         "bubbliiiing-mobilenetv2": make_spec("mobilenetv2", **BUBBLIIIING),
         "bubbliiiing-resnet50": make_spec("resnet50", resnet_pool_padding=0, **BUBBLIIIING)}


@pytest.fixture(scope="module", params=SPECS)
def case(request):
    """(fixture archive, detector filled by the fixture's rule)."""
    fixture = np.load(FOLDER / f"{request.param}.npz")
    network = SSDNet(21, SPECS[request.param])
    network.load_state_dict(fill_state_dict(fixture_keys(fixture), int(fixture["seed"])))
    names = [f"class {k}" for k in range(20)]
    settings = SSDSettings(device="cpu", confidence=float(fixture["confidence"]),
                           nms_iou=float(fixture["nms_iou"]))
    return fixture, SSD(settings, network=network, class_names=names)


def network_input(detector):
    return normalise(stack_inputs([resize_to_input(fixture_picture(), detector.spec)]),
                     detector.spec)


def test_priors(case):
    fixture, detector = case
    priors = to_xyxy(detector.network.priors).numpy()
    assert len(priors) == fixture["num_priors"]
    np.testing.assert_allclose(priors[fixture["rows"]], fixture["priors_xyxy"], atol=1e-6)


def test_network_input(case):
    fixture, detector = case
    pixels = network_input(detector).contiguous().numpy().reshape(-1)[fixture["pixels"]]
    np.testing.assert_allclose(pixels, fixture["x"], atol=0.01)


def test_raw_outputs(case):
    fixture, detector = case
    with torch.no_grad():
        loc, conf = detector.network(network_input(detector))
    np.testing.assert_allclose(loc[0].numpy()[fixture["rows"]], fixture["loc"], atol=1e-3)
    np.testing.assert_allclose(conf[0].numpy()[fixture["rows"]], fixture["conf"], atol=1e-3)


def test_detections(case):
    fixture, detector = case
    found = detector.detect_batch([fixture_picture()], max_per_class=0, max_per_image=0)[0]
    expected = fixture["detections"]
    assert len(found.scores) == len(expected)
    unmatched = list(range(len(expected)))
    for box, score, label in zip(*found):
        distance = {k: np.abs(expected[k, :4] - box).max() for k in unmatched
                    if expected[k, 5] == label}
        nearest = min(distance, key=distance.get)
        unmatched.remove(nearest)
        longer = max(expected[nearest, 2:4] - expected[nearest, :2])
        assert distance[nearest] <= 0.1 + 2e-4 * longer
        assert abs(expected[nearest, 4] - score) <= 1e-4
    assert not unmatched
