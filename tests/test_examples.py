"""The examples that need packages of their own; tests/nets/test_export.py runs onnx_only.py."""

import json
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.detections import Detections

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))


class BrightObjects:
    """Detects what is bright, in place of a network."""

    def detect(self, frame, *, bgr, confidence):
        _, _, stats, _ = cv2.connectedComponentsWithStats(np.uint8(frame.max(2) > 128))
        left, top, width, height = stats[1:, :4].T
        boxes = np.stack([left, top, left + width, top + height], 1).astype(np.float32)
        return Detections(boxes, np.full(len(boxes), 0.9, np.float32), np.zeros(len(boxes), int),
                          ("square",))


def test_squares_that_cross_a_line_are_counted(tmp_path):
    """Two squares fall across the line, one rises across it, one turns back before it."""
    pytest.importorskip("trackers")
    from count_crossings import count_crossings
    video = str(tmp_path / "squares.avi")
    writer = cv2.VideoWriter(video, cv2.VideoWriter_fourcc(*"MJPG"), 25, (240, 160))
    for k in range(40):
        frame = np.zeros((160, 240, 3), np.uint8)
        heights = (10 + 3 * k, 20 + 3 * k, 140 - 3 * k, 10 + 3 * min(k, 40 - k) // 2)
        for x, y in zip((20, 80, 140, 200), heights):
            frame[y:y + 14, x:x + 14] = 255
        writer.write(frame)
    writer.release()
    counts = count_crossings(BrightObjects(), video, (0, 80, 240, 80))
    assert counts == (1, 2)


@pytest.mark.skipif(os.environ.get("SLOW_TESTS") != "1", reason="slow")
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """Its cells as Jupyter would run them, on fewer drawn images and in two epochs."""
    shown, root = [], Path(__file__).resolve().parent.parent
    display = types.ModuleType("IPython.display")
    display.HTML = display.Image = lambda value: value
    display.display = shown.append
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(root / "examples")
    names = {"__name__": "notebook"}
    for cell in json.loads((root / "examples/own_data.ipynb").read_text("utf-8"))["cells"]:
        source = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
        source = source.replace('"demo', f'"{tmp_path}/demo').replace("--folder demo --images 600",
                                                                      "--folder $WORK --images 60")
        source = source.replace("--epochs 10", "--epochs 2")
        lines = [re.sub(r"^( *)!(.*)", r"\1shell(r'''\2''')", line) for line in source.split("\n")]

        def shell(command):
            for name in ("DATA", "WORK"):
                command = command.replace(f"${name}", str(names.get(name)))
            if "pip install" not in command:
                words = shlex.split(command)
                subprocess.run([sys.executable, *words[1:]], check=True)

        names["shell"] = shell
        exec(compile("\n".join(lines), "cell", "exec"), names)
    assert (tmp_path / "demo/detector.onnx").exists() and len(shown) == 6
