"""The network and its pre- and post-processing against numbers of published implementations.

The archives in tests/fixtures were recorded by running those implementations; only sampled rows
are kept. Tolerances: a hundredth of a pixel value for the input, 1e-3 for raw outputs.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from parity import fill_state_dict, fixture_image, fixture_keys

from ssd import SSD, SSDSettings
from utils.image import resize_to_input
from utils.multibox.boxes import to_xyxy

FOLDER = Path(__file__).parents[1] / "fixtures"
NAMES = ["amdegroot", "bubbliiiing-vgg", "bubbliiiing-mobilenetv2", "bubbliiiing-resnet50",
         "lufficc-300", "lufficc-512", "torchvision"]


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory):
    """(fixture archive, detector read from a file with that implementation's own names)."""
    fixture = np.load(FOLDER / f"{request.param}.npz")
    path = tmp_path_factory.mktemp("weights") / "file.pth"
    state = fill_state_dict(fixture_keys(fixture), int(fixture["seed"]))
    torch.save({"model": state} if request.param == "lufficc-512" else state, path)
    settings = SSDSettings(device="cpu", precision="fp32", confidence=float(fixture["confidence"]),
                           nms_iou=float(fixture["nms_iou"]), model_path=str(path))
    yield fixture, SSD(settings)
    path.unlink()


def network_input(detector):
    return torch.from_numpy(resize_to_input(fixture_image(), detector.spec)).permute(2, 0, 1)[None]


def test_priors(case):
    fixture, detector = case
    priors = to_xyxy(detector.network.coder.priors).numpy()
    assert len(priors) == fixture["num_priors"]
    np.testing.assert_allclose(priors[fixture["rows"]], fixture["priors_xyxy"], atol=1e-6)


def test_network_input(case):
    fixture, detector = case
    x = detector.network.normalise(network_input(detector))
    pixels = x.contiguous().numpy().reshape(-1)[fixture["pixels"]]
    np.testing.assert_allclose(pixels, fixture["x"], atol=0.01)


def test_raw_outputs(case):
    fixture, detector = case
    with torch.no_grad():
        loc, conf = detector.network(network_input(detector))
    np.testing.assert_allclose(loc[0].numpy()[fixture["rows"]], fixture["loc"], atol=1e-3)
    np.testing.assert_allclose(conf[0].numpy()[fixture["rows"]], fixture["conf"], atol=1e-3)


def test_detections(case):
    fixture, detector = case
    found = detector.detect_batch([fixture_image()], max_per_class=0, max_per_image=0)[0]
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
