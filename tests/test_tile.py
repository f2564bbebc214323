"""Tiled inference, wherever weights are used beside training and detection."""

import numpy as np
import pytest
from exported import NAMES, TinyNet, unsaturated
from tiny_detector import photo

from nets.runtimes.inspect import heat_map, measure_speed
from ssd import SSD, SSDSettings
from utils.cli import UserError
from utils.multibox.postprocess import Thresholds

TILE = 100


@pytest.fixture(scope="module")
def detector():
    """A small detector of tiles."""
    network = unsaturated(TinyNet(tile=TILE), offsets=2.0)
    return SSD(SSDSettings(device="cpu", precision="fp32", confidence=0.6), network=network,
               class_names=NAMES)


def test_the_speed_is_that_of_tiles_and_heat_maps_are_refused(detector, tmp_path, monkeypatch):
    monkeypatch.setattr("nets.runtimes.inspect.FPS_IMAGES", 2)
    path = photo(tmp_path / "a.png", size=(260, 180))
    assert len(measure_speed(detector.runtime, path, (1, 2), Thresholds())) > 100
    with pytest.raises(UserError, match=f"tile = {TILE}"):
        heat_map(detector.runtime, np.zeros((50, 60, 3), np.uint8))
