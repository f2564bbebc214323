"""Settings from flags, errors without tracebacks, paths from the repository."""

import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from ssd import WeightsSettings
from utils.cli import (ROOT, UserError, check_fields, check_file, make_folder, read_text, resolve,
                       run, shorten, typeable, typed_path)


@dataclass(frozen=True)
class Settings:
    """Some settings."""

    # How many images at once.
    batch_size: int = 8
    input_shape: tuple[int, int] = (300, 300)
    VOCdevkit_path: str = "VOCdevkit"
    letterbox_image: bool = False
    val_share: float = 0.1
    kind: Literal["a", "b"] = "a"
    ratios: tuple[float, ...] = ()


def run_with(monkeypatch, *flags, main=None):
    """Run a main function of Settings with these flags."""
    monkeypatch.setattr(sys, "argv", ["script.py", *flags])
    run(main, Settings)


def test_flags_of_the_best_known_repo_are_translated(monkeypatch):
    with pytest.raises(SystemExit, match="--Init_lr is --learning_rate here"):
        run_with(monkeypatch, "--Init_lr", "1e-3")


def test_help_shows_underscores_and_comments(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run_with(monkeypatch, "--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--batch_size" in text and "--batch-size" not in text
    assert "How many images at once" in text


@pytest.mark.parametrize("error, status, message", [
    (UserError("cats.jpg: no such file; check it."), 2, "error: cats.jpg: no such file; check it."),
    (KeyboardInterrupt(), 130, "\nstopped."),
    (MemoryError(), 2, "error: out of memory; lower batch_size"),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "error: out of memory"),
    (RuntimeError("could not create a primitive"), 2, "error: out of memory")])
def test_what_people_meet_ends_in_one_line(monkeypatch, capsys, error, status, message):
    def main(settings):
        raise error
    with pytest.raises(SystemExit) as stop:
        run_with(monkeypatch, main=main)
    err = capsys.readouterr().err
    assert stop.value.code == status and err.startswith(message) and err.strip().count("\n") == 0


def test_other_errors_keep_their_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run_with(monkeypatch, main=lambda settings: 1 / 0)


def test_relative_paths_start_at_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert ROOT == Path(__file__).resolve().parents[2]
    assert resolve("logs/run") == ROOT / "logs" / "run"
    assert resolve(tmp_path / "x") == tmp_path / "x"
    assert shorten(ROOT / "logs" / "a b.txt") == "logs/a b.txt"
    assert shorten(tmp_path / "a.txt") == str(tmp_path / "a.txt")
    assert shorten(str(ROOT) + "-other/a.txt") == str(ROOT) + "-other/a.txt"
    for name in ("a", "a b", "it's", "$HOME", "a;b", "ö"):
        assert shlex.split(typeable(Path("/x") / name)) == [f"/x/{name}"]


@pytest.mark.parametrize("flags, field, value", [
    ("", "save_dir", "logs"), ("--save_dir logs", "save_dir", "{}/logs"), ("--save_dir=~/a",
     "save_dir", "{}/a"), ("--save-dir a", "save_dir", "{}/a"), ("--save_dir /a", "save_dir", "/a"),
    ("--model_path coco", "model_path", "coco"), ("--model_path a.pth", "model_path", "{}/a.pth")])
def test_given_paths_start_at_the_current_directory_and_defaults_at_the_repository(
        monkeypatch, tmp_path, flags, field, value):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["script.py", *flags.split()])
    received = []
    run(received.append, WeightsSettings)
    assert getattr(received[0], field) == value.format(tmp_path)
    assert WeightsSettings(classes_path="b.txt").classes_path == str(tmp_path / "b.txt")
    (tmp_path / "a").touch()
    assert typed_path("a") == tmp_path / "a" and typeable(tmp_path / "a") == "a"


def test_wrong_paths_give_one_line(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "latin.txt").write_bytes("Köln".encode("latin-1"))
    for call, path, words in (
            (typed_path, "nowhere", "nowhere: no such file or folder"),
            (check_file, tmp_path / "none", "none: no such file"),
            (check_file, tmp_path, "no such file"),
            (make_folder, tmp_path / "file" / "inner", "inner: cannot be made"),
            (lambda path: read_text(path, remedy="Do this."), tmp_path / "none", "none.*Do this"),
            (lambda path: read_text(path, remedy=""), tmp_path / "latin.txt", "latin.txt.*UTF-8")):
        with pytest.raises(UserError, match=words) as error:
            call(path)
        assert "\n" not in str(error.value)


def test_good_fields():
    check_fields(Settings(batch_size=np.int64(3), val_share=np.float32(1), ratios=(1, 2.5),
                          VOCdevkit_path=Path("a")), {"val_share": (0, 1), "ratios": (1, 3)})


@pytest.mark.parametrize("changes, message", [
    ({"batch_size": 1.0}, "batch_size must be an integer, got 1.0"),
    ({"val_share": math.nan}, "val_share must lie in"),
    ({"val_share": "1"}, "val_share must be a number"),
    ({"val_share": 1.5}, r"val_share must lie in 0\.\.1"),
    ({"VOCdevkit_path": None}, "VOCdevkit_path must be a text"),
    ({"letterbox_image": 1}, "letterbox_image must be True or False"),
    ({"kind": "c"}, "kind must be one of .*, got 'c'"),
    ({"input_shape": (1, 2, 3)}, r"input_shape must be a tuple\[int, int\]"),
    ({"input_shape": (1, 2.5)}, "input_shape must be an integer"),
    ({"ratios": (2, 9)}, r"ratios must lie in 1\.\.3, got 9")])
def test_bad_fields(changes, message):
    with pytest.raises(UserError, match=message):
        check_fields(Settings(**changes), {"val_share": (0, 1), "ratios": (1, 3)})
