"""Two processes do what one does that accumulates, and go on together after one was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest_training import assert_same_run, history_of

from utils.cli import UserError
from utils.distributed import check_same_on_all_ranks, process_group

TRAIN = Path(__file__).with_name("tiny_train.py")
SLOW = os.environ.get("SLOW_TESTS") == "1"  # 20 restarts instead of one


def words_of(flags):
    """Return settings as flags for the command line."""
    words = []
    for name, value in flags.items():
        words += [f"--{name}", *map(str, value)] if isinstance(value, tuple) else (
            [f"--{name}={value}"])
    return words


def run_training(flags, *torchrun_flags, **variables):
    """Train in a process of its own, or in two where there are flags for torchrun."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                *torchrun_flags) if torchrun_flags else ()
    done = subprocess.run([sys.executable, *launcher, TRAIN, *words_of(flags)],
                          capture_output=True, text=True, timeout=240,
                          env=os.environ | {"OMP_NUM_THREADS": "1", **variables})
    return done.returncode, done.stdout + done.stderr


def test_two_ranks_equal_one_that_accumulates(flags, tmp_path):
    flags |= {"batch_size": 2, "save_dir": tmp_path, "freeze_epochs": 0, "learning_rate": 0.01}
    for name, accumulate, ranks in (("one", 2, ()), ("two", 1, ("--max-restarts=0",))):
        status, output = run_training(flags | {"run_name": name, "accumulate": accumulate}, *ranks,
                                      TINY_NORM="group")
        assert status == 0, output
    assert output.count("epoch 3/3") == 1, "only rank 0 speaks"
    for one, two in zip(history_of(tmp_path / "one"), history_of(tmp_path / "two"), strict=True):
        for name in ("learning_rate", "loss", "loc", "conf", "positives"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-4)
        # A detection may change its rank by rounding.
        assert float(two["val_map"]) == pytest.approx(float(one["val_map"]), abs=0.02)
    one, two = (torch.load(tmp_path / name / "last.pth", weights_only=True)["state_dict"]
                for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_rank_is_started_again_and_the_run_comes_to_the_same_bits(flags, tmp_path):
    flags |= {"batch_size": 2, "save_dir": tmp_path, "save_steps": 1, "resume": "last"}
    status, output = run_training(flags | {"run_name": "whole"}, "--max-restarts=0")
    assert status == 0, output
    for number in range(20 if SLOW else 1):
        status, output = run_training(flags | {"run_name": f"run{number}"}, "--max-restarts=1",
                                      TINY_KILL=f"{number % 2} {2 + number % 9}")
        assert status == 0 and "exitcode: -9" in output, output
        assert_same_run(tmp_path / f"run{number}", tmp_path / "whole")


def test_lists_that_differ_between_ranks_are_refused(monkeypatch):
    monkeypatch.setattr("utils.distributed.gather", lambda values: [{"train list": 1}, values])
    with pytest.raises(UserError, match="rank 1 has another train list than rank 0"):
        check_same_on_all_ranks({"train list": 2})


def test_processes_that_torchrun_did_not_start_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")  # as srun does: each would train alone
    with pytest.raises(UserError, match="several processes must be started by torchrun"):
        process_group().__enter__()
