"""Tiled inference, wherever weights are used beside training and detection."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from exported import NAMES, TinyNet, unsaturated

from nets.runtimes.inspect import HEAT_SIDE, heat_map
from ssd import SSD, SSDSettings
from utils.cli import UserError

TILE = 100


@pytest.fixture(scope="module")
def detector():
    """A small detector of tiles."""
    network = unsaturated(TinyNet(tile=TILE), offsets=2.0)
    return SSD(SSDSettings(device="cpu", precision="fp32", confidence=0.6), network=network,
               class_names=NAMES)


@pytest.mark.parametrize("size", [(260, 180), (2500, 90), (70, 50)])
def test_a_heat_map_is_that_of_the_windows(detector, size):
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8), size)
    heat = heat_map(detector.runtime, image)
    scale = min(detector.spec.size / TILE, HEAT_SIDE / max(size))
    assert heat.shape == (3, round(size[1] * scale), round(size[0] * scale))
    assert 0.3 < heat.max() <= 1 and heat.max((0,)).min() > 0, "every place is in a window"
    best = detector.detect_batch([image], confidence=0.0, max_per_image=0)[0]
    assert heat.max() == pytest.approx(best.scores.max(), abs=0.1)


def test_soft_nms_is_refused_before_anything_is_read(detector):
    for call in (lambda: SSD(replace(detector.settings, nms="soft"), network=detector.network,
                             class_names=NAMES),
                 lambda: detector.detect_batch([np.zeros((9, 9, 3), np.uint8)], nms="soft")):
        with pytest.raises(UserError, match=r'nms = "soft" .*tile = 100\); take "class"'):
            call()
