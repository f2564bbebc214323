"""Records to batches: order, keys of randomness, padding, broken images."""

import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from utils.cli import UserError
from utils.data import loader as loader_module
from utils.data.annotations import Record
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import (
    DetectionDataset,
    EpochBatchSampler,
    Purpose,
    Sample,
    batches,
    collate,
    make_loader,
    make_rng,
    start_worker,
)
from utils.image import load_image, resize_to_input
from utils.multibox.spec import SSDSpec
from utils.tiling import draw_window

SPEC = SSDSpec()


def make_records(folder, counts):
    """Write a random image for each number of objects; return the Records."""
    rng, records = np.random.default_rng(0), []
    for k, count in enumerate(counts):
        path = Path(folder) / f"{k}.png"
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
        low = rng.uniform(0, 20, (count, 2))
        boxes = np.concatenate([low, low + rng.uniform(8, 20, (count, 2))], 1).astype(np.float32)
        records.append(Record(path, boxes, rng.integers(0, 3, count), rng.random(count) < 0.3))
    return records


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("images"), [1, 2, 0, 3, 1, 2, 4])


def paper_set(records, seed=0):
    return DetectionDataset(records, SPEC, AUGMENTATIONS["paper"], seed)


def samples_of(records, *, epoch, batch_size, num_workers, seed=0):
    """Return {index: (image, boxes, labels, difficult) without padding} of an epoch."""
    loader = make_loader(paper_set(records, seed), batch_size, seed=seed, num_workers=num_workers,
                         pin_memory=False)
    loader.batch_sampler.epoch = epoch
    found = {}
    for batch in batches(loader):
        for k, index in enumerate(batch.indices):
            real = batch.labels[k] >= 0
            found[index] = (batch.images[k], batch.boxes[k][real], batch.labels[k][real],
                            batch.difficult[k][real])
    return found


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(x, y) for index in a for x, y in zip(a[index], b[index]))


def test_samples_do_not_depend_on_workers_or_batches(records):
    alone = samples_of(records, epoch=3, batch_size=3, num_workers=0)
    assert sorted(alone) == list(range(7))
    assert same(alone, samples_of(records, epoch=3, batch_size=3, num_workers=2))
    assert same(alone, samples_of(records, epoch=3, batch_size=7, num_workers=0))


def test_epochs_and_seeds_differ(records):
    first = samples_of(records, epoch=0, batch_size=7, num_workers=0)
    for other in (samples_of(records, epoch=1, batch_size=7, num_workers=0),
                  samples_of(records, epoch=0, batch_size=7, num_workers=0, seed=1)):
        assert all(not torch.equal(first[index][0], other[index][0]) for index in first)


def test_sample_does_not_depend_on_what_came_before(records):
    dataset = paper_set(records)
    first = dataset[2, 3]
    dataset[0, 1], dataset[5, 3]
    again = paper_set(records)[2, 3]
    for a, b, c in zip(first[:4], again[:4], dataset[2, 3][:4]):
        assert np.array_equal(a, b) and np.array_equal(a, c)


def test_equal_images_are_augmented_differently(records):
    dataset = paper_set([records[0]] * 2)
    assert not np.array_equal(dataset[0, 0].image, dataset[0, 1].image)


def test_one_loader_serves_many_epochs(records):
    loader = make_loader(paper_set(records), 3, seed=0, num_workers=2, pin_memory=False)
    orders = []
    for epoch in (0, 1, 0):
        loader.batch_sampler.epoch = epoch
        orders.append([batch.indices for batch in batches(loader)])
    assert orders[0] == orders[2] != orders[1]


def test_boxes_without_augmentation_are_fractions(records):
    dataset = DetectionDataset(records, SPEC, None, 0)
    for index, record in enumerate(records):
        sample = dataset[0, index]
        assert sample.index == index
        for row, box in zip(sample.boxes, record.boxes_px):
            x1, y1, x2, y2 = box
            np.testing.assert_allclose(row, (x1 / 60, y1 / 40, x2 / 60, y2 / 40), rtol=1e-5)
        assert sample.labels.tolist() == record.labels.tolist()
        assert sample.difficult.tolist() == record.difficult.tolist()


def test_boxes_over_the_edge_are_clipped_and_boxes_outside_are_named(records):
    wide = records[0]._replace(boxes_px=np.array([[-6, 10, 30, 400]], np.float32),
                               labels=np.array([1]), difficult=np.array([True]))
    sample = DetectionDataset([wide], SPEC, None, 0)[0, 0]
    np.testing.assert_allclose(sample.boxes, [[0, 0.25, 0.5, 1]])
    assert sample.labels.tolist() == [1] and sample.difficult.tolist() == [True]
    outside = wide._replace(boxes_px=np.array([[70, 0, 80, 10]], np.float32))
    error = DetectionDataset([outside], SPEC, None, 0)[0, 0]
    assert isinstance(error, UserError) and wide.path.name in str(error)


def test_labels_stay_with_their_boxes(records):
    # Boxes of one label lie left, of the other right; no flip, so crops keep that order.
    rng = np.random.default_rng(1)
    low = np.concatenate([rng.uniform([0, 0], [15, 25], (6, 2)), rng.uniform([40, 0], [48, 25],
                                                                             (6, 2))])
    labels, boxes = np.repeat([0, 1], 6), np.concatenate([low, low + 10], 1).astype(np.float32)
    order = rng.permutation(12)
    record = records[0]._replace(boxes_px=boxes[order], labels=labels[order],
                                 difficult=labels[order] == 1)
    dataset, both = paper_set([record]), 0
    for epoch in range(60):
        sample = dataset[epoch, 0]
        assert np.array_equal(sample.difficult, sample.labels == 1)
        centres = (sample.boxes[:, 0] + sample.boxes[:, 2]) / 2
        left, right = (centres[sample.labels == k] for k in (0, 1))
        if len(left) and len(right):
            both += 1
            assert left.max() < right.min() or left.min() > right.max()
    assert both > 10


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return the Record of a JPEG of 1500x1300 that could be halved, with 60 objects."""
    path, rng = tmp_path_factory.mktemp("large") / "large.jpg", np.random.default_rng(0)
    small = rng.integers(0, 256, (65, 75, 3), dtype=np.uint8)
    Image.fromarray(small).resize((1500, 1300)).save(path, subsampling="4:2:0")
    low = rng.uniform(0, 1200, (60, 2))
    return Record(path, np.concatenate([low, low + rng.uniform(8, 90, (60, 2))], 1).astype("f4"),
                  rng.integers(0, 3, 60), rng.random(60) < 0.3)


@pytest.mark.parametrize("tile", [100, 300, 1250])
def test_a_window_is_what_prediction_sees(large, tile):
    """Without augmentation: a crop of the whole image, never halved, and the boxes centred in it."""
    image, spec = load_image(large.path), replace(SPEC, tile=tile)
    dataset, some = DetectionDataset([large], spec, None, 0), 0
    for epoch in range(6):
        sample = dataset[epoch, 0]
        x1, y1, x2, y2 = draw_window(large.boxes_px, (1500, 1300), tile,
                                     make_rng(Purpose.SAMPLE, 0, epoch, 0))
        assert np.array_equal(sample.image, resize_to_input(image[y1:y2, x1:x2], spec))
        expected = [
            [max(a - x1, 0) / tile, max(b - y1, 0) / tile, min(c - x1, tile) / tile,
             min(d - y1, tile) / tile, label, difficult]
            for (a, b, c, d), label, difficult in zip(large.boxes_px.tolist(), large.labels,
                                                      large.difficult)
            if x1 < (a + c) / 2 < x2 and y1 < (b + d) / 2 < y2]
        found = np.column_stack([sample.boxes, sample.labels, sample.difficult])
        np.testing.assert_allclose(found, np.reshape(expected, (-1, 6)), atol=1e-6)
        some += len(found)
    assert some


def test_windows_do_not_depend_on_workers(large, monkeypatch):
    monkeypatch.setattr("test_loader.SPEC", replace(SPEC, tile=200))
    records = [large, large._replace(boxes_px=large.boxes_px[:0], labels=large.labels[:0],
                                     difficult=large.difficult[:0]), large]
    alone = samples_of(records, epoch=1, batch_size=2, num_workers=0)
    assert same(alone, samples_of(records, epoch=1, batch_size=3, num_workers=2))
    assert not torch.equal(alone[0][0], alone[2][0])


@pytest.mark.parametrize("count, batch_size", [(10, 3), (9, 3), (7, 8), (1, 4), (5, 1), (16, 16),
                                               (17, 16)])
def test_sampler_covers_all_and_fills_the_last_batch(count, batch_size):
    sampler = EpochBatchSampler(count, batch_size, seed=4)
    sampler.epoch = 6
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == int(np.ceil(count / batch_size))
    assert {len(batch) for batch in drawn} == {min(count, batch_size)}
    assert {epoch for batch in drawn for epoch, _ in batch} == {6}
    indices = [index for batch in drawn for _, index in batch]
    assert set(indices) == set(range(count))
    # Nothing is drawn a second time but the images that fill the last batch up.
    assert sorted(indices[:count]) == list(range(count))
    assert all(len(set(batch)) == len(batch) for batch in drawn)


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = EpochBatchSampler(50, 8, seed)
        sampler.epoch = epoch
        return list(sampler)
    assert order(0, 2) == order(0, 2)
    indices = [[[index for _, index in batch] for batch in order(*key)]
               for key in ((0, 0), (0, 1), (1, 0))]
    assert indices[0] != indices[1] and indices[0] != indices[2]


def make_sample(index, count):
    box = np.tile(np.array([[0.1, 0.2, 0.3, 0.4]], np.float32), (count, 1))
    return Sample(np.full((300, 300, 3), index, np.uint8), box, np.full(count, 5),
                  np.ones(count, bool), index)


def test_collate_pads():
    batch = collate([make_sample(4, 1), make_sample(9, 3), make_sample(2, 0)])
    assert batch.images.shape == (3, 3, 300, 300) and batch.images.dtype == torch.uint8
    assert batch.images[:, 1, 8, 8].tolist() == [4, 9, 2] and batch.indices == (4, 9, 2)
    assert batch.boxes.shape == (3, 3, 4) and batch.boxes.dtype == torch.float32
    assert batch.labels.tolist() == [[5, -1, -1], [5, 5, 5], [-1, -1, -1]]
    assert batch.difficult.tolist() == [[True, False, False], [True] * 3, [False] * 3]


def test_batch_without_any_object():
    batch = collate([make_sample(0, 0), make_sample(1, 0)])
    assert batch.boxes.shape == (2, 0, 4) and batch.labels.shape == batch.difficult.shape == (2, 0)
    assert batch.to("cpu").boxes.shape == (2, 0, 4)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_image_is_named_in_the_main_process(tmp_path, num_workers):
    records = make_records(tmp_path, [1, 1, 1])
    records[1].path.write_bytes(b"no image")
    loader = make_loader(paper_set(records), 1, seed=0, num_workers=num_workers, pin_memory=False)
    with pytest.raises(UserError) as error:
        list(batches(loader))
    assert str(error.value).startswith(str(records[1].path))
    assert "Traceback" not in str(error.value) and str(error.value).count("\n") < 2


def test_workers_that_are_spawned_make_the_same_samples(records):
    # Windows and macOS start workers afresh: everything they need must travel there.
    dataset, order = paper_set(records), EpochBatchSampler(len(records), 4, 0)
    spawned = DataLoader(dataset, batch_sampler=order, num_workers=1, collate_fn=collate,
                         worker_init_fn=start_worker, multiprocessing_context="spawn")
    own = DataLoader(dataset, batch_sampler=order, collate_fn=collate)
    for there, here in zip(spawned, own, strict=True):
        assert torch.equal(there.images, here.images) and there.indices == here.indices


def test_no_two_purposes_share_random_numbers():
    keys = [(purpose, seed, epoch, index) for purpose in Purpose
            for seed in (0, 1) for epoch in (0, 1, 2) for index in (0, 1, 2)]
    first = {tuple(make_rng(*key).integers(0, 2**60, 2).tolist()) for key in keys}
    assert len(first) == len(keys)
    assert make_rng(Purpose.ORDER, 5, 3).random() == make_rng(Purpose.ORDER, 5, 3).random()


class Slow:
    """A dataset that hangs in one of its workers."""

    spec = SPEC

    def __len__(self):
        return 4

    def __getitem__(self, key):
        time.sleep(6 if key[1] == 2 else 0)
        return make_sample(key[1], 1)


class Faulty(Slow):
    """A dataset with a bug."""

    def __getitem__(self, key):
        raise RuntimeError("a bug of ours")


def test_nothing_waits_for_ever(monkeypatch):
    monkeypatch.setattr(loader_module, "WAIT_SECONDS", 2)
    loader = make_loader(Slow(), 1, seed=0, num_workers=1, pin_memory=False)
    with pytest.raises(UserError, match="num_workers = 0") as error:
        list(batches(loader))
    assert "/dev/shm" in str(error.value) and "--shm-size" in str(error.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bug_keeps_its_traceback(num_workers):
    loader = make_loader(Faulty(), 1, seed=0, num_workers=num_workers, pin_memory=False)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        list(batches(loader))


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="Windows has no such signal")
@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_worker_ends_in_a_message(records, busy):
    """Whether the main process waits for a batch or computes when it hears of it."""
    loader = make_loader(paper_set(records * 8), 2, seed=0, num_workers=1, pin_memory=False)
    with pytest.raises(UserError, match="lower num_workers or batch_size") as error:
        for _ in batches(loader):
            time.sleep(0.5)  # idle then: torch waits for ever for the lock of one killed with it
            os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
            if busy:
                time.sleep(20)
    assert error.value.__suppress_context__ and str(error.value).count("\n") == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/shm is Linux's")
@pytest.mark.parametrize("free, workers", [(2 * 2**20, 0), (2**30, 1)])
def test_little_shared_memory_means_no_workers(records, monkeypatch, capsys, free, workers):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    loader = make_loader(paper_set(records), 4, seed=0, num_workers=1, pin_memory=False)
    assert loader.num_workers == workers and len(list(batches(loader))) == 2
    out = capsys.readouterr().out
    assert ("--shm-size" in out and "num_workers = 0" in out) == (workers == 0)
