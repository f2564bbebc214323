"""Videos, folders and bad files in; drawings, videos, crops, JSON and CSV out."""

import csv
import json
import os
import re
import sys
import threading
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_detector import NAMES, photo

from utils.cli import UserError
from utils.data.annotations import Record
from utils.detections import Detections
from utils.evaluation.detection_files import read_detections
from utils.media.frames import Finder, Frame, Source, read_frames
from utils.media.outputs import Outputs, coco_results, write_image, write_json
from utils.media.viewer import Viewer

FOUND = Detections(np.array([[10, 8, 30, 40], [-5, 50, 200, 70]], np.float32),
                   np.array([0.875, 0.5], np.float32), np.array([1, 0]), NAMES)


class Stub:
    """A detector that finds the same in every image."""

    settings, threads, class_names = None, frozenset(), NAMES

    def detect(self, image):
        return FOUND

    def detect_stream(self, images, *, batch_size, keep_images):
        for image in images:
            path = isinstance(image, os.PathLike)
            try:
                array = np.asarray(Image.open(image).convert("RGB")) if path else image
            except OSError as error:
                yield image, None, UserError(f"{image}: {error}")
            else:
                yield image, array if keep_images else None, FOUND


def clip(path, length=30, size=(96, 64), rate=12.5, codec="MJPG"):
    """Write a video whose k-th frame has the grey level 8 k."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, size)
    for k in range(length):
        writer.write(np.full((size[1], size[0], 3), 8 * k, np.uint8))
    writer.release()
    return path


def viewer(folder, **options):
    return Viewer(Stub(), folder, **options)


def grey_levels(path):
    """Return (mean of a corner of each frame, rate, size) of a video."""
    video, levels = cv2.VideoCapture(str(path)), []
    while (frame := video.read())[0]:
        levels.append(frame[1][-8:, -8:].mean())
    return levels, video.get(cv2.CAP_PROP_FPS), frame_size(video)


def frame_size(video):
    return video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)


@pytest.mark.parametrize("name, codec, size, rate", [
    ("a.avi", "MJPG", (320, 240), 12.5), ("b.mp4", "mp4v", (321, 241), 29.97),
    ("c.mkv", "MJPG", (240, 320), 24.0)])
def test_a_drawn_video_has_the_frames_the_rate_and_the_size(tmp_path, name, codec, size, rate):
    clip(tmp_path / name, 30, size, rate, codec)
    drawn = viewer(tmp_path / "out", save_json=True)
    drawn.look_at_all([tmp_path / name])
    levels, found_rate, found_size = grey_levels(tmp_path / "out" / f"{name}.mp4")
    assert len(levels) == 30 and found_rate == pytest.approx(rate, abs=0.02)
    assert found_size == pytest.approx(size, abs=1)  # some codecs have even sides alone
    np.testing.assert_allclose(levels, [8 * k for k in range(30)], atol=7.9)
    assert (np.diff(levels) > 0).all()
    frames = json.loads((tmp_path / "out" / f"{name}.json").read_text())["frames"]
    assert [frame["frame"] for frame in frames] == list(range(30))
    assert frames[0]["objects"] == FOUND.rows() and drawn.seen == {"dog": 30, "cat": 30}


def test_frames_are_read_ahead_in_one_thread(tmp_path, monkeypatch):
    readers = set()
    convert = cv2.cvtColor
    monkeypatch.setattr(cv2, "cvtColor", lambda *args: (
        readers.add(threading.current_thread()), convert(*args))[1])
    source = Source(clip(tmp_path / "a.avi"), "a.avi", True)
    frames = list(read_frames([source], pytest.fail))
    assert [frame.number for frame in frames] == list(range(30)) and frames[3].rate == 12.5
    assert len(readers) == 1 and threading.main_thread() not in readers


def test_ctrl_c_leaves_a_video_that_plays(tmp_path, monkeypatch):
    clip(tmp_path / "a.avi")
    drawn = viewer(tmp_path / "out", save_csv=True)
    add = drawn.outputs.add

    def stop_at_the_tenth(frame, found):
        if frame.number == 10:
            raise KeyboardInterrupt
        return add(frame, found)

    monkeypatch.setattr(drawn.outputs, "add", stop_at_the_tenth)
    with pytest.raises(KeyboardInterrupt):
        drawn.look_at_all([tmp_path / "a.avi"])
    assert 10 <= len(grey_levels(tmp_path / "out" / "a.avi.mp4")[0]) <= 13
    assert len((tmp_path / "out" / "detections.csv").read_text().splitlines()) > 20


def test_a_folder_keeps_its_sub_folders_and_holds_images_and_videos(tmp_path, capsys):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    photo(tmp_path / "in" / "0012.png")
    photo(tmp_path / "in" / "sub" / "0012.png", 1)
    clip(tmp_path / "in" / "sub" / "a.avi", 2)
    (tmp_path / "in" / "notes.txt").touch()
    viewer(tmp_path / "out", crop=True, count=True, save_json=True, save_csv=True).look_at_all(
        [tmp_path / "in"])
    out = capsys.readouterr().out
    assert "0012.png: 2 found: dog 1, cat 1" in out and "3 of 3 files done" in out
    assert "in all: dog 4 (at most 1 in one image), cat 4" in out
    names = {path.relative_to(tmp_path / "out").as_posix()
             for path in (tmp_path / "out").rglob("*") if path.is_file()}
    crops = {name for name in names if name.startswith("crops")}
    assert names - crops == {"0012.png.jpg", "0012.png.json", "sub/0012.png.jpg",
                             "sub/0012.png.json", "sub/a.avi.mp4", "sub/a.avi.json",
                             "coco_results.json", "detections.csv"}
    assert {"crops/0012.png_1_dog_0.88.jpg", "crops/0012.png_2_cat_0.50.jpg",
            "crops/sub/a.avi_000001_1_dog_0.88.jpg"} <= crops and len(crops) == 8
    assert Image.open(tmp_path / "out/crops/0012.png_1_dog_0.88.jpg").size == (20, 32)
    assert Image.open(tmp_path / "out/crops/0012.png_2_cat_0.50.jpg").size == (96, 14)
    rows = list(csv.DictReader(open(tmp_path / "out" / "detections.csv", newline="")))
    assert len(rows) == 8 and rows[0] == {
        "image": "0012.png", "frame": "", "class": "dog", "label": "1", "score": "0.875",
        "x1": "10.0", "y1": "8.0", "x2": "30.0", "y2": "40.0"}
    single = json.loads((tmp_path / "out" / "sub" / "0012.png.json").read_text())
    assert (single["width"], single["height"], len(single["objects"])) == (96, 64, 2)
    results = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert results[0] == {"image_id": "0012.png", "category_id": 2, "bbox": [10, 8, 20, 32],
                          "score": 0.875}, "12 would be two images"
    assert results[-1]["image_id"] == "sub/a.avi/1"


def test_pycocotools_reads_the_results(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    source = Source(tmp_path / "000007.jpg", tmp_path / "000007.jpg")
    outputs = Outputs(tmp_path, pytest.fail, draw=False, save_csv=True)
    outputs.add(Frame(source, None), FOUND)
    truth = coco.COCO()
    truth.dataset = {"images": [{"id": 7}], "categories": [{"id": 1}, {"id": 2}],
                     "annotations": []}
    truth.createIndex()
    anns = truth.loadRes(coco_results(outputs.rows, outputs.images, FOUND.class_names)).anns
    assert [ann["image_id"] for ann in anns.values()] == [7, 7] and len(anns) == 2


def test_the_ids_of_coco_results_are_those_of_get_map(tmp_path):
    """Of COCO's 80 classes they have gaps; what get_map.py reads back is what was found."""
    names = ("person", *map(str, range(78)), "toothbrush")
    found = Detections(*FOUND[[0, 1]], names)
    found.labels[:] = 79, 12
    for files in (("000007.jpg", "21.jpg"), ("a.jpg", "21.jpg")):
        outputs = Outputs(tmp_path, pytest.fail, draw=False, save_csv=True)
        records = [Record(tmp_path / name, np.zeros((0, 4), np.float32), np.zeros(0, np.int64),
                          np.zeros(0, bool)) for name in files]
        for record in records:
            outputs.add(Frame(Source(record.path, Path(record.path.name)), None), found)
        write_json(tmp_path / "r.json", coco_results(outputs.rows, outputs.images, names))
        again = read_detections(tmp_path / "r.json", records, names, [None, None])
        assert again.image.tolist() == [0, 0, 1, 1] and again.labels.tolist() == [79, 12] * 2
    results = coco_results(outputs.rows, outputs.images, names)
    assert [row["category_id"] for row in results] == [90, 14] * 2


def test_an_image_without_objects_counts_for_the_ids(tmp_path):
    outputs = Outputs(tmp_path, pytest.fail, draw=False, save_csv=True)
    for name, found in (("7.jpg", FOUND), ("cover.jpg", FOUND[[]])):
        outputs.add(Frame(Source(tmp_path / name, Path(name)), None), found)
    results = coco_results(outputs.rows, outputs.images, FOUND.class_names)
    assert {row["image_id"] for row in results} == {"7.jpg"}


def test_png_is_exact(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    outputs = Outputs(tmp_path, pytest.fail, image_format="png")
    outputs.add(Frame(Source(tmp_path / "a", tmp_path / "a"), image), FOUND[:0])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)


def test_an_image_that_jpeg_cannot_hold(tmp_path):
    with pytest.raises(UserError, match='65501x2 pixels are too many.*image_format "png"'):
        write_image(tmp_path / "a.jpg", np.zeros((2, 65501, 3), np.uint8))
    write_image(tmp_path / "a.png", np.zeros((2, 65501, 3), np.uint8))
    assert Image.open(tmp_path / "a.png").size == (65501, 2)


def bad_files(folder):
    """Write files that cannot be looked at; return {name: what is said of it}."""
    (folder / "empty.jpg").touch()
    (folder / "empty.mp4").touch()
    (folder / "text.jpg").write_text("no image")
    (folder / "text.avi").write_text("no video" * 1000)
    whole = clip(folder / "whole.avi").read_bytes()
    (folder / "whole.avi").unlink()
    (folder / "short.avi").write_bytes(whole[:len(whole) // 2])
    index = clip(folder / "x.mp4", codec="mp4v").read_bytes()
    (folder / "x.mp4").unlink()
    (folder / "no_index.mp4").write_bytes(index[:len(index) // 2])
    return {"empty.jpg": "cannot identify|can be read", "empty.mp4": "an empty file",
            "text.jpg": "cannot identify|can be read", "text.avi": "no video that can be read",
            "short.avi": r"ends after \d+ of 30 frames", "no_index.mp4": "no video that can be",
            "nowhere.jpg": "no such file", "nowhere.mp4": "no such file"}


def test_each_bad_file_costs_one_line_and_the_rest_goes_on(tmp_path, capfd):
    source = tmp_path / "in"
    source.mkdir()
    expected = bad_files(source)
    photo(source / "good.png")
    clip(source / "good.avi", 3)
    with pytest.raises(UserError, match=f"{len(expected)} of {len(expected) + 2} failed: ") as end:
        viewer(tmp_path / "out").look_at_all([source / "nowhere.jpg", source / "nowhere.mp4",
                                              source])
    out, err = capfd.readouterr()
    assert not err, "FFmpeg and OpenCV keep quiet"
    lines = [line for line in out.splitlines() if line.startswith("error: ")]
    assert len(lines) == len(expected) and "2 of 10 files done" in out
    for name, text in expected.items():
        line, = [line for line in lines if name in line]
        assert re.search(text, line) and name in str(end.value)
    assert (tmp_path / "out/good.png.jpg").exists() and len(
        grey_levels(tmp_path / "out/good.avi.mp4")[0]) == 3
    drawn = len(grey_levels(tmp_path / "out/short.avi.mp4")[0])
    assert drawn and f"short.avi: ends after {drawn} of 30 frames" in out


def test_a_camera_that_is_not_there(tmp_path, capfd):
    with pytest.raises(UserError, match="1 of 1 failed: camera77"):
        viewer(tmp_path).look_at_all(["77"])
    out, err = capfd.readouterr()
    assert "camera 77: there is no such camera here" in out and not err


def test_an_animated_gif_is_a_video(tmp_path):
    frames = [Image.new("RGB", (60, 40), (40 * k,) * 3) for k in range(5)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=100)
    frames[1].save(tmp_path / "still.gif")
    viewer(tmp_path / "out").look_at_all([tmp_path / "moving.gif", tmp_path / "still.gif"])
    levels, rate, _ = grey_levels(tmp_path / "out" / "moving.gif.mp4")
    assert len(levels) == 5 and rate == pytest.approx(10, abs=0.1)
    assert (tmp_path / "out" / "still.gif.jpg").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_video_that_cannot_be_written(tmp_path, capfd):
    clip(tmp_path / "a.avi")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.avi.mp4").symlink_to("/dev/full")
    with pytest.raises(UserError, match="1 of 1 failed"):
        viewer(out).look_at_all([tmp_path / "a.avi"])
    assert "a.avi.mp4" in capfd.readouterr().out


def test_a_camera_is_looked_at_frame_by_frame(tmp_path, monkeypatch):
    path = clip(tmp_path / "a.avi", 4)
    capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda name: capture(
        str(path) if name == 0 else name))
    times = count(100.0, 0.4)  # 5 frames of its 12.5 a second
    monkeypatch.setattr("utils.media.outputs.time", SimpleNamespace(monotonic=lambda: next(times)))
    drawn = viewer(tmp_path / "out")
    drawn.look_at_all(["0"])
    levels = grey_levels(tmp_path / "out" / "camera0.mp4")[0]
    assert len(levels) == 20, "frames are repeated while the detector is at work"
    assert not drawn.outputs.rows and not drawn.outputs.frames, "no table is wanted"


def test_a_video_of_which_only_tables_are_kept(tmp_path):
    clip(tmp_path / "a.avi", 3)
    viewer(tmp_path / "out", draw=False, save_csv=True, save_json=True).look_at_all(
        [tmp_path / "a.avi"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a.avi.json", "detections.csv", "coco_results.json"}
    assert len((tmp_path / "out" / "detections.csv").read_text().splitlines()) == 1 + 6
    assert len(json.loads((tmp_path / "out" / "a.avi.json").read_text())["frames"]) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")
def test_names_that_are_not_utf8(tmp_path, capfd):
    folder = tmp_path / "in"
    folder.mkdir()
    photo(folder / "caf\udce9.png", 1)
    (folder / "caf\udce9.avi").write_bytes(clip(tmp_path / "a.avi", 2).read_bytes())
    with pytest.raises(UserError, match=r"1 of 2 failed: caf.*\.avi"):  # it would crash OpenCV
        viewer(tmp_path / "out", save_csv=True, save_json=True).look_at_all([folder])
    assert "the name is not UTF-8" in capfd.readouterr().out
    assert "caf\\udce9.png" in (tmp_path / "out" / "detections.csv").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "out" / "coco_results.json").read_text(encoding="utf-8"))
    assert results[-1]["image_id"] == "caf\udce9.png"
    assert (tmp_path / "out" / "caf\udce9.png.jpg").exists()


def test_an_image_that_is_looked_at_again_counts_once(tmp_path):
    outputs = Outputs(tmp_path, pytest.fail, draw=False, save_csv=True)
    for name in ("a.jpg", "b.jpg", "a.jpg"):
        outputs.add(Frame(Source(tmp_path / name, Path(name)), None), FOUND)
    assert [row["image"] for row in outputs.rows] == ["b.jpg"] * 2 + ["a.jpg"] * 2
    assert list(outputs.images) == ["a.jpg", "b.jpg"]


def test_a_window_is_closed_by_q(tmp_path, monkeypatch):
    clip(tmp_path / "a.avi")
    keys = iter([-1, -1, ord("q")])
    monkeypatch.setattr("utils.media.viewer._has_display", lambda: True)
    monkeypatch.setattr(cv2, "imshow", lambda name, image: None)
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(keys))
    viewer(tmp_path / "out", show=True).look_at_all([tmp_path / "a.avi"])
    assert 3 <= len(grey_levels(tmp_path / "out" / "a.avi.mp4")[0]) <= 8


def test_places_differ_whatever_the_case(tmp_path):
    for name in ("one", "TWO"):
        (tmp_path / name).mkdir()
        photo(tmp_path / name / ("a.png" if name == "one" else "A.png"))
    finder = Finder(tmp_path / "out", pytest.fail)
    places = [finder.find(tmp_path / name)[0].place.as_posix() for name in ("one", "TWO", "one")]
    assert places == ["a.png", "A.png.2", "a.png"]
