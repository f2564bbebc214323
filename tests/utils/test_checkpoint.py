"""Checkpoints: round trip, saving that is cut short, refusal of code and of damaged files."""

import math
import os
import pickle
import time

import pytest
import torch
from payload import Payload

from utils.checkpoint import (Checkpoint, check_tensors, newest_checkpoint, parse_checkpoint,
                              read_torch_file, save_checkpoint)
from utils.cli import UserError
from utils.multibox.spec import SSDSpec


def make_checkpoint(**changes):
    weights = {"a.weight": torch.randn(3, 2), "a.bias": torch.arange(4, dtype=torch.float16),
               "a.num_batches_tracked": torch.tensor(7)}
    return Checkpoint(SSDSpec(letterbox=True, steps=None, mean=(1.5, 2.0, 3.0)),
                      ("cat", "traffic light"), weights,
                      {"batch_size": 16, "input_shape": (300, 300)},
                      {"epoch": 3, "val_map": None})._replace(**changes)


def load_checkpoint(path):
    """Read a file that save_checkpoint wrote."""
    return parse_checkpoint(read_torch_file(path), path)


def assert_refused(call, name, words=""):
    """Assert that a call raises a UserError of one line that names the file."""
    with pytest.raises(UserError, match=words) as error:
        call()
    assert name in str(error.value) and "\n" not in str(error.value)


def test_round_trip(tmp_path):
    moments = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    saved = make_checkpoint(run={"moments": moments, "step": 3})
    save_checkpoint(tmp_path / "a b ö.pth", saved)
    loaded = load_checkpoint(tmp_path / "a b ö.pth")
    assert loaded.spec == saved.spec and loaded.class_names == saved.class_names
    assert loaded.settings == saved.settings and loaded.progress == saved.progress
    assert loaded.state_dict.keys() == saved.state_dict.keys()
    for name, tensor in saved.state_dict.items():
        assert loaded.state_dict[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict[name], tensor)
    assert loaded.run["step"] == 3 and torch.equal(loaded.run["moments"], moments)
    assert loaded.run["moments"].stride() == moments.stride()
    assert [path.name for path in tmp_path.iterdir()] == ["a b ö.pth"]
    plain = torch.load(tmp_path / "a b ö.pth", weights_only=True)  # for scripts of others
    assert plain["format"] == "ssd-checkpoint-1" and plain["spec"]["letterbox"] is True


@pytest.mark.parametrize("call, error, raised", [
    ("torch.save", OSError(28, "No space left on device"), UserError),
    ("os.fsync", OSError(28, "No space left on device"), UserError),
    ("os.replace", PermissionError(13, "Permission denied"), UserError),
    ("os.fsync", KeyboardInterrupt(), KeyboardInterrupt)])
def test_whatever_fails_the_old_file_stays_whole(tmp_path, monkeypatch, call, error, raised):
    save_checkpoint(tmp_path / "last.pth", make_checkpoint(progress={"epoch": 1}))

    def fail(*args):
        raise error
    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(raised, match="last.pth" if raised is UserError else None):
            save_checkpoint(tmp_path / "last.pth", make_checkpoint(progress={"epoch": 2}))
    assert os.listdir(tmp_path) == ["last.pth"]
    assert load_checkpoint(tmp_path / "last.pth").progress == {"epoch": 1}


@pytest.mark.parametrize("write", [
    torch.save, lambda values, path: torch.save(values, path, _use_new_zipfile_serialization=False),
    lambda values, path: path.write_bytes(pickle.dumps(values, protocol=2))])
def test_code_is_refused_and_does_not_run(tmp_path, write):
    payload, path = Payload(tmp_path / "marker"), tmp_path / "bad.pth"
    write({"format": "ssd-checkpoint-1", "w": torch.zeros(2), "x": payload}, path)
    assert_refused(lambda: read_torch_file(path), "bad.pth", "code, which is not run")
    assert not payload.marker.exists()
    pickle.loads(pickle.dumps(payload))  # plain unpickling runs it
    assert payload.marker.exists()


@pytest.mark.parametrize("data, words", [
    (b"", "empty"), (b"\n<!DOCTYPE html>\n<html>404: Not Found</html>", "a web page"),
    (b"PK\x03\x04", "cannot be read"), (bytes(100), "cannot be read"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "cannot be read")])
def test_files_that_are_no_weights(tmp_path, data, words):
    (tmp_path / "download.pth").write_bytes(data)
    assert_refused(lambda: read_torch_file(tmp_path / "download.pth"), "download.pth", words)


@pytest.mark.parametrize("changes", [
    {"spec": None}, {"spec": {"no_such_number": 1}}, {"spec": {"grids": [1]}},
    {"class_names": None}])
def test_incomplete_checkpoint(tmp_path, changes):
    save_checkpoint(tmp_path / "last.pth", make_checkpoint())
    values = torch.load(tmp_path / "last.pth", weights_only=True)
    torch.save(values | changes, tmp_path / "last.pth")
    assert_refused(lambda: load_checkpoint(tmp_path / "last.pth"), "last.pth", "incomplete")


@pytest.mark.parametrize("changes, words", [
    ({"bias": None}, "bias is missing"), ({"extra": torch.zeros(1)}, "extra does not belong"),
    ({"bias": torch.zeros(5)}, r"bias does not have the shape \(2,\)"),
    ({"bias": [1.0, 2.0]}, "bias does not have the shape"),
    ({"bias": torch.tensor([1, math.nan])}, "bias holds nan or infinite"),
    ({"bias": torch.tensor([1, 1e300], dtype=torch.float64)}, "bias holds nan or infinite")])
def test_tensors_that_do_not_fit_the_network_are_refused_by_name(changes, words):
    with torch.device("meta"):
        expected = torch.nn.Linear(3, 2).state_dict()
    state = {"weight": torch.ones(2, 3), "bias": torch.ones(2).half()}
    check_tensors(expected, state, "best.pth")
    assert_refused(lambda: check_tensors(expected, state | changes, "best.pth"), "best.pth", words)


def test_newest_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path / "missing") is None
    now = time.time()
    for name, age in (("z_old", 100), ("night/run 2", 10), ("a_older", 50)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "best.pth").touch()
        os.utime(tmp_path / name / "best.pth", (now - age, now - age))
    (tmp_path / "z_old" / "last.pth").touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "night/run 2" / "best.pth"
