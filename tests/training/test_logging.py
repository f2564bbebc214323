"""What a run shows: its history, curves, lines, and when early stopping ends it."""

import csv

import pytest
from PIL import Image

from utils.training.logging import (Board, describe_end, has_stalled, plot_history,
                                    write_history)


def rows_of(maps):
    return [{"epoch": k, "loss": 10 / k, "loc": 3 / k, "conf": 7 / k, "learning_rate": 1e-3,
             "val_map": value, "train_seconds": 60.0, "eval_seconds": 1.5}
            for k, value in enumerate(maps, start=1)]


def test_the_history_file_holds_every_row(tmp_path):
    rows = rows_of([0.1, None, 0.3])
    write_history(rows, tmp_path)
    with open(tmp_path / "history.csv", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [
            {name: "" if value is None else str(value) for name, value in row.items()}
            for row in rows]


@pytest.mark.parametrize("maps, pictures", [([None], ["loss.png"]),
                                            ([0.5, None, 0.7], ["loss.png", "map.png"])])
def test_curves_are_drawn(tmp_path, maps, pictures):
    plot_history(rows_of(maps), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == pictures
    for name in pictures:
        assert min(Image.open(tmp_path / name).size) > 300


@pytest.mark.parametrize("maps, patience, stalled", [
    ([0.1, 0.3, 0.2, 0.3], 2, True), ([0.1, 0.3, 0.2, 0.31], 2, False), ([0.3, 0.2], 2, False),
    ([0.3, None, 0.2, None, 0.1], 2, True), ([0.3, 0.2, 0.1], 0, False), ([], 1, False)])
def test_early_stopping_counts_measurements_that_beat_no_earlier_one(maps, patience, stalled):
    assert has_stalled(rows_of(maps), patience) is stalled


@pytest.mark.parametrize("maps, short", [
    ([0.3, 0.5, 0.6], True), ([0.3, None, 0.6, None], True), ([0.01], True),
    ([0.5, 0.6, 0.59], False), ([0.6, 0.605], False), ([0.6], False), ([None, None], False),
    ([0.9, 0.97], False)])
def test_a_run_that_was_too_short_says_how_to_go_on(tmp_path, maps, short):
    text = describe_end(tmp_path, rows_of(maps), 1)
    command = f"python train.py --model_path {tmp_path / 'best.pth'} --epochs {2 * len(maps)}\n"
    assert (command in text) == ("too short" in text) == short


def test_tensorboard_hides_what_an_interrupted_run_wrote_twice(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    rows = rows_of([0.1, 0.2, 0.3])
    for first, last in ((1, 3), (2, 3)):  # stopped after epoch 3 and resumed from epoch 1
        board = Board(tmp_path, first_epoch=first)
        for row in rows[first - 1:last]:
            board.add(row | {"loss": row["loss"] + first})
        board.writer.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("loss")] == [
        (1, 11.0), (2, 7.0), (3, 5.333)]
