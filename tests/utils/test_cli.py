"""Settings from flags, errors without tracebacks, paths from the repo."""

import math
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from utils import cli
from utils.cli import (
    ROOT,
    UserError,
    check_fields,
    check_file,
    describe_error,
    make_folder,
    read_text,
    resolve,
    run,
    settings_table,
    shorten,
    typed_path,
    writing,
)
from utils.memory import out_of_memory

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    """Some settings."""

    # How many images at once.
    batch_size: int = 8
    input_shape: tuple[int, int] = (300, 300)
    VOCdevkit_path: str = "VOCdevkit"
    letterbox_image: bool = False
    val_share: float = 0.1


def run_with(monkeypatch, *flags, main=None):
    """Run Settings with these flags; return the settings that main got, or None."""
    seen = []
    monkeypatch.setattr(sys, "argv", ["script.py", *flags])
    run(main or seen.append, Settings)
    return seen[0] if seen else None


def test_defaults_without_flags(monkeypatch):
    assert run_with(monkeypatch) == Settings()


@pytest.mark.parametrize("flags, field, value", [
    (["--batch_size", "16"], "batch_size", 16),
    (["--input_shape", "512", "512"], "input_shape", (512, 512)),
    (["--VOCdevkit_path", "a b/ö"], "VOCdevkit_path", "a b/ö"),
    (["--letterbox_image"], "letterbox_image", True),
    (["--val_share", "0.25"], "val_share", 0.25),
])
def test_every_field_is_a_flag(monkeypatch, flags, field, value):
    assert getattr(run_with(monkeypatch, *flags), field) == value


@pytest.mark.parametrize("flags", [
    ["--batchsize", "16"], ["--batch_size", "many"], ["--batch_size"], ["--no_such_flag"],
    ["stray"], ["--input_shape", "300"], ["--batch_size", "1.5"]])
def test_bad_flag_stops_before_main(monkeypatch, capsys, flags):
    def main(settings):
        raise AssertionError("main ran")
    with pytest.raises(SystemExit) as stop:
        run_with(monkeypatch, *flags, main=main)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_shows_underscores_and_comments(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run_with(monkeypatch, "--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--batch_size" in text and "--batch-size" not in text
    assert "How many images at once" in text


SCRIPT = """
from dataclasses import dataclass
from utils.cli import UserError, run

@dataclass(frozen=True)
class Settings:
    kind: str = "user"

def main(settings):
    print("started")
    if settings.kind == "user":
        raise UserError("cats.jpg: no such file; check the path.")
    if settings.kind == "stop":
        raise KeyboardInterrupt
    raise ValueError("a bug")

if __name__ == "__main__":
    run(main, Settings)
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Run the script above with a kind of failure and return the finished process."""
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")

    def start(kind):
        return subprocess.run([sys.executable, str(path), "--kind", kind], capture_output=True,
                              text=True, env={"PYTHONPATH": str(REPO)}, timeout=60)
    return start


def test_user_error_ends_in_one_line(outcome):
    done = outcome("user")
    assert done.returncode == 2
    assert done.stderr == "error: cats.jpg: no such file; check the path.\n"
    assert done.stdout == "started\n"


def test_other_errors_keep_their_traceback(outcome):
    done = outcome("bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ValueError: a bug" in done.stderr


def test_ctrl_c_has_no_traceback(outcome):
    done = outcome("stop")
    assert done.returncode == 130 and "Traceback" not in done.stderr


def test_relative_paths_start_at_the_repo(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert ROOT == REPO
    assert resolve("logs/run") == REPO / "logs" / "run"
    assert resolve(tmp_path / "x") == tmp_path / "x"
    assert resolve(".") == REPO


def test_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert resolve("~/a.txt") == tmp_path / "a.txt"


def test_shorten_only_inside_the_repo(tmp_path):
    assert shorten(REPO / "logs" / "a b.txt") == "logs/a b.txt"
    assert shorten(tmp_path / "a.txt") == str(tmp_path / "a.txt")
    assert shorten(str(REPO) + "-other/a.txt") == str(REPO) + "-other/a.txt"


def test_make_folder_makes_parents_and_keeps_contents(tmp_path):
    folder = make_folder(tmp_path / "a" / "b")
    (folder / "kept").touch()
    assert make_folder(folder) == tmp_path / "a" / "b"
    assert (folder / "kept").exists()


def test_make_folder_where_a_file_is(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "inner"):
        with pytest.raises(UserError, match="file.*cannot be made"):
            make_folder(path)


def test_read_text_names_file_and_remedy(tmp_path):
    with pytest.raises(UserError, match=r"missing\.txt.*Do this\."):
        read_text(tmp_path / "missing.txt", remedy="Do this.")
    with pytest.raises(UserError, match=r"Do this\."):
        read_text(tmp_path, remedy="Do this.")
    (tmp_path / "latin.txt").write_bytes("Köln".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt.*UTF-8"):
        read_text(tmp_path / "latin.txt", remedy="")


def test_read_text_drops_the_bom(tmp_path):
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfcat\r\n")
    assert read_text(tmp_path / "bom.txt", remedy="").split() == ["cat"]


def test_settings_table_has_a_line_a_field():
    lines = settings_table(Settings()).splitlines()
    assert [line.split()[0] for line in lines] == list(Settings.__dataclass_fields__)
    assert lines[1].endswith("(300, 300)")


@pytest.mark.parametrize("name", ["~$report.jpg", "~no_such_user_here/a.txt"])
def test_a_tilde_that_is_no_home_is_a_plain_name(name):
    assert resolve(name) == REPO / name


@pytest.mark.parametrize("path", ["x" * 5000, "d/" * 4000 + "x", "é" * 200, "a\0b", "\ud800"])
@pytest.mark.parametrize("call", [resolve, make_folder, typed_path, check_file,
                                  lambda path: read_text(path, remedy="")])
def test_no_possible_name_is_refused_in_one_line(path, call):
    with pytest.raises(UserError) as caught:
        call(path)
    assert "\n" not in str(caught.value)
    assert len(describe_error(caught.value)) < 700


def test_a_typed_path_is_looked_for_where_one_stands_then_in_the_repo(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert typed_path("README.md") == REPO / "README.md"
    (tmp_path / "README.md").touch()
    assert typed_path("README.md") == tmp_path / "README.md"
    with pytest.raises(UserError, match=f"nowhere: no such .* in {tmp_path} or {REPO};"):
        typed_path("nowhere")
    with pytest.raises(UserError, match="/nowhere/a: no such file or folder; check"):
        typed_path("/nowhere/a")


def test_writing_leaves_the_old_file_or_the_new(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), writing(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with writing(path) as part:
        part.write_text("new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(UserError, match="b.txt: cannot be written"), \
            writing(tmp_path / "missing" / "b.txt") as part:
        part.write_text("")


@dataclass(frozen=True)
class Kinds:
    count: int = 1
    share: float = 0.5
    name: str = ""
    on: bool = False
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 2)
    ratios: tuple[float, ...] = ()


@pytest.mark.parametrize("changes", [
    {}, {"count": np.int64(3)}, {"share": 1}, {"share": np.float32(1)}, {"name": Path("a")},
    {"on": True}, {"ratios": (1, 2.5)}, {"pair": (0, 3)}])
def test_good_fields(changes):
    check_fields(Kinds(**changes), {"share": (0, 1), "ratios": (1, 3)})


@pytest.mark.parametrize("changes, message", [
    ({"count": 1.0}, "count must be a whole number, got 1.0"),
    ({"count": True}, "count must be a whole number"), ({"count": "1"}, "count must be a whole"),
    ({"share": math.nan}, "share must be finite"), ({"share": "1"}, "share must be a number"),
    ({"share": None}, "share must be a number"), ({"share": 1.5}, r"share must lie in 0\.\.1"),
    ({"name": None}, "name must be a text"), ({"name": 3}, "name must be a text"),
    ({"on": 1}, "on must be True or False"), ({"on": "no"}, "on must be True or False"),
    ({"kind": "c"}, "kind must be one of 'a', 'b', got 'c'"), ({"kind": None}, "kind must be one"),
    ({"pair": (1, 2, 3)}, r"pair must be a tuple such as \(1, 2\), got \(1, 2, 3\)"),
    ({"pair": 300}, "pair must be a tuple"), ({"pair": (1, 2.5)}, "pair must be a whole number"),
    ({"ratios": (2, math.inf)}, "ratios must be finite"), ({"ratios": "23"}, "ratios must be a"),
    ({"ratios": (2, 9)}, r"ratios must lie in 1\.\.3, got 9"),
])
def test_bad_fields(changes, message):
    with pytest.raises(UserError, match=message):
        check_fields(Kinds(**changes), {"share": (0, 1), "ratios": (1, 3)})


@dataclass(frozen=True)
class Sizes:
    batch_size: int = 8
    accumulate: int = 1
    freeze_epochs: int = 0
    freeze_batch_size: int = 16
    input_shape: tuple = (300, 300)
    num_workers: int = 2
    backbone: str = "resnet50"


@pytest.mark.parametrize("changes, words", [
    ({}, "batch_size 8 -> 4 and raise accumulate 1 -> 2, then input_shape (300, 300), then "
         "num_workers 2, or"),
    ({"accumulate": 3, "num_workers": 0}, "batch_size 8 -> 4 and raise accumulate 3 -> 6, then "
                                          "input_shape (300, 300), or"),
    ({"batch_size": 1}, "lower input_shape (300, 300), then num_workers 2, or"),
    ({"batch_size": 15}, "batch_size 15 -> 5 and raise accumulate 1 -> 3,"),
    ({"batch_size": 5}, "lower batch_size 5 -> 2, then"),  # 1 is not for batch norm
    ({"batch_size": 5, "backbone": "vgg"}, "batch_size 5 -> 1 and raise accumulate 1 -> 5,"),
    ({"freeze_epochs": 1}, "batch_size 8 -> 4 and freeze_batch_size 16 -> 8 and raise accumulate")])
def test_out_of_memory_says_what_to_lower_to_what(changes, words):
    assert words in out_of_memory(Sizes(**changes))


def test_out_of_memory_without_settings():
    assert out_of_memory(None) == ("out of memory; lower the size of the images, or close "
                                       "other programs.")


def test_typed_flags(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--batch_size", "4", "--num-workers=2",
                                      "--no-channels-last", "-x", "--seed"])
    assert {"batch_size", "num_workers", "channels_last", "seed"} <= cli.typed_flags()
    assert not {"4", "x", "epochs"} & cli.typed_flags()


@pytest.mark.skipif(os.name != "posix", reason="the shell's quotes")
@pytest.mark.parametrize("name", ["a", "a b", "it's", "$HOME", "a;b", '"', "ö"])
def test_what_is_typed_is_the_path(name):
    assert shlex.split(cli.typeable(Path("/x") / name)) == [f"/x/{name}"]


def test_a_file_that_somebody_has_open_is_replaced_a_little_later(tmp_path, monkeypatch):
    """As on Windows, where a scanner holds it for a moment."""
    (tmp_path / "a.txt").write_text("old")
    real, tries = os.replace, []

    def replace(*paths):
        tries.append(paths)
        if len(tries) < 3:
            raise PermissionError(13, "in use")
        real(*paths)

    def write():
        with cli.writing(tmp_path / "a.txt") as part:
            part.write_text("new")

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(cli, "RETRY_SECONDS", 0)
    with pytest.raises(UserError, match="a.txt: cannot be written"):
        write()
    assert (tmp_path / "a.txt").read_text() == "old" and len(tries) == 1
    monkeypatch.setattr(cli, "RETRY_SECONDS", 30)
    write()
    assert (tmp_path / "a.txt").read_text() == "new" and len(tries) == 3
