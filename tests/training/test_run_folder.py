"""A run's folder is one run's alone, and what is in it outlives every mishap."""

import csv
import os
import sys
import threading
from pathlib import Path

import pytest
import torch

from nets.ssd import build_spec
from utils.checkpoint import Checkpoint
from utils.cli import UserError
from utils.training import run_folder
from utils.training.run_folder import RunFolder, check_run_name, claim_folder

FIGURES = {"learning_rate": 0.1, "loss": 3.0, "loc": 1.0, "conf": 2.0, "train_seconds": 1.0}


@pytest.mark.parametrize("name", [
    "a/b", "a\\b", "/", "..", ".", "a.", " a", "a ", "CON", "nul.txt", "com1", "LPT9.a.b", "a:b",
    "a*", "a\nb", "a\0b", "a\ud800b", "x" * 151, "é" * 76, "../up", "a//b"])
def test_names_that_no_folder_can_have_everywhere(name):
    with pytest.raises(UserError, match="run_name"):
        check_run_name(name)


@pytest.mark.parametrize("name", ["", "run", "2026-01-31_12-00-00", "mobile net (2)", "v1.2",
                                  "图", "console", "é" * 75])
def test_names_that_are_fine(name):
    check_run_name(name)


def leave_weights(folder):
    (folder / "last.pth").write_bytes(b"weights")


def test_an_empty_save_dir_is_the_repo(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.cli.ROOT", tmp_path)
    with claim_folder("", "mine", "a  1") as folder:
        assert folder == tmp_path / "mine"


def test_a_given_name_is_one_runs_alone(tmp_path):
    with claim_folder(str(tmp_path), "mine", "a  1") as folder:
        leave_weights(folder)
        with pytest.raises(UserError, match="choose another run_name"), \
                claim_folder(str(tmp_path), "mine", "b  2"):
            pass
    with pytest.raises(UserError, match="holds another run"), \
            claim_folder(str(tmp_path), "mine", "b  2"):
        pass
    assert (tmp_path / "mine/settings.txt").read_text() == "a  1\n"


def test_runs_of_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.time, "strftime", lambda form: "now")
    names, barrier = [], threading.Barrier(8)

    def start(k):
        barrier.wait()
        with claim_folder(str(tmp_path), "", f"run {k}") as folder:
            leave_weights(folder)
            names.append((folder.name, k))

    threads = [threading.Thread(target=start, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for name, _ in names) == ["now", *(f"now-{k}" for k in range(2, 9))]
    for name, k in names:
        assert (tmp_path / name / "settings.txt").read_text() == f"run {k}\n"


def test_a_run_without_weights_leaves_its_name_free(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), claim_folder(str(tmp_path), "mine", ""):
            raise KeyboardInterrupt
        assert not (tmp_path / "mine").exists()
    with claim_folder(str(tmp_path), "mine", "") as folder:
        (folder / "notes.txt").write_text("a user's")
    assert (tmp_path / "mine/notes.txt").exists()


@pytest.fixture
def results(tmp_path):
    return RunFolder(tmp_path, save_period=2)


def run_epoch(results, epoch, measure):
    spec = build_spec("mobilenetv2", 300)
    results.save_epoch(Checkpoint(spec, ("cat",), {"w": torch.tensor([float(epoch)])}, {},
                                  {"epoch": epoch}, {"epoch": epoch}), {"epoch": epoch} | FIGURES)
    return results.finish_epoch(measure)


def epoch_in(path):
    values = torch.load(path, weights_only=True)
    assert values["state_dict"]["w"].item() == values["progress"]["epoch"]
    return values["progress"]["epoch"]


# val mAP by epoch (None: not due, ... : measured but not to be had), epoch in best.pth, as the
# rule "the last that no earlier one beats; the last of all as long as nothing is measured" has it
@pytest.mark.parametrize("maps, best", [
    ([0.1, 0.3, 0.2], 2), ([0.3, 0.3, 0.2], 2), ([0.0, 0.0, 0.0], 3), ([None, None, None], 3),
    ([None, 0.2, None], 2), ([..., ..., ...], 3), ([0.4, ..., None], 1), ([..., 0.1, 0.05], 2)])
def test_best_is_chosen_by_val_map(results, tmp_path, monkeypatch, maps, best):
    monkeypatch.setattr(run_folder, "plot_history", lambda rows, folder: None)
    for epoch, value in enumerate(maps, start=1):
        measure = None if value is None else lambda v=value: None if v is ... else v
        row = run_epoch(results, epoch, measure)
        assert row["val_map"] == (None if value is ... else value)
        assert epoch_in(tmp_path / "last.pth") == epoch
    assert epoch_in(tmp_path / "best.pth") == best == results.best_epoch
    assert epoch_in(tmp_path / "epoch_2.pth") == 2 and not (tmp_path / "epoch_3.pth").exists()
    assert f"epoch {best} of 3" in results.describe_best()
    assert [row["epoch"] for row in csv.DictReader(open(tmp_path / "history.csv"))] == list("123")


def test_an_interrupt_during_val_map_loses_nothing(results, tmp_path):
    run_epoch(results, 1, lambda: 0.5)

    def interrupted():
        assert epoch_in(tmp_path / "last.pth") == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_epoch(results, 2, interrupted)
    assert epoch_in(tmp_path / "last.pth") == 2 and epoch_in(tmp_path / "best.pth") == 1
    rows = list(csv.DictReader(open(tmp_path / "history.csv")))
    assert [row["val_map"] for row in rows] == ["0.5", ""] and (tmp_path / "loss.png").exists()


@pytest.mark.parametrize("name", ["history.csv", "loss.png", "map.png"])
def test_a_folder_in_a_figures_place_costs_a_line(results, tmp_path, capsys, name):
    (tmp_path / name).mkdir()
    for epoch in (1, 2):
        run_epoch(results, epoch, lambda: 0.5)
    out = capsys.readouterr().out
    assert out.count("cannot be written") == len(out.splitlines()) == 2 and name in out
    assert epoch_in(tmp_path / "last.pth") == epoch_in(tmp_path / "best.pth") == 2


@pytest.mark.skipif(sys.platform == "win32" or not os.path.exists("/dev/full"), reason="/dev/full")
def test_a_full_disk_costs_lines_and_no_history(results, tmp_path, monkeypatch, capsys):
    run_epoch(results, 1, None)
    before = {name: (tmp_path / name).read_bytes() for name in ("history.csv", "loss.png")}
    with monkeypatch.context() as patch:  # what is written goes to a device that takes nothing
        patch.setattr(Path, "unlink", lambda path, **_: None)
        for name in before:
            (tmp_path / name).with_suffix(".part").symlink_to("/dev/full")
        run_epoch(results, 2, None)
    assert capsys.readouterr().out.count("No space left on device") == 2
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    assert epoch_in(tmp_path / "last.pth") == 2
