"""Exported files against PyTorch and against NMS by hand; what is refused."""

import importlib
import importlib.util
import json
import math
import re
import runpy
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import date

import cv2
import numpy as np
import pytest
import torch
from exported import NAMES, TinyNet, images, unmatched, unsaturated
from naive import naive_iou

from nets.runtimes.export import export_onnx, quantise
from nets.runtimes.onnx import OUTPUT_NAMES, OnnxRuntime
from nets.runtimes.torch import TorchRuntime
from nets.ssd import SSDNet, build_spec
from ssd import SSD, SSDSettings
from utils.cli import ROOT, VERSION, UserError
from utils.data.annotations import Record, list_text
from utils.image import prepare
from utils.multibox.postprocess import Thresholds, select
from utils.multibox.spec import RESIZES, SSDSpec

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
RUNTIMES = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name)]
LIMITS = Thresholds(confidence=0.2)


def tiny(**changes):
    torch.manual_seed(0)
    return unsaturated(TinyNet(**changes), offsets=2.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return {outputs: path} of one network."""
    folder = tmp_path_factory.mktemp("exported")
    for outputs in OUTPUT_NAMES:
        export_onnx(tiny(), NAMES, folder / f"{outputs}.onnx", outputs=outputs, thresholds=LIMITS)
    return {outputs: folder / f"{outputs}.onnx" for outputs in OUTPUT_NAMES}


def photo(path, size=(90, 60), seed=0):
    """Write an image with edges and soft parts; return its path."""
    rng = np.random.default_rng(seed)
    soft = cv2.resize(rng.uniform(0, 255, (6, 9, 3)), size)
    edges = cv2.resize(rng.uniform(-20, 20, (64, 64, 3)), size, interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(path), (soft + edges).clip(0, 255))
    return path


def run(path, runtime, batch):
    """Return {output: array} of a file as it runs without this project."""
    if runtime == "onnxruntime":
        import onnxruntime
        names = OUTPUT_NAMES["detections"]
        return dict(zip(names, onnxruntime.InferenceSession(path).run(names, {"images": batch})))
    import openvino
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled([batch])
    return {port.get_any_name(): results[port] for port in compiled.outputs}


# ---- The same numbers ----

def test_a_real_network_with_nms_in_the_graph(tmp_path):
    torch.manual_seed(0)
    network, path = unsaturated(SSDNet(len(NAMES) + 1, build_spec("vgg", 300))), tmp_path / "a.onnx"
    limits = Thresholds(confidence=0.6, max_per_class=100, max_per_image=50)
    export_onnx(network, NAMES, path, outputs="detections", thresholds=limits)
    batch = images(1, network.spec)
    boxes, scores = TorchRuntime(network, NAMES, precision="fp32", owned=False)(batch)
    [kept] = select(boxes, scores, limits, clip=True)
    for runtime in RUNTIMES:
        exported = run(path, runtime, batch)
        np.testing.assert_allclose(exported["all_boxes"], boxes, atol=0.1 / 300)
        found = [exported[name] for name in ("boxes", "scores", "labels")]
        assert len(found[0]) > 5 and not unmatched(kept, found, 300)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("outputs", OUTPUT_NAMES)
def test_a_detector_detects_the_same_whatever_runs_it(files, outputs, runtime, tmp_path):
    paths = [photo(tmp_path / f"{k}.png", (90 + 40 * k, 60), k) for k in range(3)]
    first = SSD(network=tiny(), class_names=NAMES, device="cpu", confidence=0.3)
    other = SSD(files[outputs], confidence=0.3, runtime=runtime)
    assert other.class_names == NAMES and other.spec == first.spec
    for overrides in ({}, {"confidence": 0.01, "max_per_image": 7}):  # below the export's too
        for one, same in zip(first.detect_batch(paths, **overrides),
                             other.detect_batch(paths, **overrides)):
            assert len(one) and not unmatched(one, same)
    with pytest.raises(UserError, match="checkpoint that it was exported from"):
        other.save(tmp_path / "a.pth")


def suppressed(boxes, scores, limits):
    """Return (score, class, prior) of what one image keeps, by plain loops."""
    kept = []
    for label, column in enumerate(scores.T):
        ranked = sorted((k for k in range(len(column)) if column[k] > limits.confidence),
                        key=lambda k: -column[k])[:limits.max_per_class or None]
        same_class = []
        for k in ranked:
            if all(naive_iou(boxes[k], boxes[other]) <= limits.nms_iou for other in same_class):
                same_class.append(k)
        kept += [(column[k], label, k) for k in same_class]
    return sorted(kept, reverse=True)[:limits.max_per_image or None]


@pytest.mark.parametrize("changes, limits", [
    ({}, LIMITS),
    ({"resize": "cv2_linear_float32", "box_clip": "before_nms"},
     Thresholds(confidence=0.25, nms_iou=0.3, max_per_class=12, max_per_image=9)),
    ({"box_clip": "none", "mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4),
      "log_size_clamp": None},
     Thresholds(confidence=0.3, nms_iou=0.5, max_per_class=0, max_per_image=0))])
def test_nms_in_the_graph_is_that_of_plain_loops(changes, limits, files, tmp_path):
    network, path = tiny(**changes), files["detections"]
    if changes:
        path = tmp_path / "a.onnx"
        export_onnx(network, NAMES, path, outputs="detections", thresholds=limits)
    batch = images(3, network.spec, seed=3)
    batch[1] = batch[1] // 16 + 120  # hardly anything in it
    boxes, scores = TorchRuntime(network, NAMES, precision="fp32", owned=False)(batch)
    for runtime in RUNTIMES:
        exported = run(path, runtime, batch)
        np.testing.assert_allclose(exported["all_boxes"], boxes, atol=1e-5)
        np.testing.assert_allclose(exported["all_scores"], scores, atol=1e-5)
        for k in range(3):
            kept = suppressed(exported["all_boxes"][k], exported["all_scores"][k], limits)
            rows = exported["image_index"] == k
            np.testing.assert_allclose(exported["scores"][rows], [score for score, *_ in kept])
            assert exported["labels"][rows].tolist() == [label for _, label, _ in kept]
            expected = boxes.numpy()[k][[prior for *_, prior in kept]].reshape(-1, 4)
            if network.spec.box_clip != "none":
                expected = expected.clip(0, 1)
            np.testing.assert_allclose(exported["boxes"][rows], expected, atol=1e-5)


def test_the_metadata_and_nothing_of_this_computer(files):
    model = onnx.load(files["detections"])
    onnx.checker.check_model(model, full_check=True)
    values = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert values["class_names"] == list(NAMES) and values["spec"]["input_shape"] == [64, 64]
    assert values["thresholds"].items() <= asdict(LIMITS).items()
    assert values["version"] == VERSION and date.fromisoformat(values["date"])
    assert b"/nets/" not in files["detections"].read_bytes()
    assert len(list(files["detections"].parent.iterdir())) == 3, "weights lie inside"


# ---- int8 ----

def test_int8_is_measured(tmp_path, capsys):
    detector = SSD(network=tiny(), class_names=NAMES, device="cpu", confidence=0.3)
    paths = [photo(tmp_path / f"{k}.png", seed=k) for k in range(4)]
    records = []
    for path, detections in zip(paths, detector.detect_batch(paths)):
        large = detections[(detections.boxes[:, 2:] - detections.boxes[:, :2]).min(1) > 5]
        records.append(Record(path, large.boxes, large.labels, np.zeros(len(large), bool)))
    (tmp_path / "list.txt").write_text(list_text(records, NAMES))
    target = tmp_path / "a.onnx"
    detector.export(target, outputs="raw", precision="int8", max_loss=math.inf,
                    train_list=str(tmp_path / "list.txt"), val_list=str(tmp_path / "list.txt"))
    printed = re.search(r"fp32 ([0-9.]+), int8 ([0-9.]+), (-?[0-9.]+) points lost",
                        capsys.readouterr().out)
    before, after, loss = map(float, printed.groups())
    assert 40 < before and abs(before - after - loss) < 0.011 and abs(loss) < 10
    kernels = [entry.data_type for entry in onnx.load(target).graph.initializer
               if len(entry.dims) == 4]
    assert kernels == [onnx.TensorProto.INT8] * 5
    for runtime in RUNTIMES:
        again = SSD(target, runtime=runtime)
        assert (again.precision, again.thresholds.confidence) == ("int8", 0.3)
        assert again.about == {"model": f"{tmp_path.name}/a.onnx", "confidence": 0.3,
                               "confidence_from": "as set"}


def test_int8_that_loses_too_much_is_refused(files, tmp_path):
    source = tmp_path / "fp32.onnx"
    source.write_bytes(files["raw"].read_bytes())
    scores = {"fp32.onnx": 0.85, "int8.onnx": 0.8}
    with pytest.raises(UserError, match="int8 loses 5.00 points of mAP, more than max_loss 1[.]"):
        quantise(source, images(2, tiny().spec), score=lambda path: scores[path.name], max_loss=1)


# ---- What is refused ----

@pytest.mark.parametrize("path, settings, message", [
    ("a.pt", {}, "must end in .onnx"), ("file/a.onnx", {}, "file"), ("folder.onnx", {}, "folder"),
    ("a.onnx", {"nms": "agnostic"}, "all classes, by nms"),
    ("a.onnx", {"classes": ("dog",)}, "all classes, by nms")])
def test_what_cannot_be_exported(path, settings, message, tmp_path, monkeypatch):
    monkeypatch.setattr("ssd.export_onnx", lambda network, names, file, **_: file.touch())
    (tmp_path / "file").touch()
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UserError, match=message):
        SSD(network=tiny(), class_names=NAMES, device="cpu", **settings).export(tmp_path / path)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind, message", [
    ("empty", "cannot open it"), ("text", "cannot open it"), ("cut short", "cannot open it"),
    ("no metadata", "not exported by")])
def test_damaged_and_foreign_files(files, kind, message, runtime, tmp_path):
    path, data = tmp_path / "a.onnx", files["boxes"].read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello, this is no model" * 9,
                      "cut short": data[:len(data) // 2]}.get(kind, data))
    if kind == "no metadata":
        model = onnx.load(path)
        del model.metadata_props[:]
        onnx.save(model, path)
    with pytest.raises(UserError, match=message) as error:
        SSD(path, runtime=runtime)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("settings, message", [
    ({"runtime": "onnxruntime", "precision": "bf16"}, "bf16 needs OpenVINO"),
    ({"runtime": "onnxruntime", "device": "cuda"}, "cuda needs pip install"),
    ({"runtime": "openvino", "device": "cuda:1"}, 'runs on device "cpu"'),
    ({"precision": "fp16"}, "for NVIDIA GPUs"), ({"runtime": "tensorrt"}, "runtime must be one of"),
])
def test_what_a_runtime_cannot_do(files, settings, message):
    with pytest.raises(UserError, match=message):
        SSD(replace(SSDSettings(model_path=str(files["boxes"])), **settings))


@pytest.mark.parametrize("missing", ["onnxscript", "onnxruntime", "openvino"])
def test_packages_that_are_missing(files, missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=f"pip install .*{missing}"):
        if missing == "onnxscript":
            export_onnx(tiny(), NAMES, tmp_path / "a.onnx", outputs="raw", thresholds=LIMITS)
        else:
            OnnxRuntime(files["raw"], runtime=missing)


# ---- Without this project ----

EXAMPLE = ROOT / "examples" / "onnx_only.py"


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("name, size", [
    ("a.jpg", (1999, 1207)), ("b.png", (640, 480)), ("c.png", (200, 150))])
def test_the_example_makes_the_projects_input(tmp_path, name, size, resize):
    path, spec = photo(tmp_path / name, size), SSDSpec(resize=resize)
    inputs, loaded_size = runpy.run_path(str(EXAMPLE))["load"](path, spec.to_dict())
    expected, _ = prepare(path, spec)
    assert loaded_size == size and inputs.dtype == expected.dtype
    assert np.array_equal(inputs[0], expected)


def test_the_example_finds_what_the_project_finds_in_a_photo(files, tmp_path):
    photo = ROOT / "img" / "demo.jpg"
    done = subprocess.run([sys.executable, EXAMPLE, files["detections"], photo], text=True,
                          capture_output=True, check=True, cwd=tmp_path)
    rows = [re.fullmatch(r"(\w+) ([\d.]+) at \[(.*)\]", line).groups()
            for line in done.stdout.splitlines()]
    example = ([list(map(float, box.split())) for *_, box in rows],
               [float(score) for _, score, _ in rows], [NAMES.index(name) for name, *_ in rows])
    expected = SSD(network=tiny(), class_names=NAMES, device="cpu", confidence=0.2).detect(photo)
    assert len(expected) > 5 and not unmatched(expected, example, pixels=0.6)  # it rounds boxes


def test_the_server_finds_what_the_example_finds(files, monkeypatch):
    testing = pytest.importorskip("fastapi.testclient", reason="fastapi and httpx")
    monkeypatch.setenv("SSD_MODEL", str(files["detections"]))
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    client = testing.TestClient(importlib.import_module("serve").app)
    assert client.get("/health").json()["classes"] == list(NAMES)
    photo = ROOT / "img" / "demo.jpg"
    rows = client.post("/detect", files={"image": photo.read_bytes()}).json()
    found = ([row["box"] for row in rows], [row["score"] for row in rows],
             [NAMES.index(row["class"]) for row in rows])
    expected = SSD(network=tiny(), class_names=NAMES, device="cpu", confidence=0.2).detect(photo)
    assert len(expected) > 5 and not unmatched(expected, found, pixels=0.1)
    assert client.post("/detect", files={"image": b"no image"}).status_code == 422


@pytest.mark.parametrize("outputs", ["raw", "boxes"])
def test_opencv_runs_what_has_no_nms_in_it(files, outputs):
    batch = images(1, tiny().spec)
    network = cv2.dnn.readNetFromONNX(str(files[outputs]))
    network.setInput(batch, "images")
    import onnxruntime
    expected = onnxruntime.InferenceSession(files[outputs]).run(None, {"images": batch})
    for ours, theirs in zip(network.forward(network.getUnconnectedOutLayersNames()), expected):
        np.testing.assert_allclose(np.reshape(ours, theirs.shape), theirs, atol=5e-5)
