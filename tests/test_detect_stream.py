"""A stream of images: in order, read ahead within bounds, a bad file costs only itself."""

import itertools
import threading

import numpy as np
import pytest
from PIL import Image
from tiny_detector import photo, tiny_detector

from utils.ahead import ahead
from utils.cli import UserError


@pytest.fixture(scope="module")
def detector():
    return tiny_detector(confidence=0.3)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_stream_gives_what_detect_gives(detector, tmp_path, batch_size):
    paths = [photo(tmp_path / f"{k}.png", seed=k) for k in range(4)]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8nothing")
    array = np.asarray(Image.open(paths[0])).copy()
    sources = [paths[0], broken, str(paths[1]), array, tmp_path / "absent.png", *paths[2:]]
    found = list(detector.detect_stream(iter(sources), batch_size=batch_size))
    assert [source is expected for (source, *_), expected in zip(found, sources)] == [True] * 7
    for source, image, detections in found:
        if isinstance(detections, UserError):
            assert image is None and source in (broken, sources[4])
            assert str(source) in str(detections)
            continue
        alone = detector.detect(source)
        assert len(alone.scores) and np.array_equal(alone.labels, detections.labels)
        np.testing.assert_allclose(alone.boxes, detections.boxes, atol=0.5)
        expected = source if source is array else np.asarray(Image.open(source))
        assert np.array_equal(image, expected)
    assert sum(isinstance(detections, UserError) for *_, detections in found) == 2
    for _, image, _ in detector.detect_stream(paths, keep_images=False):
        assert image is None
    assert not list(detector.detect_stream([]))


def test_a_stream_may_have_no_end_and_be_left(detector):
    taken, image = itertools.count(), np.zeros((64, 64, 3), np.uint8)
    before = set(threading.enumerate())
    stream = detector.detect_stream((image for _ in taken), batch_size=2, max_per_image=1)
    for _ in range(5):
        next(stream)
    stream.close()
    # 5 given, and no more than a batch each of results, in the network and read.
    assert next(taken) <= 5 + 3 * 2 + 2
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name
                and thread not in before]


@pytest.mark.parametrize("images, thresholds, error", [
    ("a.jpg", {}, TypeError), ([], {"confidence": 2}, UserError), ([3], {}, TypeError)])
def test_mistakes_of_the_caller_are_told(detector, images, thresholds, error):
    with pytest.raises(error):
        list(detector.detect_stream(images, **thresholds))


class Pool:
    """An executor that works at once and counts."""

    def __init__(self):
        self.done = 0

    def submit(self, function, item):
        self.done += 1
        result = function(item)
        return type("Future", (), {"result": lambda self: result, "cancel": lambda self: None})()


def test_ahead_keeps_order_and_its_distance():
    pool = Pool()
    for count, result in enumerate(ahead(pool, lambda item: item * 2, range(10), 3), start=1):
        assert result == 2 * (count - 1) and pool.done <= count + 3
    assert count == 10
