"""Which images stay together, and draws that part no group and starve no class, for many seeds."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from utils.data.doctor import inspect_images
from utils.data.groups import Candidate, find_candidates
from utils.data.sources import Annotation, SourceObject
from utils.data.splits import SPLITS, draw_splits

SHARES = {"val": 0.1, "test": 0.1}


def scene(seed, shift=0, size=(64, 48)):
    """Return a picture of soft noise that no other seed has, moved by pixels."""
    rough = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(rough).resize((size[0] * 2, size[1] * 2), Image.Resampling.BICUBIC)
    return image.crop((shift, 0, shift + size[0], size[1]))


def groups_of(folder, images):
    """Save {file name: image}; return the sets of names that stay together."""
    items = {}
    for name, image in images.items():
        image.save(folder / name)
        items[name] = Annotation(name, name, folder / name, [], None)
    groups = {}
    for name, candidate in find_candidates(items, inspect_images(items.values())).items():
        groups.setdefault(candidate.group, set()).add(name)
    return sorted(groups.values(), key=min)


@pytest.mark.parametrize("images, together", [
    ({"a.png": scene(0), "b.png": scene(0), "c.png": scene(1)}, [{"a.png", "b.png"}]),
    ({f"{name}_jpg.rf.{k}aF.png": scene(10 * ord(name) + k) for name in "xyz" for k in range(3)},
     [{f"{name}_jpg.rf.{k}aF.png" for k in range(3)} for name in "xyz"]),
    ({f"v{video}_{k:03d}.png": scene(video, k) for video in range(6) for k in range(7)},
     [{f"v{video}_{k:03d}.png" for k in range(7)} for video in range(6)]),
    ({f"film{video}_mp4-{k}_jpg.rf.{k}b.png": scene(video, k) for video in range(5)
      for k in range(6)},
     [{f"film{video}_mp4-{k}_jpg.rf.{k}b.png" for k in range(6)} for video in range(5)]),
    ({f"IMG_{k:04d}.png": scene(k) for k in range(30)}, []),  # photos, not frames
    ({f"{k}.png": Image.new("L", (64, 48), k) for k in range(30)}, [])])  # flat
def test_copies_and_frames_stay_together(tmp_path, images, together):
    groups = groups_of(tmp_path, images)
    assert [group for group in groups if len(group) > 1] == together


def test_one_long_video_is_cut_into_pieces(tmp_path):
    groups = groups_of(tmp_path, {f"f{k}.png": scene(0, k) for k in range(40)})
    assert sorted(map(len, groups)) == [4] * 10
    numbers = [sorted(int(name[1:-4]) for name in group) for group in groups]
    assert all(piece[-1] - piece[0] == 3 for piece in numbers)


def test_what_cannot_be_read_is_no_candidate(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    scene(0).save(tmp_path / "a.png")
    items = {"bad": Annotation("bad", "", tmp_path / "bad.png", [], None),
             "no xml": Annotation("no xml", "", tmp_path / "a.png", None, None),
             "gone": Annotation("gone", "", None, [], None),
             "a": Annotation("a", "", tmp_path / "a.png",
                             [SourceObject("cat", (), False, "")], None)}
    candidates = find_candidates(items, inspect_images(items.values()))
    assert {key: candidate.labels for key, candidate in candidates.items()} == {"a": {"cat"}}
    drawn = draw_splits({}, [*items, *"bcdef"], {"val": 0.5}, 0, candidates | {
        key: Candidate(key, frozenset()) for key in "bcdef"})
    assert {"bad", "no xml", "gone"} <= set(drawn["train"]) and len(drawn["val"]) == 3


def random_pool(seed):
    """Return candidates in groups of 1 to 4 images, with up to 3 of 8 classes, some rare."""
    rng, pool = np.random.default_rng(seed), {}
    for group in range(120):
        labels = [label for label, share in zip("abcdefgh", np.geomspace(0.6, 0.02, 8))
                  if rng.random() < share]
        for k in range(rng.integers(1, 5)):
            pool[f"{group}.{k}"] = Candidate(group, frozenset(labels[:3]))
    return pool


def one_class(number, positives):
    """Return candidates of which some have objects of one class."""
    return {f"{k:03d}": Candidate(k, frozenset("a" if k < positives else ""))
            for k in range(number)}


@pytest.mark.parametrize("pool", [
    one_class(200, 10), one_class(100, 4), one_class(100, 3), one_class(60, 5),
    *map(random_pool, range(4))])
def test_no_draw_parts_a_group_or_starves_a_class(pool):
    groups = Counter(label for group in {c.group: c for c in pool.values()}.values()
                     for label in group.labels)
    for seed in range(50):
        drawn = draw_splits({}, [*pool], SHARES, seed, pool)
        assert sorted(sum(drawn.values(), [])) == sorted(pool)
        homes = {(pool[key].group, name) for name in SPLITS for key in drawn[name]}
        assert len(homes) == len({candidate.group for candidate in pool.values()})
        for name in SPLITS:
            labels = Counter(label for key in drawn[name] for label in pool[key].labels)
            assert all(labels[label] for label, count in groups.items() if count >= 3)
            if name != "train":
                assert abs(len(drawn[name]) - 0.1 * len(pool)) <= 3
                for label in "abc":  # the frequent ones
                    total = sum(label in candidate.labels for candidate in pool.values())
                    assert total / 30 <= labels[label] <= total / 4 or total < 40


def test_new_copies_join_the_split_of_the_old_ones():
    pool = one_class(40, 12)
    drawn = draw_splits({}, [*pool], SHARES, 0, pool)
    copies = {f"{key} copy": candidate for key, candidate in pool.items()}
    later = draw_splits(drawn, [*pool, *copies], SHARES, 1, pool | copies)
    for name in SPLITS:
        assert later[name] == sorted(drawn[name] + [f"{key} copy" for key in drawn[name]])
