"""Records to batches: order, keys of randomness, padding, broken images, lost workers."""

import os
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from utils.cli import UserError
from utils.data.annotations import Record
from utils.data.augment import AUGMENTATIONS
from utils.data.loader import (SAMPLE, Batch, DetectionDataset, Loader, collate, epoch_order)
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


def paper_set(records, *, seed=0, spec=SPEC):
    return DetectionDataset(records, spec, AUGMENTATIONS["paper"], seed)


def make_loader(dataset, *, batch_size=3, accumulate=1, num_workers=0, seed=0, **ranks):
    return Loader(dataset, batch_size=batch_size, accumulate=accumulate, seed=seed,
                  num_workers=num_workers, **ranks)


def samples_of(dataset, epoch, **options):
    """Return {index: (image, boxes, labels, difficult) without padding} of an epoch."""
    samples = {}
    for [batch] in make_loader(dataset, seed=dataset.seed, **options).epoch(epoch):
        for k, index in enumerate(batch.indices):
            real = batch.labels[k] >= 0
            samples[index] = (batch.images[k], batch.boxes[k][real], batch.labels[k][real],
                              batch.difficult[k][real])
    return samples


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(x, y) for index in a for x, y in zip(a[index], b[index]))


@pytest.mark.parametrize("tile", [0, 64])
def test_samples_depend_on_seed_epoch_and_index_alone(records, tile):
    dataset = paper_set(records, spec=replace(SPEC, tile=tile))
    alone = samples_of(dataset, epoch=3)
    assert sorted(alone) == list(range(7))
    assert same(alone, samples_of(dataset, epoch=3, num_workers=2))
    assert same(alone, samples_of(dataset, epoch=3, batch_size=7))
    for other in (samples_of(dataset, epoch=1),
                  samples_of(paper_set(records, seed=1, spec=dataset.spec), epoch=3)):
        assert all(not torch.equal(alone[index][0], other[index][0]) for index in alone)
    twins = paper_set([records[0], records[0]], spec=dataset.spec)
    assert not np.array_equal(twins[0, 0][0], twins[0, 1][0])


@given(st.integers(1, 40), st.integers(1, 17), st.integers(1, 4), st.integers(0, 3))
def test_an_epoch_has_each_image_and_wraps_round(num_images, batch_size, ranks, epoch):
    def order(**ranks):
        return epoch_order(num_images, batch_size=batch_size, seed=4, epoch=epoch, **ranks)

    batch_size = min(batch_size, num_images)
    batches, alone = order(ranks=ranks), order()
    assert len(batches) % ranks == 0 and len(batches) < len(alone) + ranks
    assert np.array_equal(batches[:len(alone)], alone), "ranks share what one process would do"
    assert alone.shape == (-(-num_images // batch_size), batch_size)
    assert all(len(set(batch)) == len(batch) for batch in batches.tolist())
    assert sorted(batches.ravel()[:num_images]) == list(range(num_images))
    assert np.array_equal(batches.ravel(), np.resize(batches.ravel()[:num_images], batches.size))


class Numbered:
    """A dataset of images of one pixel value."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        return make_sample(key[1], 1)


@pytest.mark.parametrize("num_images, accumulate, ranks", [
    (10, 1, 1), (10, 2, 1), (10, 3, 2), (7, 2, 3), (2, 4, 1), (1, 2, 2)])
def test_the_steps_of_ranks_are_those_of_one_process(num_images, accumulate, ranks):
    batch_size, dataset = min(2, num_images), Numbered(num_images)
    loaders = [make_loader(dataset, batch_size=batch_size, accumulate=accumulate, rank=rank,
                           ranks=ranks) for rank in range(ranks)]
    steps = [[[batch.indices for batch in step] for step in loader.epoch(5)] for loader in loaders]
    expected = epoch_order(num_images, batch_size=batch_size, seed=0, epoch=5, ranks=ranks)
    for rank, loader in enumerate(loaders):
        assert len(loader) == len(steps[rank])
        assert [len(step) for step in steps[rank]] == [len(step) for step in steps[0]]
        assert all(len(step) == accumulate for step in steps[rank][:-1])
        assert sum(steps[rank], []) == list(map(tuple, expected[rank::ranks]))
        later = [[batch.indices for batch in step] for step in loader.epoch(5, start_step=1)]
        assert later == steps[rank][1:]


def test_boxes_over_the_edge_are_clipped_and_boxes_outside_are_named(records):
    wide = records[0]._replace(boxes_px=np.array([[-6, 10, 30, 400]], np.float32),
                               labels=np.array([1]), difficult=np.array([True]))
    sample = Batch(*DetectionDataset([wide], SPEC, None, 0)[0, 0])
    np.testing.assert_allclose(sample.boxes, [[0, 0.25, 0.5, 1]])
    assert sample.labels.tolist() == [1] and sample.difficult.tolist() == [True]
    outside = wide._replace(boxes_px=np.array([[70, 0, 80, 10]], np.float32))
    for changed in (outside, wide._replace(size=(7, 7))):
        with pytest.raises(UserError, match=wide.path.name):
            DetectionDataset([changed], SPEC, None, 0)[0, 0]


@pytest.mark.parametrize("tile", [100, 300, 1250])
def test_a_window_is_what_prediction_sees(tmp_path, tile):
    """Without augmentation: a crop of the whole image, and the boxes centred in it."""
    rng, path = np.random.default_rng(0), tmp_path / "large.jpg"
    small = rng.integers(0, 256, (65, 75, 3), dtype=np.uint8)
    Image.fromarray(small).resize((1500, 1300)).save(path)
    low = rng.uniform(0, 1200, (60, 2))
    boxes_px = np.concatenate([low, low + rng.uniform(8, 90, (60, 2))], 1).astype(np.float32)
    labels, difficult = rng.integers(0, 3, 60), rng.random(60) < 0.3
    image, spec, count = load_image(path), replace(SPEC, tile=tile), 0
    dataset = DetectionDataset([Record(path, boxes_px, labels, difficult)], spec, None, 0)
    for epoch in range(4):
        sample = Batch(*dataset[epoch, 0])
        x1, y1, x2, y2 = draw_window(boxes_px, (1500, 1300), tile,
                                     np.random.default_rng((SAMPLE, 0, epoch, 0)))
        assert np.array_equal(sample.images, resize_to_input(image[y1:y2, x1:x2], spec))
        expected = [
            [max(a - x1, 0) / tile, max(b - y1, 0) / tile, min(c - x1, tile) / tile,
             min(d - y1, tile) / tile, label, is_difficult]
            for (a, b, c, d), label, is_difficult in zip(boxes_px.tolist(), labels, difficult)
            if x1 < (a + c) / 2 < x2 and y1 < (b + d) / 2 < y2]
        rows = np.column_stack([sample.boxes, sample.labels, sample.difficult])
        np.testing.assert_allclose(rows, np.reshape(expected, (-1, 6)), atol=1e-6)
        count += len(rows)
    assert count


def make_sample(index, count):
    box = np.tile(np.array([[0.1, 0.2, 0.3, 0.4]], np.float32), (count, 1))
    return (np.full((300, 300, 3), index, np.uint8), box, np.full(count, 5),
            np.ones(count, bool), index)


def test_collate_pads():
    batch = collate([make_sample(4, 1), make_sample(9, 3), make_sample(2, 0)])
    assert batch.images.shape == (3, 3, 300, 300) and batch.images.dtype == torch.uint8
    assert batch.images[:, 1, 8, 8].tolist() == [4, 9, 2] and batch.indices == (4, 9, 2)
    assert batch.boxes.shape == (3, 3, 4) and batch.boxes.dtype == torch.float32
    assert batch.labels.tolist() == [[5, -1, -1], [5, 5, 5], [-1, -1, -1]]
    assert batch.difficult.tolist() == [[True, False, False], [True] * 3, [False] * 3]
    empty = collate([make_sample(0, 0), make_sample(1, 0)])
    assert empty.boxes.shape == (2, 0, 4) and empty.labels.shape == empty.difficult.shape == (2, 0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_image_is_named_in_the_main_process(tmp_path, num_workers):
    records = make_records(tmp_path, [1, 1, 1])
    records[1].path.write_bytes(b"no image")
    with pytest.raises(UserError) as error:
        list(make_loader(paper_set(records), batch_size=1, num_workers=num_workers).epoch(0))
    assert str(error.value).startswith(str(records[1].path)) and "\n" not in str(error.value)


@pytest.mark.skipif(os.name != "posix", reason="process groups of POSIX")
def test_a_signal_to_the_scripts_group_does_not_reach_the_workers(records):
    batches = make_loader(paper_set(records), num_workers=1).epoch(0)
    next(batches)
    groups = [os.getpgid(child.pid) for child in active_children()]
    assert groups and os.getpgid(0) not in groups
