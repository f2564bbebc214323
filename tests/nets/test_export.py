"""Exported files against PyTorch and against NMS by hand; what is refused."""

import importlib.util
import json
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from export_matrix import check, run
from exported import NAMES, TinyNet, images, unmatched, unsaturated

from nets.runtimes.export import export
from nets.runtimes.onnx import OUTPUT_NAMES, open_exported
from ssd import SSD, SSDSettings
from utils.cli import ROOT, UserError
from utils.data.annotations import Record, list_text

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
RUNTIMES = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name)]
LIMITS = {"confidence": 0.2, "nms_iou": 0.45, "max_per_class": 400, "max_per_image": 200}


def tiny(**changes):
    torch.manual_seed(0)
    return unsaturated(TinyNet(**changes), offsets=2.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return {outputs: path} of one network."""
    folder = tmp_path_factory.mktemp("exported")
    for outputs in OUTPUT_NAMES:
        export(tiny(), NAMES, folder / f"{outputs}.onnx", outputs=outputs, thresholds=LIMITS)
    return {outputs: folder / f"{outputs}.onnx" for outputs in OUTPUT_NAMES}


def photo(path, size=(90, 60), seed=0):
    import cv2
    levels = np.random.default_rng(seed).uniform(0, 255, (6, 9, 3))
    cv2.imwrite(str(path), cv2.resize(levels, size))
    return path


def test_a_real_network_with_nms_in_the_graph(tmp_path):
    assert check("vgg", 300, "detections", tmp_path) < 0.1


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("outputs", OUTPUT_NAMES)
def test_a_detector_finds_the_same_whatever_runs_it(files, outputs, runtime, tmp_path):
    paths = [photo(tmp_path / f"{k}.png", (90 + 40 * k, 60), k) for k in range(3)]
    first = SSD(SSDSettings(device="cpu", precision="fp32", confidence=0.3), network=tiny(),
                class_names=NAMES)
    other = SSD(SSDSettings(model_path=str(files[outputs]), precision="fp32", confidence=0.3,
                            runtime=runtime))
    assert other.class_names == NAMES and other.spec == first.spec
    for thresholds in ({}, {"confidence": 0.01, "max_per_image": 7}):  # below the export's too
        for one, found in zip(first.detect_batch(paths, **thresholds),
                              other.detect_batch(paths, **thresholds)):
            one, found = ((part.boxes, part.scores, part.labels) for part in (one, found))
            assert len(one[0]) and not unmatched(one, found, 1)
    with pytest.raises(UserError, match="checkpoint that it was exported from"):
        other.save(tmp_path / "a.pth")


def suppressed(boxes, scores, confidence, nms_iou, max_per_class, max_per_image):
    """Return (score, class, prior) of what one image keeps, by plain loops."""
    kept = []
    for label, column in enumerate(scores.T):
        ranked = sorted((k for k in range(len(column)) if column[k] > confidence),
                        key=lambda k: -column[k])[:max_per_class or None]
        own = []
        for k in ranked:
            if all(iou(boxes[k], boxes[other]) <= nms_iou for other in own):
                own.append(k)
        kept += [(column[k], label, k) for k in own]
    return sorted(kept, reverse=True)[:max_per_image or None]


def iou(a, b):
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = max(0, width) * max(0, height)
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
    return common / union if union else 0


VARIANTS = [
    ({}, LIMITS),
    ({"resize": "cv2_linear_float32", "box_clip": "before_nms"},
     {"confidence": 0.25, "nms_iou": 0.3, "max_per_class": 12, "max_per_image": 9}),
    ({"box_clip": "none", "mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4),
      "log_size_clamp": None},
     {"confidence": 0.3, "nms_iou": 0.5, "max_per_class": 0, "max_per_image": 0})]


@pytest.mark.parametrize("changes, limits", VARIANTS)
def test_nms_in_the_graph_is_that_of_plain_loops(changes, limits, files, tmp_path):
    network, path = tiny(**changes), files["detections"]
    if changes:
        path = tmp_path / "a.onnx"
        export(network, NAMES, path, thresholds=limits)
    detector = SSD(SSDSettings(device="cpu", precision="fp32"), network=network,
                   class_names=NAMES)
    batch = images(3, network.spec, seed=3)
    batch[1] = batch[1] // 16 + 120  # hardly anything in it
    boxes, scores = (part.numpy() for part in detector.runtime(batch))
    for runtime in RUNTIMES:
        found = run(path, runtime, batch)
        np.testing.assert_allclose(found["all_boxes"], boxes, atol=1e-5)
        np.testing.assert_allclose(found["all_scores"], scores, atol=1e-5)
        for k in range(3):
            wanted = suppressed(found["all_boxes"][k], found["all_scores"][k], **limits)
            rows = found["image_index"] == k
            np.testing.assert_allclose(found["scores"][rows], [score for score, *_ in wanted])
            assert found["labels"][rows].tolist() == [label for _, label, _ in wanted]
            inside = boxes[k][[prior for *_, prior in wanted]].reshape(-1, 4)
            inside = inside if network.spec.box_clip == "none" else inside.clip(0, 1)
            np.testing.assert_allclose(found["boxes"][rows], inside, atol=1e-5)
        assert len(np.unique(found["image_index"])) > 1


def test_nothing_found_is_no_rows(files):
    flat = np.full((2, 64, 64, 3), (123, 117, 104), np.uint8)
    found = run(files["detections"], "onnxruntime", flat)
    assert 0 < found["all_scores"].max() < LIMITS["confidence"]
    assert [found[name].shape for name in ("boxes", "scores", "labels", "image_index")] == [
        (0, 4), (0,), (0,), (0,)]


def test_the_file_tells_what_it_is(files):
    model = onnx.load(files["detections"])
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [18]
    values = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert values["class_names"] == list(NAMES) and values["thresholds"] == LIMITS
    assert values["family"] == "this project" and values["precision"] == "fp32"
    assert values["spec"]["input_shape"] == [64, 64]
    # A stranger's computer has none of our folders; weights lie inside.
    assert b"/nets/" not in files["detections"].read_bytes()
    assert len(list(files["detections"].parent.iterdir())) == 3


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_threads_get_what_one_gets(files, runtime):
    opened, found = open_exported(files["boxes"], runtime=runtime), {}
    batches = [images(1 + k % 3, opened.spec, seed=k) for k in range(6)]
    threads = [threading.Thread(target=lambda k=k: found.update({k: opened(batches[k])}))
               for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, batch in enumerate(batches):
        for one, other in zip(found[k], opened(batch)):
            torch.testing.assert_close(one, other)


def lists(folder, detector, count=4):
    """Write lists whose boxes are what the detector finds; return the arguments of `export`."""
    paths = [photo(folder / f"{k}.png", seed=k) for k in range(count)]
    records = []
    for path, found in zip(paths, detector.detect_batch(paths)):
        large = (found.boxes[:, 2:] - found.boxes[:, :2]).min(1) > 5
        labels = found.labels[large]
        records.append(Record(path, found.boxes[large], labels, np.zeros(len(labels), bool)))
    (folder / "list.txt").write_text(list_text(records, NAMES))
    return {name: str(folder / "list.txt") for name in ("train_list", "val_list")}


def test_int8_is_measured_and_refused(tmp_path, capsys):
    detector = SSD(SSDSettings(device="cpu", confidence=0.3), network=tiny(), class_names=NAMES)
    target, given = tmp_path / "a.onnx", lists(tmp_path, detector)
    target.write_text("an old file")
    with pytest.raises(UserError, match=r"int8 loses 5.00 points of mAP, max_loss is 1;"):
        export(detector.network, NAMES, target, thresholds=LIMITS, outputs="raw",
               precision="int8", inputs=images(2, detector.spec),
               score=lambda runtime: {"fp32": 0.85, "int8": 0.8}[runtime.precision])
    assert target.read_text() == "an old file"
    detector.export(target, outputs="raw", precision="int8", max_loss=0.0, force=True,
                    **given)
    printed = re.search(r"fp32 ([0-9.]+), int8 ([0-9.]+), (-?[0-9.]+) points lost",
                        capsys.readouterr().out.rpartition("mAP")[2])
    before, after, lost = map(float, printed.groups())
    assert 40 < before and abs(before - after - lost) < 0.011 and abs(lost) < 10
    model = onnx.load(target)
    kernels = [entry.data_type for entry in model.graph.initializer if len(entry.dims) == 4]
    assert kernels == [onnx.TensorProto.INT8] * 5
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    for runtime in RUNTIMES:
        assert SSD(SSDSettings(model_path=str(target), runtime=runtime)).precision == "int8"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".onnx", *[".png"] * 4, ".txt"]


@pytest.mark.parametrize("changes, message", [
    ({"path": "a.pt"}, "must end in .onnx"),
    ({"precision": "int4"}, "precision of an export must be one of fp32, int8; got 'int4'"),
    ({"outputs": "nms"}, "outputs of an export must be one of detections, boxes, raw; got 'nms'"),
    ({"path": "file/a.onnx"}, "file.*folder cannot be made"),
    ({"path": "folder.onnx"}, "folder.onnx: a folder, not a file"),
])
def test_what_cannot_be_exported(changes, message, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.onnx").mkdir()
    given = {"path": "a.onnx", "thresholds": LIMITS} | changes
    with pytest.raises(UserError, match=message):
        export(tiny(), NAMES, tmp_path / given.pop("path"), **given)


def damaged(path, kind, whole):
    """Write a file that is no export of this project."""
    data = whole.read_bytes()
    if kind in ("no metadata", "of another version", "a spec that lies", "other names"):
        model = onnx.load(whole)
        values = {entry.key: entry for entry in model.metadata_props}
        if kind == "no metadata":
            del model.metadata_props[:]
        elif kind == "of another version":
            values["format"].value = '"ssd-onnx-9"'
        elif kind == "a spec that lies":
            values["spec"].value = values["spec"].value.replace("[8, 4]", "[9, 4]")
        else:
            values["class_names"].value = '["a"]'
        onnx.save(model, path)
    else:
        path.write_bytes({"empty": b"", "text": b"hello, this is no model" * 9,
                          "cut short": data[:len(data) // 2]}[kind])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind, message", [
    ("empty", "not an ONNX file"), ("text", "not an ONNX file"), ("cut short", "cannot open it"),
    ("no metadata", "not exported by this project"),
    ("of another version", "not exported by this project"),
    ("a spec that lies", "does not fit its spec"), ("other names", "does not fit its spec")])
def test_files_of_others_and_damaged_ones(files, kind, message, runtime, tmp_path, capfd):
    damaged(tmp_path / "a.onnx", kind, files["boxes"])
    with pytest.raises(UserError, match=message) as caught:
        SSD(SSDSettings(model_path=str(tmp_path / "a.onnx"), runtime=runtime)).detect(
            np.zeros((64, 64, 3), np.uint8))
    assert str(caught.value).startswith(str(tmp_path / "a.onnx")) and "\n" not in str(caught.value)
    assert not capfd.readouterr().err


@pytest.mark.parametrize("settings, message", [
    ({"runtime": "onnxruntime", "precision": "bf16"}, "as it was exported"),
    ({"runtime": "onnxruntime", "device": "cuda"}, "has no 'cuda' here"),
    ({"runtime": "openvino", "device": "cuda:1"}, 'runs on device "cpu"'),
    ({"runtime": "onnxruntime", "device": "mps"}, "has no 'mps' here"),
    ({"precision": "fp16"}, "for NVIDIA GPUs"), ({"runtime": "tensorrt"}, "runtime must be one of"),
])
def test_what_a_runtime_cannot_do(files, settings, message):
    with pytest.raises(UserError, match=message):
        SSD(replace(SSDSettings(model_path=str(files["boxes"])), **settings))


@pytest.mark.parametrize("missing, call, message", [
    ("onnxscript", "export", "pip install onnx onnxscript"),
    ("onnxruntime", "open", "pip install onnxruntime"),
    ("openvino", "open", "pip install openvino")])
def test_packages_that_are_missing(files, missing, call, message, tmp_path, monkeypatch):
    def refuse(name, *rest, **more):
        if name.partition(".")[0] == missing:
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest, **more)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(UserError, match=message):
        if call == "export":
            export(tiny(), NAMES, tmp_path / "a.onnx", thresholds=LIMITS)
        else:
            open_exported(files["raw"], runtime=missing)


def test_an_old_pytorch_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.4.1+cpu")
    with pytest.raises(UserError, match=r"needs PyTorch 2\.9 or newer, this is 2\.4\.1"):
        export(tiny(), NAMES, tmp_path / "a.onnx", thresholds=LIMITS)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no such signal")
def test_signals_are_handled_after_detectors_have_come_and_gone(files):
    pytest.importorskip("openvino")
    code = """if True:
        import faulthandler, gc, signal, sys
        faulthandler.enable()  # it has a stack for signals, as pytest has
        from nets.runtimes.onnx import open_exported
        first, second = (open_exported(sys.argv[1], runtime="openvino") for _ in range(2))
        del first
        gc.collect()
        del second
        gc.collect()
        signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
        signal.raise_signal(signal.SIGUSR1)"""
    done = subprocess.run([sys.executable, "-c", code, str(files["boxes"])], text=True,
                          capture_output=True, cwd=ROOT)
    assert done.stdout.endswith("handled\n"), done.stderr
