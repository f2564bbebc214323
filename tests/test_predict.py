"""predict.py: images that are named, asked for, or in a folder; bad ones among them."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_detector import NAMES, photo, tiny_detector

import predict
from ssd import SSD
from utils.cli import ROOT, UserError


@pytest.fixture(scope="module")
def detector():
    return tiny_detector()


@pytest.fixture
def look(detector, tmp_path, monkeypatch, capsys):
    """Return a call that runs predict.py in tmp_path with typed lines; it returns the output.

    `test_the_command_line` reads weights from a file; here they are in memory.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "SSD", lambda settings: SSD(
        settings, network=detector.network, class_names=NAMES))

    def run(*images, typed=(), fails=None, **changes):
        answers = iter([*typed, "q"])
        monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
        values = {"show": False, "confidence": 0.3, "device": "cpu",
                  "dir_save_path": str(tmp_path / "out"), **changes}
        with pytest.raises(UserError, match=fails) if fails else contextlib.nullcontext():
            predict.main(predict.PredictSettings(images=images, **values))
        return capsys.readouterr().out
    run.out = lambda: capsys.readouterr().out
    return run


def drawings(folder):
    return sorted(path.relative_to(folder / "out").as_posix()
                  for path in (folder / "out").rglob("*") if path.is_file())


def test_named_images_and_folders(look, tmp_path):
    (tmp_path / "more").mkdir()
    originals = [photo(tmp_path / "a.png"), photo(tmp_path / "more" / "b.JPG", 1)]
    (tmp_path / "more" / "notes.txt").touch()
    before = [path.read_bytes() for path in originals]
    out = look("a.png", "nowhere.jpg", "more", str(tmp_path / "a.png"),
               fails="1 of 3 failed: nowhere.jpg")
    assert drawings(tmp_path) == ["a.png.jpg", "b.JPG.jpg"]
    assert "nowhere.jpg: no such file or folder" in out
    assert "2 of 3 images done" in out and out.count("error:") == 1
    assert [path.read_bytes() for path in originals] == before
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.png.jpg"), int)
    assert drawn.shape == (64, 96, 3)
    assert np.abs(drawn - np.asarray(Image.open(tmp_path / "a.png"), int)).max() > 60


def test_a_name_is_looked_for_in_the_repo_too(look, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.cli.ROOT", tmp_path / "repo")
    (tmp_path / "repo").mkdir()
    photo(tmp_path / "repo" / "a.png")
    assert "a.png: " in look("a.png")


def test_none_of_the_named_can_be_read(look, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    out = look("bad.jpg", "nowhere.jpg", fails="2 of 2 failed: nowhere.jpg, bad.jpg")
    assert out.count("error:") == 2 and "0 of 2" in out


def test_images_of_one_name_get_a_drawing_each(look, tmp_path):
    for k, name in enumerate(("one", "two", "three")):
        (tmp_path / name).mkdir()
        photo(tmp_path / name / "0001.png", k)
    look("one", "two", "three/0001.png", "one/0001.png")
    assert drawings(tmp_path) == ["0001.png.2.jpg", "0001.png.3.jpg", "0001.png.jpg"]
    levels = {np.asarray(Image.open(tmp_path / "out" / name)).tobytes()
              for name in drawings(tmp_path)}
    assert len(levels) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_devices_and_folders_are_refused_at_once(look, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    photo(tmp_path / "z.png")
    out = look(typed=["pipe.jpg", "/dev/zero", "z.png"])
    assert out.count("pipe.jpg: not a file") == 1 and out.count("saved") == 1
    out = look(mode="dir_predict", dir_origin_path=str(tmp_path), fails="pipe.jpg")
    assert "pipe.jpg: not a file" in out and "1 of 2 images done" in out


def test_the_prompt_asks_again(look, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    photo(tmp_path / "a.png")
    bad = ["nowhere.jpg", "broken.jpg", "file://[bad", "file://[2019] a.jpg",
           "~$report.jpg", "~nobody/a.jpg", "x" * 5000, "a\0.jpg",
           "x/" * 3000 + "a.jpg"]
    out = look(typed=["", "  ", *bad, "a.png", "Q"])
    assert out.count("error:") == len(bad) and out.count("saved") == 1


def test_each_line_at_the_prompt_is_a_new_try(look, tmp_path, monkeypatch):
    def lines():
        yield from ("a.png", "a.png")
        photo(tmp_path / "a.png")
        yield "a.png"
        raise KeyboardInterrupt

    typed = lines()
    real = predict.ask

    def ask(viewer):
        monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
        real(viewer)

    monkeypatch.setattr(predict, "ask", ask)
    with pytest.raises(KeyboardInterrupt):
        look(save_csv=True)
    assert (tmp_path / "out" / "detections.csv").exists()  # what was found before Ctrl-C
    out = look.out()
    assert out.count("a.png: no such file") == 2 and out.count("saved ") == 1


@pytest.mark.parametrize("typed", [
    "{}/o n e.png", "  {}/o n e.png  ", "'{}/o n e.png'", '"{}/o n e.png" ', r"{}/o\ n\ e.png ",
    "file://{}/o%20n%20e.png", "o n e.png"])
def test_paths_as_people_type_and_drop_them(look, tmp_path, typed):
    if os.name != "posix" and ("\\" in typed or "file:" in typed):
        pytest.skip("written otherwise there")
    photo(tmp_path / "o n e.png")
    assert "saved" in look(typed=[typed.format(tmp_path)])


def test_a_name_that_begins_with_a_tilde_or_ends_with_a_space(look, tmp_path):
    photo(tmp_path / "~$a.png")
    photo(tmp_path / "b.png").rename(tmp_path / "b.png ")
    assert look(typed=["~$a.png", "b.png "]).count("saved") == 2


@pytest.mark.skipif(os.name != "posix", reason="no such names there")
def test_names_do_not_steer_the_terminal(look, tmp_path):
    photo(tmp_path / "a.png").rename(tmp_path / "a\x1b[2J\nb.png")
    out = look("a\x1b[2J\nb.png", "c\x1b[2J.png", fails="1 of 2 failed")
    assert "\x1b" not in out and r"a\x1b[2J\nb.png: " in out and r"c\x1b[2J.png: no such" in out


def test_when_nothing_is_found_the_best_score_is_shown(look, tmp_path):
    photo(tmp_path / "a.png")
    out = look("a.png", confidence=1.0)
    assert "nothing found" in out and "the best box has score" in out
    assert "confidence is 1" in out


def test_dir_predict_passes_over_broken_files(look, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    photo(source / "good.JPG")
    (source / "bad.png").write_bytes(b"")
    (source / "deep" / "er").mkdir(parents=True)
    photo(source / "deep" / "er" / "good.JPG")
    out = look(mode="dir_predict", dir_origin_path=str(source), fails="1 of 3 failed: bad.png")
    assert "bad.png" in out and "2 of 3 images" in out
    assert drawings(tmp_path) == ["deep/er/good.JPG.jpg", "good.JPG.jpg"]


@pytest.mark.parametrize("origin", ["nowhere", "empty", "file", "circle"])
def test_dir_predict_says_where_it_looked(look, tmp_path, origin):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    fault = "no images or videos there.*set dir_origin_path" if origin == "empty" else origin
    look(mode="dir_predict", dir_origin_path=str(tmp_path / origin), fails=fault)


def test_drawings_are_not_drawn_upon(look, tmp_path):
    photo(tmp_path / "a.png")
    (tmp_path / "link").symlink_to(tmp_path)
    for _ in range(2):  # the folder of the drawings inside that of the images
        assert "a.png: " in look(mode="dir_predict", dir_origin_path=str(tmp_path))
    for save in (tmp_path, tmp_path / "link"):
        out = look(mode="dir_predict", dir_origin_path=str(tmp_path), dir_save_path=str(save),
                   fails="1 of 1 failed")
        assert "drawings would be taken for images" in out
    assert "a.png: lies among the drawings" in look(typed=["a.png"], dir_save_path=str(tmp_path))
    assert "lies among the drawings" in look(typed=["out/a.png.jpg"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "link", "out"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_drawing_that_cannot_be_written_costs_one_line(look, tmp_path, monkeypatch):
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png")
    (tmp_path / "out" / "a.png.jpg").mkdir(parents=True)
    out = look("a.png", "b.png", fails="1 of 2 failed: a.png")
    assert "a.png.jpg: cannot be written (Is a directory)" in out and "1 of 2 images" in out
    assert drawings(tmp_path) == ["b.png.jpg"]
    # A full disk: what is written goes to a device that takes nothing.
    (tmp_path / "out" / "b.png.part").symlink_to("/dev/full")
    out = look("b.png", fails="1 of 1 failed: b.png")
    assert "b.png.jpg: cannot be written (No space left on device)" in out
    Image.open(tmp_path / "out" / "b.png.jpg").load()  # the drawing of the first run


def test_the_command_line(detector, tmp_path):
    weights = tmp_path / "best.pth"
    detector.save(weights)
    photo(tmp_path / "中文.png")
    done = subprocess.run(
        [sys.executable, ROOT / "predict.py", "中文.png", "nowhere.png", "--model_path",
         str(weights), "--dir_save_path", str(tmp_path / "out"), "--confidence", "1"],
        cwd=tmp_path, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2 and done.stderr == b"error: 1 of 2 failed: nowhere.png\n"
    assert b"\\u4e2d\\u6587.png: nothing found" in done.stdout
    assert b"1 of 2 images done" in done.stdout
    assert drawings(tmp_path) == ["中文.png.jpg"]
