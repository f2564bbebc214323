"""Two processes do what one does that accumulates; they end together, and go on together."""

import csv
import json
import math
import os
import re
import subprocess
import sys

import pytest
import rank_cases
import torch

import train
import voc_annotation
from benchmarks.kill import compare
from utils.cli import ROOT, UserError
from utils.data import demo_data
from utils.data.loader import EpochBatchSampler
from utils.training.optim import Schedule

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Lists of 40 and 11 train images, of 5 val images, and of ones that are broken."""
    folder = tmp_path_factory.mktemp("data")
    demo_data.main(demo_data.DemoSettings(folder=str(folder), images=50, held_out=0))
    voc_annotation.main(voc_annotation.AnnotationSettings(
        classes_path=str(folder / "classes.txt"), VOCdevkit_path=str(folder / "VOCdevkit"),
        lists_dir=str(folder), val_share=0.1, test_share=0.1))
    head, *lines = (folder / "2007_train.txt").read_text().splitlines()
    (folder / "bad.jpg").write_bytes(b"no image")
    bad = f"{folder / 'bad.jpg'} 1,1,9,9,0"
    for name, chosen in (("forty", lines[:40]), ("eleven", lines[:11]), ("ten", lines[:10]),
                         ("bad", [*lines[:10], bad])):
        (folder / f"{name}.txt").write_text("\n".join([head, *chosen]) + "\n")
    head, *lines = (folder / "2007_val.txt").read_text().splitlines()
    (folder / "bad_val.txt").write_text("\n".join([head, *lines, *[bad] * 9]) + "\n")
    return folder


def settings_of(data, save_dir, name, train_list="eleven", **changes):
    values = {"train_list": str(data / f"{train_list}.txt"), "val_list": str(data / "2007_val.txt"),
              "save_dir": str(save_dir), "run_name": name, "epochs": 3, "batch_size": 4,
              "num_workers": 0, "device": "cpu", "precision": "fp32", "backbone_weights": "x"}
    return values | changes


def torchrun(*words, folder, **options):
    """Run a script in two processes; return (exit status, output)."""
    flags = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *flags,
         *map(str, words)], capture_output=True, text=True, timeout=300, cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"})
    return done.returncode, done.stdout + done.stderr


def run_cases(folder, cases, **options):
    """Run cases in two processes; return (exit status, output, [{name: how it ended}] by rank)."""
    folder.mkdir(exist_ok=True)
    (folder / "cases.json").write_text(json.dumps(cases))
    status, output = torchrun(rank_cases.__file__, folder, folder=folder, **options)
    paths = [folder / f"ended-{k}.json" for k in range(2)]
    return status, output, [json.loads(p.read_text()) if p.exists() else {} for p in paths]


def rows_of(folder):
    return [{name: value for name, value in row.items() if "seconds" not in name}
            for row in csv.DictReader(open(folder / "history.csv"))]


# What two ranks train and what one process does in their place.
ALIKE = {
    "vgg": ({"train_list": "forty", "epochs": 1}, {"accumulate": 2}),
    # Frozen: 6 batches of 2; then 3 batches of 4, and rank 1 has none in an epoch's last step.
    "ragged": ({"optimizer": "sgd", "freeze_epochs": 1, "freeze_batch_size": 2}, {"accumulate": 2}),
    "accumulate": ({"optimizer": "sgd", "batch_size": 2, "accumulate": 2}, {"accumulate": 4}),
    "steps": ({"save_steps": 1}, {"accumulate": 2})}


@pytest.fixture(scope="module")
def pairs(data, tmp_path_factory):
    """The save_dirs of the trainings in ALIKE, by two ranks and by one process of one thread."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    cases = {name: {"net": "vgg" if name == "vgg" else "tiny",
                    "settings": settings_of(data, two, name, **changes),
                    "of rank": {1: {"save_dir": str(two / "of rank 1")}}}
             for name, (changes, _) in ALIKE.items()}
    status, output, ended = run_cases(two / "job", cases)
    assert status == 0 and ended == [dict.fromkeys(ALIKE, ["", ""])] * 2, output
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_cases.run_folder, "plot_history", lambda *_: None)
        for name in ("build_network", "network_of"):
            patch.setattr(train, name, getattr(train, name))
        torch.set_num_threads(1)
        for name, (changes, instead) in ALIKE.items():
            settings = settings_of(data, one, name, **changes | instead)
            assert rank_cases.run_case(cases[name] | {"settings": settings, "of rank": {}}, 0) \
                == ["", ""]
        torch.set_num_threads(threads)
    return two, one


# g0 + g1 is g1 + g0: one batch a rank gives the same bits. With two a rank the sums run in another
# order, and float32's rounding, 6e-8 of a gradient, is left after each step.
@pytest.mark.parametrize("name, tolerance", [("vgg", 0), ("ragged", 0), ("steps", 0),
                                             ("accumulate", 1e-6)])
def test_two_ranks_are_one_process_that_accumulates(pairs, name, tolerance):
    two, one = ([torch.load(save_dir / name / "last.pth", weights_only=True)
                 for save_dir in pairs])
    assert two["progress"] == one["progress"] and two["run"]["step"] == one["run"]["step"]
    moved = worst = 0.0
    torch.manual_seed(0)
    start = rank_cases.NETS["vgg" if name == "vgg" else "tiny"]().state_dict()
    for key, value in one["state_dict"].items():
        worst = max(worst, float((two["state_dict"][key] - value).abs().max()))
        moved = max(moved, float((start[key] - value).abs().max()))
    print(f"{name}: largest difference {worst:.1e}, moved {moved:.1e}")
    assert worst <= tolerance and moved > 1e-4
    for ours, theirs in zip(*(rows_of(save_dir / name) for save_dir in pairs), strict=True):
        assert ours["val_map"] == theirs["val_map"] != ""
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-6)
        assert ours["positives"] == theirs["positives"]


def test_rank_0_alone_writes(pairs):
    two, one = pairs
    assert not (two / "of rank 1").exists()
    assert {path.name for path in two.iterdir()} == {*ALIKE, "job"}
    for name in ALIKE:
        files = [{path.name.partition(".tfevents")[0] for path in (folder / name).iterdir()}
                 for folder in pairs]
        assert files[0] == files[1]
        assert len(list((two / name).glob("events*"))) <= 1


def test_the_number_of_ranks_is_the_runs_own(pairs):
    last = pairs[0] / "steps" / "last.pth"
    with pytest.raises(UserError, match="began with 2 processes, now there are 1"):
        train.main(train.TrainSettings(resume=str(last)))


@pytest.mark.parametrize("images, batch_size, ranks, accumulate", [
    (11, 4, 2, 1), (11, 4, 2, 2), (40, 4, 2, 1), (7, 8, 2, 1), (1, 4, 3, 1), (23, 2, 3, 2),
    (64, 4, 4, 4), (65, 4, 4, 4), (5, 1, 8, 1)])
def test_every_step_has_the_images_of_one_process(images, batch_size, ranks, accumulate):
    def steps_of(ranks, accumulate):
        schedule = Schedule(num_images=images, epochs=2, batch_size=batch_size,
                            accumulate=accumulate, ranks=ranks, freeze_epochs=0,
                            freeze_batch_size=1, learning_rate=1.0, kind="step", warmup_steps=0,
                            min_lr_ratio=0.1)
        size, steps = schedule.batch_size_in(1), []
        samplers = [EpochBatchSampler(images, size, 3, rank, ranks) for rank in range(ranks)]
        for done in range(schedule.steps_in(1)):  # each as after a resumption
            batches = []
            for sampler in samplers:
                sampler.epoch, sampler.start = 1, done * accumulate
                chosen = list(sampler)
                assert len(chosen) == len(sampler)
                batches += chosen[:accumulate]
            steps.append(sorted(batches))
        return steps, schedule.total_steps(), schedule.rate(0, 0)

    several, one = steps_of(ranks, accumulate), steps_of(1, ranks * accumulate)
    assert several == one and several[1] == 2 * len(several[0])
    drawn = [index for step in several[0] for batch in step for _, index in batch]
    assert set(drawn) == set(range(images))
    size = min(batch_size, images)
    assert len(drawn) == math.ceil(images / size) * size


def test_what_ends_one_rank_ends_all_and_is_said_once(data, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "a.txt").touch()

    def case(name, net="tiny", train_list="eleven", of_rank=None, **more):
        return {"net": net, "settings": settings_of(data, tmp_path, name, train_list),
                "of rank": {1: of_rank or {}}} | more

    cases = {"image": case("image", train_list="bad"), "taken": case("taken"),
             "seed": case("seed", of_rank={"seed": 7}),
             "list": case("list", of_rank={"train_list": str(data / "ten.txt")}),
             "nan": case("nan", rank=1, step=2, do="nan"),
             "all": case("all", of_rank={"match_iou": 9.0})}
    cases["all"]["settings"]["match_iou"] = 9.0  # on both
    bad_val = case("val", **{"val goes bad": True})
    bad_val["settings"]["val_list"] = str(data / "bad_val.txt")
    gone = case("gone", **{"best goes": True})
    status, output, ended = run_cases(tmp_path / "job", cases | {"gone": gone, "val": bad_val})
    assert status == 0, output
    words = {"image": r"bad\.jpg", "taken": "holds another run", "seed": r"another seed \(",
             "list": r"another train \(", "nan": "loss is not finite at step 3", "all": "match_iou"}
    for name, pattern in words.items():
        silent, (kind, text) = sorted([ended[0][name], ended[1][name]],
                                      key=lambda end: end[0] != "SystemExit")
        assert silent == ["SystemExit", "1"] and kind in ("UserError", "CannotLearn"), ended
        assert re.search(pattern, text), text
    # An image of the val list that goes bad costs the val mAP, on all ranks; a best.pth that is
    # gone at the end the AP by class.
    assert ended[0]["val"] == ended[1]["val"] == ended[0]["gone"] == ended[1]["gone"] == ["", ""]
    assert re.search(r"no AP by class: .*gone/best\.pth", output), output
    assert [row["val_map"] for row in rows_of(tmp_path / "val")] == [""] * 3
    assert {path.name for path in tmp_path.iterdir()} <= {"job", "taken", "val", "nan", "gone"}


@posix
@pytest.mark.parametrize("rank, step", [(1, 4), (0, 1)])
def test_a_killed_worker_costs_no_bit(data, tmp_path, pairs, rank, step):
    case = {"net": "tiny", "settings": settings_of(data, tmp_path, "steps", save_steps=1),
            "rank": rank, "step": step, "do": "kill"}
    status, output, ended = run_cases(tmp_path / "job", {"run": case}, max_restarts=1)
    assert status == 0 and ended[0] == ended[1] == {"run": ["", ""]}, output
    assert "this goes on with the run in" in output and output.count("error:") <= 1
    faults = compare(pairs[0] / "steps", tmp_path / "steps")
    assert not [name for name in faults if not name.endswith("/settings/save_dir")]


@posix
def test_a_signal_to_torchrun_stops_all_after_the_same_step(data, tmp_path, pairs):
    settings = settings_of(data, tmp_path, "steps", save_steps=1)
    case = {"net": "tiny", "settings": settings, "rank": 1, "step": 3, "do": "stop"}
    status, output, ended = run_cases(tmp_path / "job", {"run": case})
    assert status and {kind for rank in ended for kind, _ in rank.values()} <= {
        "Stopped", "SystemExit"}
    last = tmp_path / "steps" / "last.pth"
    step = torch.load(last, weights_only=True)["run"]["step"]
    assert 2 <= step < 6
    case = {"net": "tiny", "settings": settings | {"resume": str(last)}}
    status, output, ended = run_cases(tmp_path / "job", {"run": case})
    assert status == 0, output
    faults = compare(pairs[0] / "steps", tmp_path / "steps")
    assert not [name for name in faults if not name.endswith("/settings/save_dir")]


def test_mobilenet_and_its_map_at_the_command_line(data, tmp_path):
    settings = settings_of(data, tmp_path, "run", backbone="mobilenetv2", backbone_weights="",
                           epochs=1, save_steps=1)
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    status, output = torchrun(ROOT / "train.py", *words, "--input_shape", 260, 260, folder=tmp_path)
    assert status == 0, output
    assert output.count("epoch 1/1") == output.count("batch norm: on CPUs") == 1
    figures = []
    for ranks in (2, 1):
        words = ["--model_path", tmp_path / "run" / "best.pth", "--batch_size", 8,
                 "--test_list", data / "2007_train.txt", "--map_out_path", tmp_path / str(ranks)]
        if ranks == 2:
            status, output = torchrun(ROOT / "get_map.py", *words, folder=tmp_path)
            assert status == 0 and output.count("mAP@0.5") == 1, output
        else:
            subprocess.run([sys.executable, str(ROOT / "get_map.py"), *map(str, words)], check=True,
                           env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
        figures.append((tmp_path / str(ranks) / "results.json").read_bytes())
    assert figures[0] == figures[1] and json.loads(figures[0])["map_area"] is not None


def test_a_message_at_the_command_line_comes_once(data, tmp_path):
    status, output = torchrun(ROOT / "train.py", "--train_list", "no.txt", folder=tmp_path)
    assert status and output.count("no.txt") == 1, output
    assert 'train.py", line' not in output
    for number, count in (("0", 1), ("1", 0)):  # a mistyped flag: before the processes have met
        done = subprocess.run([sys.executable, str(ROOT / "train.py"), "--epocks", "3"],
                              capture_output=True, text=True, env=os.environ | {
                                  "TORCHELASTIC_RUN_ID": "x", "RANK": number, "LOCAL_RANK": number})
        assert done.returncode == 2 and done.stderr.count("options: --epocks") == count, done
