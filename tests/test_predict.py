"""predict.py: every mode, from a checkpoint file; bad files among good ones; several processes."""

import contextlib
import json
import re
import runpy
import shutil
import subprocess
import sys
from xml.etree import ElementTree

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
    folder = tmp_path_factory.mktemp("predict")
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
def run(folder, tmp_path, monkeypatch, capsys):
    """Return a call that runs predict.py in the folder, with typed lines; it returns the output."""
    monkeypatch.chdir(folder)

    def run(*images, typed=(), fails=None, **changes):
        lines = iter(typed)

        def type_line(prompt):
            print(prompt, end="")
            try:
                return next(lines)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", type_line)
        values = {"model_path": str(folder / "best.pth"), "device": "cpu", "confidence": 0.3,
                  "dir_origin_path": str(folder / "in"), "dir_save_path": str(tmp_path / "out"),
                  "video_path": str(folder / "in" / "c.avi"), "show": False, **changes}
        with pytest.raises(UserError, match=fails) if fails else contextlib.nullcontext():
            predict.main(predict.PredictSettings(images=images, **values))
        return capsys.readouterr().out
    return run


def written(folder):
    return sorted(path.relative_to(folder / "out").as_posix().replace(".webm", ".mp4")
                  for path in (folder / "out").rglob("*") if path.is_file())


# ---- Images, folders, videos ----

def test_named_images_and_folders(run, folder, tmp_path):
    before = (folder / "in" / "a.png").read_bytes()
    out = run("in/a.png", "nowhere.jpg", "in/sub", str(folder / "in" / "a.png"), count=True,
              fails="1 of 3 failed: nowhere.jpg")
    assert written(tmp_path) == ["a.jpg", "b.jpg"]
    assert "2 of 3 files done" in out and out.count("error: ") == 1 and "in all: " in out
    assert (folder / "in" / "a.png").read_bytes() == before
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.jpg"), int)
    assert np.abs(drawn - np.asarray(Image.open(folder / "in" / "a.png"), int)).max() > 60


def test_xml_beside_each_image_but_over_none_of_a_person(run, folder, tmp_path):
    shutil.copytree(folder / "in", tmp_path / "photos")
    person = tmp_path / "photos/sub/b.xml"
    person.write_text("<annotation/>")
    texts = []
    for confidence in (0.3, 0.9):
        run(str(tmp_path / "photos"), save_xml=True, confidence=confidence)
        texts.append((tmp_path / "photos/a.xml").read_text())
    assert person.read_text() == "<annotation/>" and texts[0] != texts[1]
    assert not list((tmp_path / "photos").glob("c.*ml"))
    scores = [float(node.text) for node in ElementTree.fromstring(texts[1]).iter("score")]
    assert scores and min(scores) >= 0.9 and "best.pth</database>" in texts[1]
    run(str(tmp_path / "photos"), rank=True)
    page = (tmp_path / "out/to_label.html").read_text()
    assert "a.png" in page and "b.png" not in page


def test_a_folder_and_a_video(run, tmp_path):
    assert "3 of 3 files done" in run(mode="dir_predict", nms="agnostic")
    assert written(tmp_path) == ["a.jpg", "c.mp4", "sub/b.jpg"]
    assert "1 of 1 files done" in run(mode="video", classes=("dog",), save_json=True)
    video = cv2.VideoCapture(str(next((tmp_path / "out").glob("c.*m*"))))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 6 and video.get(cv2.CAP_PROP_FPS) == 10
    frames = json.loads((tmp_path / "out" / "c.json").read_text())["frames"]
    assert {row["class"] for frame in frames for row in frame["objects"]} <= {"dog"}
    run(mode="dir_predict", dir_origin_path=str(tmp_path), fails="no images or videos there")


def test_when_nothing_is_found_print_and_drawing_say_above_what(run, folder, tmp_path):
    out = run("in/a.png", "in/sub/b.png", confidence=1.0, save_json=True)
    assert out.startswith("weights") and "\nconfidence 1, as set\n" in out
    assert out.count("nothing found") == 2 and out.count("the best box has a lower score") == 1
    values = json.loads((tmp_path / "out" / "a.json").read_text())["detector"]
    assert values == {"model": f"{folder.name}/best.pth", "confidence": 1.0,
                      "confidence_from": "as set"}
    drawn, original = (np.asarray(Image.open(path), int) for path in (
        tmp_path / "out" / "a.jpg", folder / "in" / "a.png"))
    changed = np.abs(drawn - original).max(2) > 200  # the words that say so, in the first line
    assert changed[:20].mean() > 5 * changed[20:].mean()


def test_the_prompt(run, folder, tmp_path):
    """A folder typed there is a folder: a line for each image. A bad line is asked again."""
    out = run(typed=["nowhere.png", "", "in/sub/b.png", "in", "q", "never.png"], save_csv=True)
    assert out.count("error: ") == 1 and "nowhere.png" in out and "never" not in out
    alone, together = out.split("image (q to stop): ")[3:5]
    assert "  at " in alone and "  at " not in together
    assert written(tmp_path) == ["a.jpg", "b.jpg", "c.mp4", "detections.csv", "sub/b.jpg"]
    assert "a.png: " in run(typed=["in/a.png"])  # then the end of a pipe


# ---- Other modes ----

def test_fps(run, monkeypatch):
    monkeypatch.setattr("nets.runtimes.inspect.FPS_IMAGES", 2)
    out = run("in/a.png", mode="fps", batch_sizes=(1, 2))
    rows = [list(map(float, re.findall(r"[\d.]+", line))) for line in out.splitlines()[-2:]]
    assert "PyTorch, fp32, cpu" in out and [row[0] for row in rows] == [1, 2]
    for size, *times, rate in rows:
        assert all(low <= high for low, high in zip(times[::2], times[1::2]))
        assert rate == pytest.approx(1000 * size / times[6], rel=0.1, abs=0.1)
    run(mode="fps", batch_sizes=(0,), fails="batch_sizes")


def test_summary(run):
    network = tiny_detector().network
    out = run(mode="summary")
    totals = re.search(r"(\d+) layers, ([\d,]+) parameters, ([\d.]+) GFLOPs", out)
    assert int(totals[2].replace(",", "")) == sum(p.numel() for p in network.parameters())
    loc = network.loc[0]  # its output is 4 numbers a prior of the first map
    grid, priors = network.spec.grids[0], network.spec.priors_per_cell[0]
    flops = 2 * grid ** 2 * loc.in_channels * 9 * 4 * priors / 1e6
    assert re.search(rf"loc\.0 +Conv2d +\(1, {4 * priors}, {grid}, {grid}\) +[\d,]+ +"
                     + re.escape(f"{flops:,.1f}"), out)


def test_heatmap(run, tmp_path):
    out = run("in", mode="heatmap", image_format="png", fails="1 of 3 failed: c.avi")
    assert "2 of 3 files done" in out
    assert Image.open(tmp_path / "out" / "a.heat.png").size == (640, 224), "two classes"
    assert (tmp_path / "out" / "sub" / "b.heat.png").exists()


def test_heat_has_the_scores_of_the_priors():
    detector = tiny_detector()
    image = np.random.default_rng(0).integers(0, 256, (200, 320, 3), np.uint8)
    heat = heat_map(detector.runtime, image)
    best = detector.detect_batch([image], confidence=0.0, max_per_image=0)[0]
    assert heat.shape == (2, 260, 260)
    for label in range(2):  # between cells it is interpolated
        assert heat[label].max() == pytest.approx(best.scores[best.labels == label].max(), abs=0.1)


# ---- As a command ----

def command(folder, tmp_path, *words):
    return list(map(str, (ROOT / "predict.py", *words, "--model_path", folder / "best.pth",
                          "--device", "cpu", "--dir_save_path", tmp_path / "out", "--confidence",
                          "0.3")))


def test_the_command_line(folder, tmp_path, monkeypatch, capsys):
    photo(tmp_path / "中文.png")
    words = command(folder, tmp_path, tmp_path / "中文.png", "nowhere.png")
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(words[0], run_name="__main__")
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and "1 of 2 failed: nowhere.png" in err
    assert str(tmp_path / "out") in out
    assert "中文.png: " in out and written(tmp_path) == ["中文.jpg"]


def test_processes_share_a_folder(folder, tmp_path):
    (tmp_path / "in").mkdir()
    for k in range(5):
        photo(tmp_path / "in" / f"{k}.png", k)
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         *command(folder, tmp_path, tmp_path / "in", "--save_csv")], capture_output=True, text=True)
    assert done.returncode and "1 of 6 failed: bad.png" in done.stderr
    assert "5 of 6 files done" in done.stdout
    assert written(tmp_path) == [*(f"{k}.jpg" for k in range(5)), "detections.csv"]
    rows = (tmp_path / "out" / "detections.csv").read_text().splitlines()[1:]
    names = [row.split(",")[0] for row in rows]
    assert set(names) == {f"{k}.png" for k in range(5)} and names == sorted(names)
