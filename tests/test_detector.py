"""The detector's public calls: what they take and refuse, streams, threads, networks in memory."""

import copy
import itertools
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detector import NAMES, photo, tiny_detector

from nets.runtimes.inspect import heat_map
from nets.ssd import SSDNet, build_spec
from ssd import SSD, SSDSettings
from utils.cli import UserError
from utils.data.annotations import Record


@pytest.fixture(scope="module")
def detector():
    return tiny_detector(confidence=0.3)


def random_image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def no_objects(path):
    return Record(path, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))


# ---- What is given ----

@pytest.mark.parametrize("image, error", [
    (torch.zeros(3, 8, 8), TypeError), ([1, 2], TypeError), (None, TypeError), (3, TypeError),
    (np.zeros((0, 4, 3), np.uint8), ValueError), (np.zeros((4, 4, 2), np.uint8), ValueError),
    (np.zeros((4, 4, 3), np.float32), ValueError), (np.zeros((4, 4), np.uint16), ValueError),
    ("nowhere.png", UserError), (".", UserError), (b"no image", UserError)])
def test_what_is_no_image(detector, image, error):
    for call in (detector.detect, detector.detect_image):
        with pytest.raises(error):
            call(image)


@pytest.mark.parametrize("changes, message", [
    ({"weights_family": "junk"}, "weights_family.*junk"), ({"precision": "int8"}, "precision"),
    ({"confidence": -0.1}, "confidence.*0.*1"), ({"classes": ("cow",)}, "'cow'.*cat, dog")])
def test_settings_are_checked(detector, changes, message):
    with pytest.raises(UserError, match=message):
        SSD(replace(SSDSettings(), **changes), network=detector.network, class_names=NAMES)


@pytest.mark.parametrize("overrides", [
    {"confidence": 2}, {"nms_iou": float("nan")}, {"max_per_image": -1}, {"nms": "hard"},
    {"classes": ("cow",)}])
def test_thresholds_of_a_call_are_checked(detector, overrides):
    for call in (detector.detect_batch, detector.detect_stream):
        with pytest.raises(UserError, match=next(iter(overrides))):
            call([random_image()], **overrides)
    with pytest.raises(TypeError, match="conf"):
        detector.detect(random_image(), conf=0.3)


@pytest.mark.parametrize("image", ["a.jpg", b"a", random_image(), Image.new("RGB", (9, 9))])
def test_one_image_in_the_place_of_a_list(detector, image):
    with pytest.raises(TypeError, match="expected a list of images, got"):
        detector.detect_batch(image)


def same(one, other):
    return len(one) and all(map(np.array_equal, one, other))


def test_all_that_is_an_image(detector, tmp_path, monkeypatch):
    """A path of the current directory, bytes, OpenCV's order, grey and four channels."""
    photo(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    expected, rgb = detector.detect("a.png"), np.asarray(Image.open("a.png"))
    alpha = np.full((64, 96, 1), 99, np.uint8)
    for image in ((tmp_path / "a.png").read_bytes(), rgb, np.concatenate([rgb, alpha], 2)):
        assert same(detector.detect(image), expected)
    for image in (rgb[..., ::-1], np.concatenate([rgb[..., ::-1], alpha], 2)):
        assert same(detector.detect(image, bgr=True), expected)
        assert same(detector.detect_batch([image], bgr=True)[0], expected)
        assert same(list(detector.detect_stream([image], bgr=True))[0][2], expected)
        drawn = detector.detect_image(image, bgr=True)
        assert np.array_equal(np.asarray(drawn), np.asarray(detector.detect_image(rgb)))
    grey = rgb[..., 0]
    assert same(*(detector.detect(one) for one in (grey, np.stack([grey] * 3, 2))))


@pytest.mark.parametrize("classes", ["dog", 1, "1", ["dog"], np.array([1]), ("dog", 1)])
def test_classes_are_names_or_numbers_one_or_several(detector, classes):
    one = SSD(network=detector.network, class_names=NAMES, confidence=0.3, classes=classes)
    for found in (detector.detect(random_image(), classes=classes), one.detect(random_image())):
        assert len(found) and set(found.names) == {"dog"}


@pytest.mark.parametrize("classes", ["star", 2, [-1], True])
def test_classes_of_another_detector(detector, classes):
    assert same(detector.detect(random_image(), classes=None), detector.detect(random_image()))
    with pytest.raises(UserError, match="none of the detector's: cat, dog"):
        detector.detect(random_image(), classes=classes)


def test_a_long_list_goes_in_parts(detector, monkeypatch):
    images, sizes, runtime = [random_image(seed) for seed in range(20)], [], detector.runtime
    monkeypatch.setattr(detector, "runtime", lambda batch: sizes.append(len(batch)) or
                        runtime(batch))
    assert len(detector.detect_batch(iter(images))) == 20 and sizes == [16, 4]


def test_outputs_that_are_no_numbers():
    broken = tiny_detector()
    with torch.no_grad():
        broken.network.conf[0].bias[0] = torch.nan
    with pytest.raises(UserError, match="not numbers"):
        broken.detect(random_image())


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="nowhere.pth"):
        SSD(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=f"no best.pth under {tmp_path}"):
        SSD(save_dir=str(tmp_path))


def test_thresholds_of_a_call_take_the_place_of_the_settings(detector):
    everything = detector.detect_batch([random_image()], confidence=0.1, max_per_image=0)[0]
    assert len(everything) > len(detector.detect(random_image())) > 0
    assert len(detector.detect_batch([random_image()], max_per_image=3)[0]) == 3
    assert detector.detect_batch([]) == []


# ---- Streams and threads ----

@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_stream_gives_what_detect_gives(detector, tmp_path, batch_size):
    paths = [photo(tmp_path / f"{k}.png", seed=k) for k in range(4)]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8nothing")
    sources = [paths[0], broken, str(paths[1]), random_image(), tmp_path / "absent.png", *paths[2:]]
    results = list(detector.detect_stream(iter(sources), batch_size=batch_size))
    assert all(source is given for (source, *_), given in zip(results, sources, strict=True))
    for source, image, detections in results:
        if not isinstance(source, np.ndarray) and source in (broken, sources[4]):
            assert image is None and isinstance(detections, UserError)
            assert str(source) in str(detections)
            continue
        alone = detector.detect(source)
        assert len(alone) and np.array_equal(alone.labels, detections.labels)
        np.testing.assert_allclose(alone.boxes, detections.boxes, atol=0.5)
        expected = source if isinstance(source, np.ndarray) else np.asarray(Image.open(source))
        np.testing.assert_array_equal(image, expected)
    assert all(image is None for _, image, _ in detector.detect_stream(paths, keep_images=False))


def test_a_stream_may_have_no_end_and_be_left(detector):
    taken, image = itertools.count(), random_image()
    before = set(threading.enumerate())
    stream = detector.detect_stream((image for _ in taken), batch_size=2, max_per_image=1)
    for _ in range(5):
        next(stream)
    stream.close()
    assert next(taken) <= 5 + 3 * 2 + 2  # no more than a batch of results, in the network, read
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name
                and thread not in before]


@pytest.fixture
def both(tmp_path):
    """A detector of a network in memory, and one of a file."""
    detector = tiny_detector(confidence=0.3)
    detector.save(tmp_path / "best.pth")
    return detector, SSD(tmp_path / "best.pth", confidence=0.3, device="cpu")


def test_four_threads_detect_what_one_detects(both):
    """Of a network in training too, which each of them takes to eval mode and back."""
    for detector in both:
        detector.network.train()
        images = [random_image(seed) for seed in range(4)]
        alone = [detector.detect(image) for image in images]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(detector.detect, images))
        for one, other in zip(alone, together):
            assert same(one, other)
        assert all(module.training for module in detector.network.modules())


# ---- A network in memory ----

def state_of(network):
    """Return all that a detector might change: modes, strides, gradients, statistics."""
    return ([module.training for module in network.modules()],
            [(p.stride(), p.device, p.requires_grad, p.data_ptr()) for p in network.parameters()],
            [value.tolist() for name, value in network.named_buffers() if "running" in name])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_given_network_is_left_as_it_was(layout, tmp_path):
    network = SSDNet(3, build_spec("mobilenetv2", 300)).to(memory_format=layout).train()
    network.backbone[:3].eval()  # frozen layers keep their mode
    before = state_of(network)
    detector = SSD(network=network, class_names=NAMES, device="cpu")
    detector.detect(random_image())
    detector.evaluate([no_objects(photo(tmp_path / "a.png"))])
    assert state_of(network) == before and detector.network is network


def test_detections_follow_the_weights(both):
    for detector in both:
        first, network = detector.detect(random_image()), detector.network
        detector.detect(random_image())
        for head in network.conf:
            head.bias.data[::3].add_(1)  # background
        assert not np.array_equal(detector.detect(random_image()).scores, first.scores)


def test_a_network_that_does_not_fit(detector):
    with pytest.raises(ValueError, match="2 classes, class_names are"):
        SSD(network=detector.network, class_names=("a",), device="cpu")


def test_nothing_is_found_in_an_image_that_cannot_be_read(detector, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no image")
    good, bad = detector.detect_records([no_objects(photo(tmp_path / "a.png")),
                                         no_objects(tmp_path / "bad.png")])
    assert len(good) > len(bad) == 0 and bad.boxes.shape == (0, 4)
    out = capsys.readouterr().out
    assert "bad.png: not an image that can be read" in out and "count as missed" in out


def test_a_limit_is_that_of_the_whole_tiled_image_and_heat_maps_of_tiles_are_refused():
    network = tiny_detector().network
    network.spec = replace(network.spec, tile=64)
    detector = SSD(network=network, class_names=NAMES, device="cpu", confidence=0.01)
    assert len(detector.detect(random_image())) > 200
    for limit in (200, 3):
        (detections,) = detector.detect_batch([random_image()], max_per_image=limit)
        assert len(detections) == limit
    ((_, _, detections),) = detector.detect_stream([random_image()], max_per_image=5)
    assert len(detections) == 5
    with pytest.raises(UserError, match="tile = 64"):
        heat_map(detector.runtime, random_image())


def test_a_detector_is_pickled_and_copied(both):
    for one in both:
        for other in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
            assert same(one.detect(random_image()), other.detect(random_image()))
            assert other.runtime.network is not one.runtime.network
