"""Draws that part no group and starve no class, splits that grow with the data, and given ones."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from utils.data.doctor import inspect_images
from utils.data.sources import Annotation, SourceObject
from utils.data.splits import (SPLITS, Candidate, draw_splits, find_candidates, make_splits,
                               record_path)

SHARES = {"val": 0.1, "test": 0.2}
TENTHS = {"val": 0.1, "test": 0.1}


def names(start, stop):
    return [f"{k:04d}" for k in range(start, stop)]


def singles(keys):
    """Return candidates of which each is a group of its own."""
    return {key: Candidate(key, frozenset()) for key in keys}


@pytest.fixture
def draw(tmp_path):
    """Return make_splits of {split: keys}, which writes its record as the script does."""
    def run(seed=0, shares=SHARES, options=(), **given):
        given = {name: [] for name in SPLITS} | given
        candidates = singles(sum(given.values(), []))
        splits = make_splits(given, record_path(tmp_path), shares, seed, candidates,
                             **dict(options))
        for path, text in splits.files.items():
            path.write_text(text)
        return splits
    return run


def sizes(members):
    return [len(members[name]) for name in SPLITS]


def test_old_images_stay_new_ones_are_drawn_gone_ones_dropped(draw):
    first = draw(train=names(0, 60)).members
    assert sizes(first) == [42, 6, 12]
    gone = {first["train"][0], first["val"][0], first["test"][0]}
    keys = [key for key in names(0, 100) if key not in gone]
    splits = draw(train=keys)
    for name in SPLITS:
        assert set(first[name]) - gone <= set(splits.members[name])
    assert sorted(sum(splits.members.values(), [])) == keys
    assert "57 images kept, 40 new" in splits.messages[-1]
    assert draw(train=keys, seed=9).members == splits.members
    assert draw(train=keys, seed=9, options={"overwrite": True}).members != splits.members


@given(st.lists(st.integers(1, 9), max_size=6), st.sampled_from([(0.1, 0.2), (0, 0.3), (0.5, 0)]))
def test_images_never_move_and_shares_are_reached(growth, shares):
    shares, members, count = dict(zip(("val", "test"), shares)), {}, 0
    for more in growth:
        before = {key: name for name, keys in members.items() for key in keys}
        count += more
        keys = names(0, count)
        members = draw_splits(members, keys, shares, 0, singles(keys))
        after = {key: name for name, keys in members.items() for key in keys}
        assert before.items() <= after.items() and len(after) == count and members["train"]
        for name, share in shares.items():
            assert len(members[name]) <= (max(1, round(share * count)) if share else 0)


@pytest.mark.parametrize("test", [[], names(15, 18)])
def test_whole_splits_that_came_with_the_data_are_kept(draw, test):
    given = {"train": names(0, 10), "val": names(10, 15), "test": test}
    splits = draw(**given, options={"overwrite": True})
    assert splits.members == given and not splits.files
    both = draw(**given, shares={"val": 0, "test": 0.1}, options={"train_on_val": True}).members
    assert both == {"train": names(0, 15), "val": [], "test": test}


def test_a_given_test_split_is_all_there_is_of_it(draw):
    drawn = draw(train=names(0, 50)).members["test"]
    members = draw(train=names(0, 50), test=["x"]).members  # those drawn for test are free again
    assert members["test"] == ["x"] and len(drawn) == 10
    assert sorted(members["train"] + members["val"]) == names(0, 50)
    assert len(members["val"]) == 5


def scene(seed, shift=0, size=(64, 48)):
    """Return a picture of soft noise that no other seed has, moved by pixels."""
    rough = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(rough).resize((size[0] * 2, size[1] * 2), Image.Resampling.BICUBIC)
    return image.crop((shift, 0, shift + size[0], size[1]))


def groups_of(folder, images):
    """Save {file name: image}; return the sets of names that stay together."""
    items = {}
    for name, image in images.items():
        (folder / name).parent.mkdir(exist_ok=True)
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
    ({"a_1.png": scene(0), "a_1_aug1.png": scene(1), "a_1 - Copy (2).png": scene(2),
      "a.png": scene(3), "a_august.png": scene(4)},
     [{"a_1.png", "a_1_aug1.png", "a_1 - Copy (2).png"}]),
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
    drawn = draw_splits({}, [*items, *"bcdef"], {"val": 0.5}, 0, candidates | singles("bcdef"))
    assert {"bad", "no xml", "gone"} <= set(drawn["train"]) and len(drawn["val"]) == 3
    splits = make_splits(dict.fromkeys(SPLITS, []) | {"train": [*items]}, tmp_path / "record",
                         TENTHS, 0, candidates)
    assert not any(key in text for text in splits.files.values() for key in ("bad", "gone"))


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
        drawn = draw_splits({}, [*pool], TENTHS, seed, pool)
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
    drawn = draw_splits({}, [*pool], TENTHS, 0, pool)
    copies = {f"{key} copy": candidate for key, candidate in pool.items()}
    later = draw_splits(drawn, [*pool, *copies], TENTHS, 1, pool | copies)
    for name in SPLITS:
        assert later[name] == sorted(drawn[name] + [f"{key} copy" for key in drawn[name]])
