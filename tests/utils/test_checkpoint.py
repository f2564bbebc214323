"""Checkpoints: round trip, refusal of code, damaged files."""

import math
import os
import pickle
import random
import re
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from utils.checkpoint import (Checkpoint, check_tensors, newest_checkpoint, parse_checkpoint,
                              save_checkpoint, tensor_fault)
from utils.cli import UserError
from utils.data.annotations import read_class_names
from utils.multibox.spec import SSDSpec
from utils.tensor_files import read_tensor_file


def make_checkpoint(**changes):
    weights = {"a.weight": torch.randn(3, 2), "a.bias": torch.arange(4, dtype=torch.float16),
               "a.num_batches_tracked": torch.tensor(7)}
    return Checkpoint(SSDSpec(letterbox=True, steps=None, mean=(1.5, 2.0, 3.0)),
                      ("cat", "traffic light"), weights,
                      {"batch_size": 16, "input_shape": (300, 300)},
                      {"epoch": 3, "val_map": None})._replace(**changes)


def load_checkpoint(path):
    """Read a file that save_checkpoint wrote."""
    loaded = parse_checkpoint(read_tensor_file(path), path)
    assert loaded
    return loaded


def assert_short(error, name):
    """Check that a message names its file and has one or two lines."""
    assert name in str(error.value) and str(error.value).count("\n") < 2
    assert len(str(error.value)) < 600


def test_round_trip(tmp_path):
    saved = make_checkpoint()
    save_checkpoint(tmp_path / "a b ö.pth", saved)
    loaded = load_checkpoint(tmp_path / "a b ö.pth")
    assert loaded.spec == saved.spec and isinstance(loaded.spec.grids, tuple)
    assert loaded.class_names == ("cat", "traffic light")
    assert loaded.settings == saved.settings and loaded.progress == saved.progress
    assert loaded.state_dict.keys() == saved.state_dict.keys()
    for name, tensor in saved.state_dict.items():
        assert loaded.state_dict[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict[name], tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["a b ö.pth"]


@pytest.mark.parametrize("name", ["red\u00a0cell", "a\u3000x", "\u06a9\u200c\u0647", "👩\u200d🔧"])
def test_whatever_a_class_list_takes_a_checkpoint_takes(tmp_path, name):
    """A space that does not break, the joiners of Persian and of emoji."""
    (tmp_path / "classes.txt").write_text(f"cat\n{name}x\n", encoding="utf-8")
    names = read_class_names(tmp_path / "classes.txt")
    save_checkpoint(tmp_path / "a.pth", make_checkpoint()._replace(class_names=names))
    assert load_checkpoint(tmp_path / "a.pth").class_names == names


def test_file_holds_plain_types_only(tmp_path):
    save_checkpoint(tmp_path / "a.pth", make_checkpoint())
    values = torch.load(tmp_path / "a.pth", weights_only=True)
    assert isinstance(values["spec"], dict) and values["class_names"] == ["cat", "traffic light"]


def test_views_and_parameters_are_saved_alone(tmp_path):
    whole = torch.zeros(1000, 1000)
    view = torch.nn.Parameter(whole[:2, :2])
    save_checkpoint(tmp_path / "a.pth", make_checkpoint(state_dict={"w": view}))
    tensor = load_checkpoint(tmp_path / "a.pth").state_dict["w"]
    assert tensor.shape == (2, 2) and not tensor.requires_grad
    assert (tmp_path / "a.pth").stat().st_size < 100_000


def test_saving_replaces_the_old_file(tmp_path):
    for epoch in (1, 2):
        save_checkpoint(tmp_path / "last.pth", make_checkpoint(progress={"epoch": epoch}))
    assert load_checkpoint(tmp_path / "last.pth").progress == {"epoch": 2}
    assert os.listdir(tmp_path) == ["last.pth"]


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "last.pth", make_checkpoint(progress={"epoch": 1}))

    def full_disk(values, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError) as error:
        save_checkpoint(tmp_path / "last.pth", make_checkpoint(progress={"epoch": 2}))
    assert_short(error, "last.pth")
    assert os.listdir(tmp_path) == ["last.pth"]
    assert load_checkpoint(tmp_path / "last.pth").progress == {"epoch": 1}


def test_a_full_disk_is_called_that(tmp_path, monkeypatch):
    def full_disk(values, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    monkeypatch.setattr(torch, "save", full_disk)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(UserError, match="last.pth: cannot be written .the disk is full"):
        save_checkpoint(tmp_path / "last.pth", make_checkpoint())
    assert not os.listdir(tmp_path)


def test_what_a_run_needs_is_kept_with_its_memory_layout(tmp_path):
    moments = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "last.pth", make_checkpoint(run={"moments": moments, "step": 3}))
    run = load_checkpoint(tmp_path / "last.pth").run
    assert run["step"] == 3 and torch.equal(run["moments"], moments)
    assert run["moments"].stride() == moments.stride()
    save_checkpoint(tmp_path / "best.pth", make_checkpoint())
    assert "run" not in torch.load(tmp_path / "best.pth", weights_only=True)


def test_unwritable_places_are_named(tmp_path):
    with pytest.raises(UserError) as error:
        save_checkpoint(tmp_path / "no folder" / "last.pth", make_checkpoint())
    assert_short(error, "last.pth")


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError):
        save_checkpoint(tmp_path / "file" / "last.pth", make_checkpoint())


class Payload:
    """Runs a shell command when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"echo ran > '{self.marker}'",)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_and_does_not_run(tmp_path, legacy):
    marker, path = tmp_path / "marker", tmp_path / "bad.pth"
    torch.save({"format": "ssd-checkpoint-1", "w": torch.zeros(2), "x": Payload(marker)}, path,
               _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    assert_short(error, "bad.pth")
    assert "code" in str(error.value)
    assert not marker.exists()
    # The payload is a real one: plain unpickling runs it.
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()


def test_plain_pickle_with_code_is_refused(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    with pytest.raises(UserError) as error:
        read_tensor_file(path)
    assert_short(error, "bad.pkl")
    assert not marker.exists()


def test_a_whole_saved_network_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth")
    with pytest.raises(UserError, match="code") as error:
        read_tensor_file(tmp_path / "net.pth")
    assert_short(error, "net.pth")


@pytest.mark.parametrize("data", [
    b"", b"<!DOCTYPE html>\n<html>404: Not Found</html>", b"PK\x03\x04", bytes(100),
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"hello world\n",
    b"\xff\xd8\xff\xe0\x00\x10JFIF", b'{"message": "Not Found"}'])
def test_files_that_are_no_weights(tmp_path, data):
    path = tmp_path / "download.pth"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_tensor_file(path)
    assert_short(error, "download.pth")
    assert not re.search(r"\(\d+\)", str(error.value))


@pytest.mark.parametrize("data", [bytes(100), b"version https://git-lfs.github.com/spec/v1\n",
                                  b"\xff\xd8\xff\xe0\x00\x10JFIF"])
def test_files_of_another_kind_are_not_called_code(tmp_path, data):
    (tmp_path / "download.pth").write_bytes(data)
    with pytest.raises(UserError) as error:
        read_tensor_file(tmp_path / "download.pth")
    assert "run code" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_garbage_never_ends_in_a_traceback(tmp_path):
    path, rng = tmp_path / "garbage.pth", random.Random(0)
    starts = []
    for legacy in (False, True):
        torch.save({"w": torch.zeros(3)}, path, _use_new_zipfile_serialization=not legacy)
        starts.append(path.read_bytes())
    for k in range(600):
        data = bytearray(rng.randbytes(60) if k % 3 == 0 else starts[k % 2])
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[:rng.randrange(1, len(data) + 1)])
        try:
            read_tensor_file(path)
        except UserError as error:
            assert str(error).count("\n") < 2, data


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path, share):
    path = tmp_path / "last.pth"
    save_checkpoint(path, make_checkpoint())
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * share)])
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    assert_short(error, "last.pth")


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError) as error:
            read_tensor_file(path)
        assert_short(error, path.name)


@pytest.mark.parametrize("values", [
    {"w": torch.zeros(2)}, [1, 2], torch.zeros(2), {"format": "ssd-checkpoint-0"}, 3])
def test_other_contents_are_no_checkpoint(tmp_path, values):
    torch.save(values, tmp_path / "other.pth")
    assert parse_checkpoint(read_tensor_file(tmp_path / "other.pth"), "other.pth") is None


@pytest.mark.parametrize("part, value", [
    ("spec", None), ("spec", {"no_such_number": 1}), ("spec", {"grids": [1]}),
    ("class_names", None), ("class_names", ["cat", "a\nb"]), ("state_dict", "gone"),
    ("progress", "gone"), ("run", 3)])
def test_incomplete_checkpoint(tmp_path, part, value):
    save_checkpoint(tmp_path / "last.pth", make_checkpoint())
    values = torch.load(tmp_path / "last.pth", weights_only=True)
    if value == "gone":
        del values[part]
    else:
        values[part] = value
    torch.save(values, tmp_path / "last.pth")
    with pytest.raises(UserError, match="incomplete") as error:
        load_checkpoint(tmp_path / "last.pth")
    assert_short(error, "last.pth")


def test_default_spec_survives_json_like_lists(tmp_path):
    save_checkpoint(tmp_path / "last.pth", make_checkpoint(spec=SSDSpec()))
    assert load_checkpoint(tmp_path / "last.pth").spec == SSDSpec()


@pytest.mark.parametrize("change, complaint", [
    (lambda d: d.pop("bias"), "missing, bias"),
    (lambda d: d.update(extra=torch.zeros(1)), "unexpected, extra"),
    (lambda d: d.update(bias=torch.zeros(5)), "misshaped, bias")])
def test_tensors_of_another_network_are_refused(change, complaint):
    network = torch.nn.Linear(3, 2)
    weights = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    check_tensors(network.state_dict(), weights, "logs/best.pth")
    change(weights)
    with pytest.raises(UserError, match=complaint) as error:
        check_tensors(network.state_dict(), weights, "logs/best.pth")
    assert_short(error, "logs/best.pth")


@pytest.mark.parametrize("change, words", [
    (lambda w: w * math.nan, "nan or infinite"), (lambda w: w * math.inf, "nan or infinite"),
    (lambda w: w.double() * 1e300, "nan or infinite"), (lambda w: w.long(), "int64"),
    (lambda w: w.to(torch.complex64), "complex64"), (lambda w: w.bool(), "bool"),
    (lambda w: w.to_sparse(), "sparse"), (lambda w: w.to("meta"), "meta"),
    (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "quantised"),
    (lambda w: None, "misshaped"), (lambda w: w.tolist(), "misshaped"),
    (lambda w: torch.zeros(1).expand(10 ** 6, 10 ** 6), "misshaped")])
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_weights_are_refused_by_name(change, words):
    network = torch.nn.Linear(3, 2)
    state = {"weight": change(torch.ones(2, 3)), "bias": torch.ones(2)}
    with pytest.raises(UserError, match=f"weight.*{words}|{words}.*weight") as error:
        check_tensors(network.state_dict(), state, "logs/best.pth")
    assert_short(error, "logs/best.pth")


def test_missing_counters_of_batch_norm_are_no_fault():
    network, state = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2).state_dict()
    counter = state.pop("num_batches_tracked")
    check_tensors(network.state_dict(), state | {"weight": torch.ones(2).half()}, "a.pth")
    with pytest.raises(UserError, match="num_batches_tracked is float32, not int64"):
        check_tensors(network.state_dict(), state | {"num_batches_tracked": counter.float()}, "a")


def test_every_flipped_bit_of_the_numbers_is_found(tmp_path):
    """Bits that no checksum covers, such as a time of day, may flip; what is read is then equal."""
    saved, rng = make_checkpoint(state_dict={"w": torch.randn(500)}), random.Random(0)
    save_checkpoint(tmp_path / "a.pth", saved)
    data, path = (tmp_path / "a.pth").read_bytes(), tmp_path / "flipped.pth"
    start = data.index(saved.state_dict["w"].numpy().tobytes())
    places = [rng.randrange(start * 8, (start + 2000) * 8) for _ in range(100)]
    for place in places + [rng.randrange(len(data) * 8) for _ in range(200)]:
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            read = load_checkpoint(path)
        except UserError as error:
            assert str(error).count("\n") == 0
            continue
        assert place not in places
        assert torch.equal(read.state_dict["w"], saved.state_dict["w"])
        assert read[:2] + read[3:] == saved[:2] + saved[3:]


@pytest.mark.parametrize("call, error, raised", [
    ("fsync", OSError(28, "No space left on device"), UserError),
    ("replace", PermissionError(13, "Permission denied"), UserError),
    ("fsync", KeyboardInterrupt(), KeyboardInterrupt),
    ("replace", KeyboardInterrupt(), KeyboardInterrupt)])
def test_whatever_fails_the_old_file_stays_whole(tmp_path, monkeypatch, call, error, raised):
    save_checkpoint(tmp_path / "last.pth", make_checkpoint(progress={"epoch": 1}))

    def fail(*args):
        raise error
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(raised):
            save_checkpoint(tmp_path / "last.pth", make_checkpoint(progress={"epoch": 2}))
    assert os.listdir(tmp_path) == ["last.pth"]
    assert load_checkpoint(tmp_path / "last.pth").progress == {"epoch": 1}


def test_the_file_reaches_the_disk_before_its_name(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("sync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("rename"), replace(*names)))
    save_checkpoint(tmp_path / "last.pth", make_checkpoint())
    assert calls == ["sync", "rename", "sync"] if os.name == "posix" else ["sync", "rename"]
    (tmp_path / "other").touch()  # rights are those of any new file
    assert (tmp_path / "last.pth").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", "/dev/zero"):
        with pytest.raises(UserError, match="a pipe or device") as error:
            read_tensor_file(path)
        assert_short(error, str(path))


def test_a_zip_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10 ** 6))
    monkeypatch.setattr("utils.tensor_files.MAX_UNPACKED", 10 ** 5)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: pytest.fail("unpacked"))
    with pytest.raises(UserError, match="would unpack to") as error:
        read_tensor_file(tmp_path / "a.pth")
    assert_short(error, "a.pth")


def test_what_a_run_needs_may_be_a_few_times_the_weights(tmp_path, monkeypatch):
    """Adam keeps two numbers of each weight, and a run of many classes has to go on too."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pth")
    monkeypatch.setattr("utils.tensor_files.MAX_UNPACKED", 3000)
    with pytest.raises(UserError, match="would unpack to"):
        read_tensor_file(tmp_path / "a.pth")
    assert len(read_tensor_file(tmp_path / "a.pth", copies=4)["a"]) == 1000


def test_newest_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None
    now = time.time()
    for name, age in (("z_old", 100), ("b_new", 10), ("a_older", 50)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.pth").touch()
        os.utime(tmp_path / name / "best.pth", (now - age, now - age))
    (tmp_path / "b_new" / "last.pth").touch()
    (tmp_path / "b_new" / "best.pth.part").touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "b_new" / "best.pth"
    # A run_name with a slash or "." puts its folder elsewhere; equal times go by the path.
    for place in ("night/run 2", ".", "night/run 3"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "best.pth").touch()
        os.utime(tmp_path / place / "best.pth", (now, now))
        assert newest_checkpoint(tmp_path) == max(
            tmp_path / "night/run 2" / "best.pth", tmp_path / place / "best.pth", key=str)
    (tmp_path / "x" / "best.pth").mkdir(parents=True)  # a folder of that name is no weights file
    assert newest_checkpoint(tmp_path) == tmp_path / "night/run 3" / "best.pth"


def test_variances_are_not_negative():
    values = torch.tensor([1.0, -1e-3])
    assert tensor_fault("bn.running_var", values) == "holds negative variances"
    assert tensor_fault("bn.running_mean", values) is None


def test_a_run_removed_while_the_newest_is_sought(tmp_path, monkeypatch):
    for name in ("old", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.pth").touch()
    found = Path.stat

    def stat(path, **options):
        if path.parent.name == "gone" and path.name == "best.pth":
            raise FileNotFoundError(2, "gone")
        return found(path, **options)
    monkeypatch.setattr(Path, "stat", stat)
    assert newest_checkpoint(tmp_path).parent.name == "old"
