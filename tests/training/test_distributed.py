"""Two processes do what one does that accumulates, and go on together after one was killed."""

import os

import pytest
import tiny_train
import torch
from processes import run_on_two_ranks, words_of
from same_run import assert_same_run, history_of

import train
from utils.cli import UserError
from utils.distributed import check_same_on_all_ranks, process_group

SLOW = os.environ.get("SLOW_TESTS") == "1"  # 20 restarts instead of one


def train_on_two_ranks(flags, **options):
    """Train as torchrun's two processes; return what they print."""
    done = run_on_two_ranks(tiny_train.__file__, *words_of(flags | {"save_steps": 1}), **options)
    assert done.returncode == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def two_ranks(short_training, tmp_path_factory):
    """(the settings of a training on two ranks, its folder)."""
    flags = short_training | {"learning_rate": 0.01}
    folder = tmp_path_factory.mktemp("two")
    output = train_on_two_ranks(flags | {"save_dir": folder}, TINY_NORM="group")
    assert output.count("epoch 3/3") == 1, "only rank 0 speaks"
    return flags, folder / "run"


def test_two_ranks_equal_one_that_accumulates(two_ranks, tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("TINY_NORM", "group")  # else a batch is more than its images
    flags, folder = two_ranks
    train.main(train.TrainSettings(**flags | {"accumulate": 2, "save_dir": str(tmp_path)}))
    for one, two in zip(history_of(tmp_path / "run"), history_of(folder), strict=True):
        for name in ("learning_rate", "loss", "loc", "conf", "positives"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-4)
        # A detection may change its rank by rounding.
        assert float(two["val_map"]) == pytest.approx(float(one["val_map"]), abs=0.02)
    one, two = (torch.load(path / "last.pth", weights_only=True)["state_dict"]
                for path in (tmp_path / "run", folder))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_rank_is_started_again_and_the_run_comes_to_the_same_bits(two_ranks, tmp_path):
    flags, folder = two_ranks
    for number in range(20 if SLOW else 1):
        output = train_on_two_ranks(
            flags | {"save_dir": tmp_path, "run_name": f"run{number}", "resume": "last"},
            max_restarts=1, TINY_NORM="group", TINY_KILL=f"{number % 2} {2 + number % 5}")
        assert "exitcode: -9" in output, output
        assert_same_run(tmp_path / f"run{number}", folder)


def test_lists_that_differ_between_ranks_are_refused(monkeypatch):
    monkeypatch.setattr("utils.distributed.gather", lambda values: [{"train list": 1}, values])
    with pytest.raises(UserError, match="rank 1 has another train list than rank 0"):
        check_same_on_all_ranks({"train list": 2})


def test_processes_that_torchrun_did_not_start_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")  # as srun does: each would train alone
    with pytest.raises(UserError, match="several processes must be started by torchrun"):
        process_group().__enter__()
