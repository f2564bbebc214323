"""The page of what to label next."""

import re

import numpy as np
import pytest
from tiny_detector import NAMES, photo, tiny_detector

from utils.detections import Detections
from utils.media.outputs import rate, write_ranking

BOX = np.array([[10, 20, 30, 60]])


def found(*rows):
    """Return Detections of (score, label, how far to the right)."""
    scores, labels, shifts = np.array(rows).reshape(-1, 3).T
    boxes = (BOX + shifts[:, None] * (1, 0, 1, 0)).astype(np.float32)
    return Detections(boxes, scores.astype(np.float32), labels.astype(int), NAMES)


# In the mirror image, 100 pixels wide, the box 10..30 is at 70..90.
@pytest.mark.parametrize("plain, mirrored, nearness, dissent", [
    ([], [], 0, 0), ([(0.5, 0, 0)], [(0.5, 0, 60)], 1, 0), ([(1, 0, 0)], [(1, 0, 60)], 0, 0),
    ([(1, 0, 0)], [], 0, 1), ([], [(1, 0, 60)], 0, 1), ([(1, 0, 0)], [(1, 0, 0)], 0, 1),
    ([(1, 0, 0)], [(1, 1, 60)], 0, 1), ([(0.75, 0, 0)], [(0.9, 0, 62)], 0.5, 0),
    ([(0.4, 0, 0)], [(0.4, 0, 0)], 0.8, 0), ([(1, 0, 0), (1, 0, 30)], [(1, 0, 60)], 0, 1 / 3)])
def test_a_label_teaches_where_scores_or_views_are_undecided(plain, mirrored, nearness, dissent):
    parts = rate(found(*plain), found(*mirrored), 100, 0.5)
    assert parts == pytest.approx((nearness, dissent), abs=1e-6)


def test_the_best_come_first_and_broken_images_cost_a_line(tmp_path, capsys):
    paths = [photo(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abc")]
    paths[1].write_bytes(b"no image")
    write_ranking(tmp_path / "page.html", paths, tiny_detector(confidence=0.4))
    page = (tmp_path / "page.html").read_text()
    captions = re.findall(r"<figcaption>(\w).png: scores ([\d.]+), mirror image ([\d.]+)", page)
    sums = [float(nearness) + float(dissent) for _, nearness, dissent in captions]
    assert sorted(name for name, *_ in captions) == ["a", "c"] and sums[0] >= sums[1]
    assert "b.png" in capsys.readouterr().out
