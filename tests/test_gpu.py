"""What a GPU is used for: on a real one where there is one, else on a pretended one."""

import functools
import json
import os
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import device_faults
import numpy as np
import pretend_gpu
import pytest
import tiny_train
import torch
from processes import FORKED, run_on_two_ranks, words_of
from same_run import assert_same_run, history_of

import get_map
import train
from nets.runtimes.inspect import heat_map
from nets.ssd import SSDNet, build_spec
from ssd import SSD
from utils import cli
from utils.checkpoint import save_checkpoint
from utils.multibox.coder import BoxCoder
from utils.multibox.loss import MultiBoxLoss

NAMES = ("circle", "square", "triangle", "star")
IS_REAL, CUDA = torch.cuda.is_available(), torch.device("cuda", 0)
pytestmark = pytest.mark.skipif(not torch.version.cuda, reason="needs PyTorch for CUDA")
pretended_alone = pytest.mark.skipif(IS_REAL, reason="counted on a pretended GPU alone")


def on_gpu(test):
    """Have a test run in a process of its own on a pretended GPU, or here on a real one."""
    @functools.wraps(test)
    def run(**arguments):
        if IS_REAL:
            return test(**arguments)
        with ProcessPoolExecutor(1, FORKED) as pool:
            pool.submit(_run_pretended, test.__name__, arguments).result()
    return run


def _run_pretended(name, arguments):
    pretend_gpu.install()
    tiny_train.use_tiny(pytest.MonkeyPatch())
    globals()[name].__wrapped__(**arguments)


@pytest.fixture
def settings(flags, tmp_path, tiny):
    return flags | {"save_dir": str(tmp_path), "epochs": 2, "device": "cuda", "batch_size": 4}


@pytest.fixture
def weights(tmp_path, tiny):
    """A checkpoint of random numbers, small and with scores of all heights."""
    torch.manual_seed(0)
    network = SSDNet(5, build_spec("resnet50", 128))
    SSD(network=network, class_names=NAMES, device="cpu").save(tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


# ---- Training ----

@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@on_gpu
def test_a_training_stops_goes_on_and_never_waits_in_a_step(settings, precision, tmp_path):
    settings |= {"precision": precision, "num_workers": int(precision == "fp16"),
                 "save_period": 1}
    train_step, before, inside, stepped = train.train_step, [], [], threading.Event()

    def step(*args, **kwargs):
        before.append(take_waits())
        if len(before) == 8:  # of the second run, its last
            raise KeyboardInterrupt
        result = train_step(*args, **kwargs)
        inside.append(take_waits())
        stepped.set()
        return result

    def save(path, checkpoint):
        if path.name == "epoch_1.pth":
            stepped.clear()
            assert stepped.wait(60), "the second epoch waits for the checkpoint of the first"
        save_checkpoint(path, checkpoint)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_step", step)
        patch.setattr("utils.training.run.save_checkpoint", save)
        train.main(train.TrainSettings(**settings | {"run_name": "whole"}))
        with pytest.raises(KeyboardInterrupt):
            train.main(train.TrainSettings(**settings))
        train.main(train.TrainSettings(resume=str(tmp_path / "run")))
    state = torch.load(tmp_path / "run" / "last.pth")  # without map_location, as on a CPU machine
    for tensor in (*state["state_dict"].values(), state["run"]["optimizer"][0]["exp_avg"]):
        assert tensor.device.type == "cpu"
    assert len(history_of(tmp_path / "run")) == 2 and len(before) == 10
    if IS_REAL:
        return
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    # Steps have numbers from 0, of which the odd ones follow another one of their epoch.
    assert not any(inside) and not any(before[1::2]), (inside, before)
    # Two losses, and whether the outputs for the val images are numbers.
    assert before[2]["event"] == before[6]["event"] == 3, before
    if precision == "fp32":
        train.main(train.TrainSettings(**settings | {"run_name": "cpu", "device": "cpu"}))
        assert_same_run(tmp_path / "run", tmp_path / "cpu")


def take_waits():
    """Return {what for: how often} the host waited for a pretended GPU since the last call."""
    waits = Counter()
    if not IS_REAL:
        for (reason, _), count in pretend_gpu.state.waits.items():
            waits[reason] += count
        pretend_gpu.state.waits.clear()
    return waits


@on_gpu
def test_a_checkpoint_that_a_thread_cannot_write_ends_the_run(settings):
    def fail(path, checkpoint):
        raise cli.UserError(f"{path.name}: cannot be written.")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(cli.UserError, match="last.pth"):
        patch.setattr("utils.training.run.save_checkpoint", fail)
        train.main(train.TrainSettings(**settings))


@on_gpu
def test_a_training_goes_on_from_published_weights_frozen_and_accumulated(settings, tmp_path):
    fixture = np.load(Path(__file__).parent / "fixtures" / "bubbliiiing-mobilenetv2.npz")
    torch.save({name: torch.full(shape, 0.01) for name, shape in json.loads(str(fixture["keys"]))},
               tmp_path / "published.pth")
    train.main(train.TrainSettings(**settings | {
        "model_path": str(tmp_path / "published.pth"), "freeze_epochs": 1, "freeze_batch_size": 2,
        "batch_size": 2, "accumulate": 2, "epochs": 1, "optimizer": "sgd", "val_list": "",
        "train_list": settings["val_list"], "precision": "bf16", "sample_period": 1}))
    assert float(history_of(tmp_path / "run")[0]["loss"]) > 0


@pytest.mark.skipif(IS_REAL and torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_ranks_on_two_gpus_equal_one_that_accumulates(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_NORM", "group")  # else a batch is more than its images
    settings |= {"batch_size": 2}
    train.main(train.TrainSettings(**settings | {"run_name": "one", "device": "cpu",
                                                 "accumulate": 2}))
    pretended = [] if IS_REAL else [pretend_gpu.__file__]
    done = run_on_two_ranks(*pretended, tiny_train.__file__, *words_of(settings),
                            TINY_NORM="group")
    assert done.returncode == 0 and done.output.count("epoch 2/2") == 1, done.output
    for one, two in zip(history_of(tmp_path / "one"), history_of(tmp_path / "run"), strict=True):
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=1e-4)
        assert two["positives"] == one["positives"]


@pretended_alone
@on_gpu
def test_the_loss_of_16_images_takes_less_than_half_a_gigabyte():
    criterion, low = MultiBoxLoss(BoxCoder(build_spec("vgg", 512))), torch.rand(16, 100, 2) * 0.8
    labels = torch.full(low.shape[:2], -1)
    labels[::8] = 3  # the others are padding, which takes the same memory and less time
    targets = criterion.make_targets(torch.cat([low, low + 0.1], -1), labels, labels == 0)
    loc, conf = (torch.zeros(16, len(criterion.coder.priors), count, device=CUDA,
                             requires_grad=True) for count in (4, 21))
    gpu = pretend_gpu.state
    gpu.peak = before = gpu.memory
    sum(criterion(loc, conf, type(targets)(*(part.to(CUDA) for part in targets)), 1.0)).backward()
    assert 2 ** 25 < gpu.peak - before < 2 ** 29


# ---- Detection ----

@on_gpu
def test_detections_are_those_of_the_cpu(weights):
    images = list(np.random.default_rng(0).integers(0, 256, (3, 90, 150, 3), dtype=np.uint8))
    for changes in ({}, {"nms": "agnostic"}, {"classes": ("star", "circle")}):
        gpu, cpu = (SSD(weights, device=device, confidence=0.2, **changes)
                    for device in ("cuda", "cpu"))
        assert gpu.device == CUDA
        expected = [cpu.detect(image) for image in images]
        same_detections([gpu.detect(image) for image in images], expected)
        stream = gpu.detect_stream(images, batch_size=2)
        same_detections([detections for *_, detections in stream], expected)
        take_waits()
        same_detections(gpu.detect_batch(images), expected)
        # Whatever the number of images: they are copied, and the classes to look for; how many
        # candidates there are; they are copied; are boxes and scores numbers, as is known by then.
        few = {"copy to the GPU": 2 if "classes" in changes else 1, "nonzero": 1,
               "copy to the host": 1, "event": 1}
        assert take_waits() == ({} if IS_REAL else few)
    heat = [heat_map(detector.runtime, images[0]) for detector in (gpu, cpu)]
    np.testing.assert_allclose(*heat, atol=1e-2 if IS_REAL else 1e-5)
    for precision in ("bf16", "fp16", "auto"):
        detections = SSD(weights, device="cuda", precision=precision).detect_batch(images)
        assert all(np.isfinite(image.boxes).all() for image in detections)
    tiled = [SSD(network=tiled_network(weights, device), class_names=NAMES, device=device,
                 confidence=0.2) for device in ("cuda", "cpu")]
    same_detections(*(detector.detect_batch(images) for detector in tiled))


def tiled_network(weights, device):
    network = SSD(weights, device=device).network
    network.spec = replace(network.spec, tile=80)
    return network


def same_detections(results, expected):
    """Compare Detections bit by bit, or roughly on a real GPU."""
    for one, other in zip(results, expected, strict=True):
        assert len(other) > 5
        if IS_REAL:
            assert abs(len(one) - len(other)) <= 0.1 * len(other) + 2
            np.testing.assert_allclose(one.scores[0], other.scores[0], atol=0.01)
        else:
            for part, same in zip(one, other):
                np.testing.assert_allclose(part, same, atol=1e-4)


@on_gpu
def test_get_map_measures_what_the_cpu_measures(weights, settings, tmp_path):
    results = []
    for device in ("cuda", "cpu"):
        get_map.main(get_map.MapSettings(model_path=weights, test_list=settings["val_list"],
                                         device=device, map_out_path=str(tmp_path / device)))
        results.append(json.loads((tmp_path / device / "results.json").read_text()))
    assert results[0] == results[1] or IS_REAL


@on_gpu
def test_a_network_on_a_gpu_is_exported_and_stays_there(weights, tmp_path):
    pytest.importorskip("onnxscript")
    detector = SSD(weights, device="cuda")
    detector.export(tmp_path / "a.onnx", outputs="boxes")
    assert (tmp_path / "a.onnx").exists()
    assert next(detector.network.parameters()).device == CUDA


# ---- The rules that a pretended GPU has to keep: CUDA's ----

@on_gpu
def test_what_a_gpu_refuses():
    gpu, cpu = torch.arange(4.0, device=CUDA), torch.arange(4.0)
    for mistake in (lambda: gpu + cpu, lambda: gpu[None] @ cpu[:, None], lambda: gpu.add_(cpu),
                    lambda: cpu[gpu.long()], lambda: torch.cat([gpu, cpu]),
                    lambda: torch.where(gpu > 1, gpu, cpu), lambda: cpu.add_(gpu[0]),
                    lambda: torch.zeros(1, device="cuda:99")):
        with pytest.raises(RuntimeError):
            mistake()
    for mistake in (gpu.numpy, lambda: np.asarray(gpu)):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor"):
            mistake()
    assert (gpu + cpu[1] * 2).tolist() == gpu[cpu.long()].add(2).tolist() == [2, 3, 4, 5]
    gpu[[0, 1]] = 7
    assert torch.where(gpu > 5, gpu, 0).cpu().numpy().tolist() == [7, 7, 0, 0]
    with torch.autocast("cuda", torch.float16):
        assert (gpu[None] @ gpu[:, None]).dtype == torch.float16
        assert gpu.softmax(0).dtype == gpu.half().exp().dtype == torch.float32


@pretended_alone
@pytest.mark.skipif(os.environ.get("SLOW_TESTS") != "1", reason="slow")
@pytest.mark.parametrize("fault", device_faults.FAULTS)
def test_a_device_mistake_turns_a_test_red(fault, tmp_path, request):
    arguments = {"precision": "fp32", "tmp_path": tmp_path} if "training" in fault[3] else {}
    fixture = "settings" if arguments else "weights"
    arguments[fixture] = request.getfixturevalue(fixture)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # imports the copy
        failure = pool.submit(device_faults.failure_in_copy, str(tmp_path), fault,
                              arguments).result()
    print(failure[:300])
    assert bool(failure) == (fault[1] != fault[2])
