"""Tiled inference, wherever weights are used beside training and detection."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from exported import NAMES, TinyNet, unsaturated

import get_map
import predict
from nets.runtimes.inspect import heat_map, measure_speed
from ssd import SSD, SSDSettings
from utils.cli import UserError
from utils.data.annotations import Record, list_text, read_list
from utils.multibox.postprocess import Thresholds

TILE = 100


@pytest.fixture(scope="module")
def detector():
    """A detector that exports in a second."""
    network = unsaturated(TinyNet(tile=TILE), offsets=2.0)
    return SSD(SSDSettings(device="cpu", precision="fp32", confidence=0.6), network=network,
               class_names=NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, detector):
    """A folder of images of several windows, and a list of its detections."""
    folder, records = tmp_path_factory.mktemp("tile"), []
    for k in range(3):
        levels = np.random.default_rng(k).uniform(0, 255, (15, 20 + k, 3))
        cv2.imwrite(str(folder / f"{k}.png"), cv2.resize(levels, (260 + 40 * k, 180)))
        detections = detector.detect(folder / f"{k}.png")
        large = (detections.boxes[:, 2:] - detections.boxes[:, :2]).min(1) > 5
        records.append(Record(folder / f"{k}.png", detections.boxes[large],
                              detections.labels[large], np.zeros(large.sum(), bool)))
    (folder / "list.txt").write_text(list_text(records, NAMES))
    return folder


def test_an_exported_detector_looks_at_the_same_windows(detector, folder, tmp_path, capsys):
    """In predict.py and get_map.py, whose other detections are those of the checkpoint."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    path, out = str(tmp_path / "a.onnx"), tmp_path / "out"
    detector.export(path)
    predict.main(predict.PredictSettings(
        images=(str(folder / "0.png"),), model_path=path, precision="fp32", confidence=0.6,
        dir_save_path=str(out), save_json=True, show=False))
    objects = json.loads((out / "0.png.json").read_text())["objects"]
    wanted = detector.detect(folder / "0.png")
    assert len(wanted) > 5 and [row["label"] for row in objects] == wanted.labels.tolist()
    np.testing.assert_allclose([[row[edge] for edge in ("x1", "y1", "x2", "y2")]
                                for row in objects], wanted.boxes, atol=0.02)
    get_map.main(get_map.MapSettings(model_path=path, test_list=str(folder / "list.txt"),
                                     map_out_path=str(tmp_path / "map")))
    rows = json.loads((tmp_path / "map" / "detections.json").read_text())
    results = detector.detect_records(read_list(folder / "list.txt")[0])
    np.testing.assert_allclose(sorted(row["score"] for row in rows),
                               np.sort(np.concatenate([one.scores for one in results])), atol=1e-4)


def test_int8_is_calibrated_on_windows(detector, folder, monkeypatch, tmp_path):
    pytest.importorskip("onnxscript")
    seen = []

    def quantise(source, inputs, **_):
        seen.extend(inputs)
        raise UserError("enough")

    monkeypatch.setattr("ssd.quantise", quantise)
    lists = {name: str(folder / "list.txt") for name in ("train_list", "val_list")}
    with pytest.raises(UserError, match="enough"):
        detector.export(tmp_path / "a.onnx", precision="int8", **lists)
    assert len(seen) == 3
    side = detector.spec.size
    for k, window in enumerate(seen):  # somewhere in its image, in the scale of windows
        image = cv2.imread(str(folder / f"{k}.png"))[..., ::-1]
        scaled = cv2.resize(image, None, fx=side / TILE, fy=side / TILE,
                            interpolation=cv2.INTER_AREA)
        assert cv2.matchTemplate(scaled, window, cv2.TM_CCOEFF_NORMED).max() > 0.98
        squeezed = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        assert cv2.matchTemplate(squeezed, window, cv2.TM_CCOEFF_NORMED).max() < 0.9


def test_the_speed_is_that_of_tiles_and_heat_maps_are_refused(detector, folder, monkeypatch):
    monkeypatch.setattr("nets.runtimes.inspect.FPS_IMAGES", 2)
    assert len(measure_speed(detector.runtime, folder / "0.png", (1, 2), Thresholds())) > 100
    with pytest.raises(UserError, match=f"tile = {TILE}"):
        heat_map(detector.runtime, np.zeros((50, 60, 3), np.uint8))


def test_soft_nms_is_refused_before_anything_is_read(detector):
    for call in (lambda: SSD(replace(detector.settings, nms="soft"), network=detector.network,
                             class_names=NAMES),
                 lambda: detector.detect_batch([np.zeros((9, 9, 3), np.uint8)], nms="soft")):
        with pytest.raises(UserError, match=r'nms = "soft" .*tile = 100\); take "class"'):
            call()
