"""Every mode of predict.py from a checkpoint file; the prompt at a terminal; several processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_detector import photo, tiny_detector

import predict
from nets.runtimes.inspect import heat_map
from utils.cli import ROOT, UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with best.pth, and in/ with two images, one in a sub-folder, and a video."""
    folder = tmp_path_factory.mktemp("modes")
    (folder / "in" / "sub").mkdir(parents=True)
    tiny_detector().save(folder / "best.pth")
    photo(folder / "in" / "a.png", size=(320, 200))
    photo(folder / "in" / "sub" / "b.png", 1)
    writer = cv2.VideoWriter(str(folder / "in" / "c.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10,
                             (320, 240))
    for k in range(6):
        writer.write(np.full((240, 320, 3), 40 * k, np.uint8))
    writer.release()
    return folder


@pytest.fixture
def run(folder, tmp_path, capsys):
    def run(mode, *images, **changes):
        values = {"model_path": str(folder / "best.pth"), "device": "cpu", "confidence": 0.3,
                  "dir_origin_path": str(folder / "in"), "dir_save_path": str(tmp_path / "out"),
                  "video_path": str(folder / "in" / "c.avi"), "mode": mode, **changes}
        predict.main(predict.PredictSettings(images=images, **values))
        return capsys.readouterr().out
    return run


def test_dir_predict_and_video(run, tmp_path):
    assert "3 of 3 files done" in run("dir_predict", nms="soft", count=True)
    assert (tmp_path / "out" / "sub" / "b.png.jpg").exists()
    assert "1 of 1 files done" in run("video", classes=("dog",), save_json=True)
    video = cv2.VideoCapture(str(tmp_path / "out" / "c.avi.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 6 and video.get(cv2.CAP_PROP_FPS) == 10
    frames = json.loads((tmp_path / "out" / "c.avi.json").read_text())["frames"]
    assert {row["class"] for frame in frames for row in frame["objects"]} <= {"dog"}


def test_without_drawings_the_same_is_found(run, folder, tmp_path):
    boxes = []
    for draw in (True, False):
        run("predict", str(folder / "in" / "a.png"), draw=draw, save_json=True)
        boxes.append(json.loads((tmp_path / "out" / "a.png.json").read_text()))
        (tmp_path / "out" / "a.png.jpg").unlink(missing_ok=True)
    assert boxes[0] == boxes[1] and boxes[0]["width"] == 320 and boxes[0]["objects"]
    assert not list((tmp_path / "out").glob("*.jpg"))


def test_fps(run, folder, monkeypatch):
    monkeypatch.setattr(predict, "FPS_SECONDS", 0.1)
    out = run("fps", str(folder / "in" / "a.png"), batch_sizes=(1, 2), precision="fp32")
    rows = [list(map(float, re.findall(r"[\d.]+", line))) for line in out.splitlines()[-2:]]
    assert "a.png, 320x200; PyTorch in fp32 on cpu" in out and [row[0] for row in rows] == [1, 2]
    for size, *times, rate in rows:
        assert all(low <= high for low, high in zip(times[::2], times[1::2]))
        assert rate == pytest.approx(1000 * size / times[6], rel=0.1, abs=0.1)
    for wrong in ({"batch_sizes": (0,)}, {"dir_origin_path": str(folder / "out")}):
        with pytest.raises(UserError, match="fps needs an image"):
            run("fps", **wrong)


def test_summary(run):
    network = tiny_detector().network
    out = run("summary")
    numbers = re.search(r"(\d+) layers, ([\d,]+) parameters, ([\d.]+) GFLOPs", out)
    assert int(numbers[2].replace(",", "")) == sum(p.numel() for p in network.parameters())
    loc = network.loc[0]  # its output is 4 numbers a prior of the first map
    grid, priors = network.spec.grids[0], network.spec.priors_per_cell[0]
    flops = 2 * grid ** 2 * loc.in_channels * 9 * 4 * priors / 1e6
    assert re.search(rf"loc\.0 +Conv2d +\(1, {4 * priors}, {grid}, {grid}\) +[\d,]+ +"
                     + re.escape(f"{flops:,.1f}"), out)


def test_heatmap(run, tmp_path, folder):
    assert "2 of 2 images done" in run("heatmap", str(folder / "in" / "a.png"),
                                       str(folder / "in" / "sub"), image_format="png")
    sheet = Image.open(tmp_path / "out" / "a.png.heat.png")
    assert sheet.size == (640, 224), "two classes side by side, each with a line above"
    assert (tmp_path / "out" / "b.png.heat.png").exists()
    with pytest.raises(UserError, match="2 of 2 failed"):
        run("heatmap", "0", str(folder / "in" / "c.avi"))


def test_heat_has_the_scores_of_the_priors_where_they_lie():
    detector = tiny_detector()
    image = np.asarray(Image.fromarray(np.random.default_rng(0).integers(
        0, 256, (200, 320, 3), np.uint8)))
    heat = heat_map(detector.runtime, image)
    best = detector.detect_batch([image], confidence=0.0, max_per_image=0)[0]
    assert heat.shape == (2, 260, 260)
    for label in range(2):
        np.testing.assert_allclose(heat[label].max(), best.scores[best.labels == label].max(),
                                   atol=0.1)  # between cells it is interpolated


def test_export(run, tmp_path, folder):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    run("export", export_path=str(tmp_path / "x.onnx"))
    names = []
    for weights in (folder / "best.pth", tmp_path / "x.onnx"):
        run("predict", str(folder / "in" / "a.png"), model_path=str(weights), save_json=True,
            precision="fp32")
        found = json.loads((tmp_path / "out" / "a.png.json").read_text())["objects"]
        names.append([row["class"] for row in found])
    assert names[0] == names[1]
    for changes in ({"nms": "agnostic"}, {"classes": ("dog",)}):
        with pytest.raises(UserError, match="finds all classes, by nms"):
            run("export", export_path=str(tmp_path / "y.onnx"), **changes)
    assert not (tmp_path / "y.onnx").exists()


def start(folder, *words, **options):
    """Start predict.py on best.pth of a folder, the outputs going to out/ there."""
    return subprocess.Popen(
        [sys.executable, ROOT / "predict.py", *map(str, words), "--model_path",
         str(folder / "best.pth"), "--device", "cpu", "--dir_save_path", str(options.pop("out"))],
        cwd=folder, **options)


@pytest.mark.skipif(os.name != "posix", reason="no pseudo-terminals there")
def test_the_prompt_at_a_terminal(folder, tmp_path):
    import pty

    main, other = pty.openpty()
    process = start(folder, stdin=other, stdout=other, stderr=other, out=tmp_path)
    os.close(other)
    out, answers = "", ["in/a.png", "nowhere.png", "'in/sub/b.png' ", "q"]
    while answers or process.poll() is None:
        try:
            out += os.read(main, 4096).decode()
        except OSError:  # Linux's way to say that the other side has gone
            break
        if answers and out.count("image (q to stop): ") > 4 - len(answers):
            os.write(main, f"{answers.pop(0)}\n".encode())
    os.close(main)
    assert process.wait() == 0 and out.count("saved ") == 2 and "Traceback" not in out
    assert "nowhere.png: no such file or folder" in out
    assert {path.name for path in tmp_path.iterdir()} == {"a.png.jpg", "b.png.jpg"}


@pytest.mark.skipif(os.name != "posix", reason="no such signal there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_video(folder, tmp_path, number):
    still = cv2.VideoWriter(str(tmp_path / "long.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10,
                            (320, 240))
    for _ in range(3000):
        still.write(np.zeros((240, 320, 3), np.uint8))
    still.release()
    process = start(folder, tmp_path / "long.avi", "--batch_size", 1, "--save_csv",
                    out=tmp_path / "out", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    drawn, end = tmp_path / "out" / "long.avi.mp4", time.monotonic() + 200
    while not (drawn.exists() and drawn.stat().st_size > 3000) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    out = process.communicate(timeout=200)[0].decode()
    assert process.returncode == 130 and "stopped." in out and "Traceback" not in out
    assert (tmp_path / "out" / "detections.csv").exists()
    video = cv2.VideoCapture(str(drawn))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    assert 0 < count < 3000 and all(video.read()[0] for _ in range(count))


def test_processes_share_a_folder_out(folder, tmp_path):
    for k in range(5):
        photo(tmp_path / f"{k}.png", k)
    (tmp_path / "bad.png").write_bytes(b"no image")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         ROOT / "predict.py", str(tmp_path), "--model_path", str(folder / "best.pth"), "--device",
         "cpu", "--dir_save_path", str(tmp_path / "out"), "--save_csv", "--save_json",
         "--confidence", "0.3"], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode, "a file failed"
    assert "5 of 6 images done" in done.stdout
    assert "error: 1 of 6 failed: bad.png" in done.stderr and "Traceback (most" not in done.stdout
    assert len(list((tmp_path / "out").glob("*.png.jpg"))) == 5
    rows = (tmp_path / "out" / "detections.csv").read_text().splitlines()[1:]
    assert {row.split(",")[0] for row in rows} == {f"{k}.png" for k in range(5)}
    names = [row.split(",")[0] for row in rows]
    assert names == sorted(names)
