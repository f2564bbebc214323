"""Videos, folders and bad files in; drawings, videos, crops, JSON and CSV out."""

import csv
import json
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_detector import NAMES, photo

from utils.data.annotations import Record
from utils.detections import Detections
from utils.evaluation.detection_files import read_detections
from utils.media.frames import Frame, Source, find_sources, read_frames
from utils.media.outputs import Outputs

DETECTIONS = Detections(np.array([[10, 8, 30, 40], [-5, 50, 200, 70]], np.float32),
                        np.array([0.875, 0.5], np.float32), np.array([1, 0]), NAMES)


def write_video(path, length=30, size=(96, 64), rate=12.5, codec="MJPG"):
    """Write a video whose k-th frame has the pixel value 8 k."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, size)
    for k in range(length):
        writer.write(np.full((size[1], size[0], 3), 8 * k, np.uint8))
    writer.release()
    return path


def source_of(path, name=None):
    """Return the Source of a file that is a video unless it is a .png."""
    name = name or path.name
    return Source(path, name, os.path.splitext(name)[0], is_video=not name.endswith(".png"))


def read_video(path):
    """Return (mean of a corner of each frame, frames a second) of a video: of .mp4, or what else is
    written here.
    """
    path = path if path.exists() else path.with_suffix(".webm")
    video, levels = cv2.VideoCapture(str(path)), []
    while (frame := video.read())[0]:
        levels.append(frame[1][-8:, -8:].mean())
    return levels, video.get(cv2.CAP_PROP_FPS)


def write_all(outputs, sources):
    """Give the outputs the same detections in each frame of the sources."""
    for frame in read_frames(sources, outputs.report):
        if frame.image is None:
            frame = frame._replace(image=np.asarray(Image.open(frame.source.path)))
        outputs.write(frame, DETECTIONS, frame.image)
    outputs.finish(NAMES)


# ---- What is found ----

def test_a_folder_is_searched_with_its_sub_folders(tmp_path):
    for name in ("b.JPG", "sub/a.avi", "sub/notes.txt", "out/a.jpg", ".hidden/c.jpg", "._b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    errors = {}
    wrong = [str(tmp_path / "out"), "nowhere.jpg", "20190704123001", "no*.jpg"]
    texts = [str(tmp_path), "0", *wrong, str(tmp_path)]
    assert find_sources(texts, tmp_path / "out", errors.__setitem__) == [
        Source(tmp_path / "b.JPG", "b.JPG", "b"),
        Source(tmp_path / "sub/a.avi", "sub/a.avi", "sub/a", is_video=True),
        Source(0, "camera0", "camera0", is_video=True)]
    assert list(errors) == wrong and "folder of the outputs" in str(errors[wrong[0]])


def test_files_of_one_name_get_outputs_of_their_own(tmp_path):
    for name in ("one/a.png", "TWO/A.png"):
        (tmp_path / name).parent.mkdir()
        photo(tmp_path / name)
    for name in ("a.bmp", "cam_1.5.png"):
        photo(tmp_path / "one" / name)
    texts = [str(tmp_path / name) for name in ("one", "TWO", "one/*")]
    sources = find_sources(texts, tmp_path / "out", pytest.fail)
    outputs = {source.name: source.output for source in sources}
    assert len(sources) == 4 and outputs == {"a.bmp": "a.bmp", "a.png": "a.png",
                                             "A.png.2": "A.png.2", "cam_1.5.png": "cam_1.5"}


def test_content_tells_what_a_file_is(tmp_path):
    for name, kind in (("a", "avif"), ("b.dat", "jpeg2000"), ("c.mp4", "png"), ("d.heic", None)):
        Image.new("RGB", (64, 48)).save(tmp_path / name, kind) if kind else (
            tmp_path / name).write_bytes(bytes(100))
    pages = [Image.new("RGB", (64, 48), (90 * k, 0, 0)) for k in range(3)]
    for name in ("e.tif", "h.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    write_video(tmp_path / "i.avi").rename(tmp_path / "i.dav")
    write_video(tmp_path / "j.avi").rename(tmp_path / "000012")
    for name in ("k.bin", "000013.bin", "l.txt", "best.pth"):
        (tmp_path / name).write_bytes(os.urandom(5000) if name != "l.txt" else b"text " * 999)
    sources = find_sources([str(tmp_path)], tmp_path / "out", pytest.fail)
    assert {source.name: source.is_video for source in sources} == {
        **dict.fromkeys(("a", "b.dat", "c.mp4", "d.heic", "e.tif", "h.gif"), False),
        "i.dav": True, "000012": True}


def test_a_stream_is_named_without_its_password(tmp_path):
    (source,) = find_sources(["rtsp://user:secret@cam/one/two"], tmp_path, pytest.fail)
    assert source == ("rtsp://user:secret@cam/one/two", "cam_one_two", "cam_one_two", True)


def test_the_address_of_an_image_is_an_image(tmp_path):
    photo(tmp_path / "a.png")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.png?size=1"
        (source,) = find_sources([address], tmp_path / "out", pytest.fail)
        (frame,) = read_frames([source], pytest.fail)
        server.shutdown()
    assert frame.number is None and source.output == "127.0.0.1_a"
    np.testing.assert_array_equal(frame.image, np.asarray(Image.open(tmp_path / "a.png")))


@pytest.mark.parametrize("text", [
    "{}/o n e.png", "  {}/o n e.png  ", "'{}/o n e.png'", '"{}/o n e.png" ', r"{}/o\ n\ e.png ",
    "o n e.png"])
def test_paths_as_people_type_and_drop_them(tmp_path, monkeypatch, text):
    (tmp_path / "o n e.png").touch()
    monkeypatch.chdir(tmp_path)
    (source,) = find_sources([text.format(tmp_path)], tmp_path / "out", pytest.fail)
    assert source.path.is_file()


# ---- Videos and cameras ----

@pytest.mark.parametrize("name, codec, size, rate", [
    ("a.avi", "MJPG", (320, 240), 12.5), ("b.mp4", "mp4v", (321, 241), 29.97)])
def test_a_drawn_video_has_the_frames_and_the_rate(tmp_path, name, codec, size, rate):
    source = source_of(write_video(tmp_path / name, 30, size, rate, codec))
    outputs = Outputs(tmp_path / "out", save_json=True)
    write_all(outputs, [source])
    levels, written_rate = read_video(tmp_path / "out" / f"{source.output}.mp4")
    assert len(levels) == 30 and written_rate == pytest.approx(rate, abs=0.02)
    np.testing.assert_allclose(levels, [8 * k for k in range(30)], atol=7.9)
    frames = json.loads((tmp_path / "out" / f"{source.output}.json").read_text())["frames"]
    assert [frame["frame"] for frame in frames] == list(range(30))
    np.testing.assert_allclose([frame["seconds"] for frame in frames], np.arange(30) / rate,
                               atol=0.002)
    assert frames[0]["objects"] == DETECTIONS.rows()


def test_frames_of_a_camera_are_repeated_to_last_as_long_as_they_did(tmp_path, monkeypatch):
    path, capture = write_video(tmp_path / "a.avi", 4), cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda name: capture(
        str(path) if name == 0 else name))
    times = count(100.0, 0.4)  # 5 frames of its 12.5 a second
    monkeypatch.setattr("utils.media.frames.time", SimpleNamespace(monotonic=lambda: next(times)))
    write_all(Outputs(tmp_path / "out"), [Source(0, "camera0", "camera0", is_video=True)])
    assert len(read_video(tmp_path / "out" / "camera0.mp4")[0]) == 16


def test_uneven_frames_of_an_odd_size_keep_time_and_all_pixels(tmp_path):
    outputs, image = Outputs(tmp_path), np.full((65, 97, 3), 200, np.uint8)
    source = Source(tmp_path / "a.webm", "a.webm", "a", is_video=True)
    for number, seconds in enumerate((0, 0.04, 0.5, 0.52, 2)):
        outputs.write(Frame(source, image, number, seconds, 25.0), DETECTIONS, image)
    outputs.finish(NAMES)
    levels, rate = read_video(tmp_path / "a.mp4")
    assert (len(levels), rate) == (51, 25) and min(levels) > 190


def test_each_bad_video_costs_one_line(tmp_path, capfd):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.avi").write_text("no video" * 1000)
    whole = write_video(tmp_path / "whole.avi").read_bytes()
    (tmp_path / "short.avi").write_bytes(whole[:len(whole) // 2])
    sources = [source_of(tmp_path / name) for name in (
        "empty.mp4", "text.avi", "short.avi", "nowhere.mp4", "whole.avi")]
    sources.append(Source(77, "camera77", "camera77", is_video=True))
    outputs = Outputs(tmp_path / "out")
    write_all(outputs, sources)
    out, err = capfd.readouterr()
    assert all("VP80" in line for line in err.splitlines()), "FFmpeg and OpenCV keep quiet"
    assert out.count("error: ") == 5 == len(outputs.failures)
    assert list(outputs.failures) == ["empty.mp4", "text.avi", "short.avi", "nowhere.mp4",
                                      "camera77"]
    kept = len(read_video(tmp_path / "out/short.mp4")[0])
    assert kept and f"short.avi: only {kept} frames" in out
    assert len(read_video(tmp_path / "out/whole.mp4")[0]) == 30


# ---- Files ----

def test_all_files_of_a_folder(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    photo(tmp_path / "in" / "0012.png")
    photo(tmp_path / "in" / "sub" / "0012.png", 1)
    write_video(tmp_path / "in" / "sub" / "a.avi", 2)
    out = tmp_path / "out"
    write_all(Outputs(out, crop=True, save_json=True, save_csv=True),
              find_sources([str(tmp_path / "in")], out, pytest.fail))
    names = {path.relative_to(out).as_posix().replace(".webm", ".mp4")
             for path in out.rglob("*") if path.is_file()}
    crops = {name for name in names if name.startswith("crops")}
    assert names - crops == {"0012.jpg", "0012.json", "sub/0012.jpg",
                             "sub/0012.json", "sub/a.mp4", "sub/a.json",
                             "coco_results.json", "detections.csv"}
    assert {"crops/0012_1_dog_0.88.jpg", "crops/0012_2_cat_0.50.jpg",
            "crops/sub/a_000001_1_dog_0.88.jpg"} <= crops and len(crops) == 8
    assert Image.open(out / "crops/0012_1_dog_0.88.jpg").size == (20, 32)
    assert Image.open(out / "crops/0012_2_cat_0.50.jpg").size == (96, 14)
    with open(out / "detections.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and rows[0] == {
        "image": "0012.png", "frame": "", "seconds": "", "class": "dog", "label": "1",
        "score": "0.875", "x1": "10.0", "y1": "8.0", "x2": "30.0", "y2": "40.0"}
    values = json.loads((out / "sub" / "0012.json").read_text())
    assert (values["width"], values["height"], len(values["objects"])) == (96, 64, 2)
    results = json.loads((out / "coco_results.json").read_text())
    assert results[0] == {"image_id": "0012.png", "category_id": 2, "bbox": [10, 8, 20, 32],
                          "score": 0.875}, "12 would be two images"
    assert results[-1]["image_id"] == "sub/a.avi/1"


@pytest.mark.parametrize("files, ids", [
    (("000007.jpg", "21.jpg"), [7, 7, 21, 21]),
    (("7.jpg", "cover.jpg"), ["7.jpg"] * 2 + ["cover.jpg"] * 2)])
def test_pycocotools_and_get_map_read_the_results(tmp_path, files, ids):
    """Of COCO's 80 classes the ids have gaps."""
    coco = pytest.importorskip("pycocotools.coco")
    names = ("person", *map(str, range(78)), "toothbrush")
    detections = Detections(DETECTIONS.boxes, DETECTIONS.scores, np.array([79, 12]), names)
    records = [Record(photo(tmp_path / name), np.zeros((0, 4), np.float32), np.zeros(0, np.int64),
                      np.zeros(0, bool)) for name in files]
    outputs = Outputs(tmp_path, draw=False, save_json=True)
    for record in records:
        image = np.asarray(Image.open(record.path))
        outputs.write(Frame(source_of(record.path), image), detections, None)
    outputs.finish(names)
    results = json.loads((tmp_path / "coco_results.json").read_text())
    assert [row["image_id"] for row in results] == ids
    assert [row["category_id"] for row in results] == [90, 14] * 2
    again = read_detections(tmp_path / "coco_results.json", records, names)
    assert again.image.tolist() == [0, 0, 1, 1] and again.labels.tolist() == [79, 12] * 2
    truth = coco.COCO()
    truth.dataset = {"images": [{"id": number} for number in ids], "annotations": [],
                     "categories": [{"id": 90}, {"id": 14}]}
    truth.createIndex()
    assert len(truth.loadRes(results).anns) == 4
