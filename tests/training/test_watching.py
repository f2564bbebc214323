"""What a training shows: trends, samples, the board, early stopping, the end."""

import shlex
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from utils.data.annotations import Record
from utils.detections import Detections
from utils.training import checks
from utils.training.board import Board
from utils.training.history import has_stalled, plot_history, smooth
from utils.training.optim import Schedule
from utils.training.summary import describe_end

NAMES = ("cat", "dog", "\u4ea4\u901a")


@pytest.mark.parametrize("count, window", [(10, 5), (60, 7), (200, 21)])
def test_the_trend_is_a_parabola_through_a_window(count, window):
    values = np.sin(np.arange(count) / count * 3) + np.random.default_rng(0).normal(0, 0.02, count)
    trend, half = smooth(values.tolist()), window // 2
    for k in (0, 2, count // 2, count - 1):  # the first and last window reach to the ends
        middle = min(max(k, half), count - 1 - half)
        part = np.arange(middle - half, middle + half + 1)
        expected = np.polyval(np.polyfit(part - middle, values[part], 2), k - middle)
        mine = values[max(0, k - half):k + half + 1]
        assert trend[k] == pytest.approx(np.clip(expected, mine.min(), mine.max()), abs=1e-9)


def test_trends_that_would_mislead():
    assert smooth([]) is None and smooth([1.0]) is None and smooth([1.0] * 9) is None
    for maps in ([0.0] * 9 + [1.0] * 9, ([0.0, 1.0] * 30), [0.0] * 30, [1.0] * 12):
        assert ((smooth(maps) >= 0) & (smooth(maps) <= 1)).all()
    falling = [20.0, *(5 - 0.1 * k for k in range(20))]  # a cliff, then a line, which stays one
    np.testing.assert_allclose(smooth(falling), falling)
    assert len(smooth(list(range(5000)))) == 5000


@pytest.mark.parametrize("maps, patience, stalled", [
    ([], 1, False), ([0.5], 1, False), ([0.5, 0.4], 1, True), ([0.5, 0.4], 0, False),
    ([0.5, 0.6], 1, False), ([0.5, 0.5], 1, True), ([0.5, None, None], 1, False),
    ([0.5, None, 0.4, None, 0.3], 2, True), ([0.5, None, 0.4, None, 0.6], 2, False),
    ([0.5, 0.4, 0.3], 3, False), ([0.5, 0.4, 0.3, 0.5], 3, True), ([None] * 9, 2, False)])
def test_early_stopping_by_hand(maps, patience, stalled):
    assert has_stalled([{"val_map": value} for value in maps], patience) == stalled


@pytest.mark.parametrize("images, batch, accumulate, frozen, epochs, needed", [
    (80, 8, 1, (0, 16), 60, 100),   # 10 steps an epoch
    (80, 8, 1, (0, 16), 100, None), (80, 8, 1, (0, 16), 99, 100),
    (81, 8, 2, (0, 16), 60, 167),   # 6 steps an epoch
    (80, 8, 1, (10, 16), 60, 105),  # 10 epochs of 5 steps, then 95 of 10
    (80, 8, 1, (300, 16), 60, 200), (1, 8, 1, (0, 16), 5, 1000), (9000, 8, 1, (0, 8), 1, None)])
def test_few_steps_are_warned_of(capsys, images, batch, accumulate, frozen, epochs, needed):
    checks.check_length(Schedule(
        num_images=images, epochs=epochs, batch_size=batch, accumulate=accumulate,
        freeze_epochs=frozen[0], freeze_batch_size=frozen[1], learning_rate=1e-3, kind="cosine",
        warmup_steps=0, min_lr_ratio=0.1))
    out = capsys.readouterr().out
    assert (f"Set epochs = {needed} or more" in out) if needed else out == ""


class Detector:
    """Finds what it is told to, in every image."""

    def __init__(self, rows):
        rows = np.array(rows, np.float32).reshape(-1, 6)
        self.found = Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(int))
        self.class_names, self.settings = NAMES, SimpleNamespace(confidence=0.5)

    def detect_batch(self, images, confidence):
        return [self.found] * len(images)


def make_record(path, boxes, labels, size=(220, 110)):
    Image.new("RGB", size, (100, 100, 100)).save(path)
    return Record(path, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, int),
                  np.zeros(len(labels), bool))


def row_of(epoch, val_map=0.5):
    return {"epoch": epoch, "learning_rate": 0.1, "loss": 3.0 / epoch, "loc": 1.0, "conf": 2.0,
            "val_map": val_map, "train_seconds": 2.0, "eval_seconds": 1.0}


def make_board(folder, records, period=2):
    board = Board(folder, Detector([]), records, kind="val", num_images=10, sample_period=period)
    board.has_tensorboard = False
    return board


@pytest.mark.parametrize("period, last, drawn", [
    (2, False, [2, 4]), (2, True, [2, 4, 5]), (0, True, []), (9, False, []), (9, True, [5])])
def test_samples_come_every_few_epochs_and_at_the_end(tmp_path, period, last, drawn):
    board, epochs = make_board(tmp_path, [make_record(tmp_path / "a.png", [(0, 0, 9, 9)], [0])],
                               period), []
    for epoch in range(1, 6):
        board.show(row_of(epoch), last=last and epoch == 5)
        if (tmp_path / "samples.jpg").exists():
            epochs.append(epoch)
            (tmp_path / "samples.jpg").unlink()
    assert epochs == drawn


def test_mishaps_cost_a_line(tmp_path, capsys):
    record = make_record(tmp_path / "a.png", [(0, 0, 9, 9)], [0])
    board = make_board(tmp_path, [record])
    (tmp_path / "samples.jpg").mkdir()
    board.show(row_of(2), last=False)
    assert "samples.jpg: cannot be written" in capsys.readouterr().out
    record.path.write_bytes(b"broken")
    board.show(row_of(4), last=False)


def test_tensorboard_has_each_epoch_once_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = make_record(tmp_path / "a.png", [(0, 0, 9, 9)], [0])
    for epochs in ((1, 2, 3), (3, 4)):  # killed after the third was shown, before it was saved
        board = make_board(tmp_path, [record])
        board.has_tensorboard = True
        for epoch in epochs:
            board.show(row_of(epoch, None if epoch == 2 else 0.5), last=epoch == 4)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/loss")] == [
        (1, 3.0), (2, 1.5), (3, 1.0), (4, 0.75)]
    assert [e.step for e in events.Scalars("val_map")] == [1, 3, 4]
    assert events.Scalars("images_per_second")[0].value == 5
    assert [e.step for e in events.Images("samples")] == [2, 4]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_on_a_full_disk_costs_a_line(tmp_path, capfd):
    pytest.importorskip("tensorboard")
    resource = pytest.importorskip("resource")  # no such limit on Windows
    board = make_board(tmp_path, [], period=0)
    board.has_tensorboard = True
    board.show(row_of(1), last=False)
    size = next(tmp_path.glob("events*")).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        board.show(row_of(2), last=False)
        board.show(row_of(3), last=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    out, err = capfd.readouterr()
    assert out.count("nothing more for TensorBoard") == 1 and not err


def test_the_end_says_what_to_type(tmp_path):
    rows = [row_of(1), row_of(2)]
    text = describe_end(tmp_path / "it's here", rows, best="epoch 2", num_images=8)
    assert "2 epochs in 0:00:06, 0:00:02 of it for val mAP; 4.0 images/s" in text
    for line in text.splitlines()[-2:]:
        assert shlex.split(line)[-1] == str(tmp_path / "it's here" / "best.pth")


def test_curves_of_any_length(tmp_path):
    for count in (1, 12, 300):
        plot_history([row_of(k + 1, (k % 7) / 7) for k in range(count)], tmp_path)
        assert Image.open(tmp_path / "loss.png").size == Image.open(tmp_path / "map.png").size
