"""Splits that grow with the data, and split files of others, which are left alone."""

import errno
import json

import numpy as np
import pytest

from utils.cli import UserError
from utils.data.splits import RECORD, SPLITS, draw_splits, fill_splits, voc_splits

SHARES = {"val": 0.1, "test": 0.2}


def names(start, stop):
    return [f"{k:04d}" for k in range(start, stop)]


class Main:
    """A folder of split files, and voc_splits called on it as the script does."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, ids, shares=SHARES, seed=0, *, write=True, **changes):
        found = voc_splits(self.folder, ids, shares, seed, **changes)
        for path, text in found.files.items() if write else ():
            path.write_text(text)
        return found

    def put(self, **splits):
        for name, members in splits.items():
            (self.folder / f"{name}.txt").write_text("".join(f"{key}\n" for key in members))

    def read(self, name):
        return (self.folder / f"{name}.txt").read_text().split()

    def state(self):
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


@pytest.fixture
def main(tmp_path):
    return Main(tmp_path)


def test_old_images_stay_new_ones_are_drawn_gone_ones_dropped(main):
    first = main.run(names(0, 60)).members
    assert {name: len(keys) for name, keys in first.items()} == {"train": 42, "val": 6, "test": 12}
    gone = {first["train"][0], first["val"][0], first["test"][0]}
    ids = [key for key in names(0, 100) if key not in gone]
    found = main.run(ids)
    for name in SPLITS:
        assert set(first[name]) - gone <= set(found.members[name])
        assert found.members[name] == main.read(name)
    assert sorted(sum(found.members.values(), [])) == ids and not found.unlisted
    assert [len(found.members[name]) for name in SPLITS] == [68, 10, 19]
    assert "57 images kept, 40 new (train 27, val 5, test 8), 3 gone" in found.said[-1]
    assert main.read("trainval") == sorted(main.read("train") + main.read("val"))
    assert main.run(ids).members == found.members


def test_one_at_a_time_reaches_the_shares_and_never_moves_an_image(main):
    before = {}
    for count in range(1, 21):
        members = main.run(names(0, count)).members
        now = {key: name for name, keys in members.items() for key in keys}
        assert before.items() <= now.items() and len(now) == count and members["train"]
        before = now
    assert [len(members[name]) for name in SPLITS] == [14, 2, 4]


@pytest.mark.parametrize("count, sizes", [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1])])
def test_few_images_train_first(count, sizes):
    found = draw_splits({}, names(0, count), SHARES, 0)
    assert [len(found[name]) for name in SPLITS] == sizes


def test_a_share_that_was_nothing_is_drawn_later(main):
    first = main.run(names(0, 20), {"val": 0.1, "test": 0}).members
    assert not first["test"] and not (main.folder / "test.txt").exists()
    later = main.run(names(0, 40), {"val": 0.1, "test": 0.2}).members
    assert len(later["test"]) == 8 and not set(later["test"]) & set(names(0, 20))


def test_the_record_survives_copies_and_line_ends(main, tmp_path_factory):
    first = main.run(names(0, 30)).members
    copy = Main(tmp_path_factory.mktemp("copy"))
    for name, data in main.state().items():
        (copy.folder / name).write_bytes(data.replace(b"\n", b"\r\n"))
    later = copy.run(names(0, 40)).members
    assert all(set(first[name]) <= set(later[name]) for name in SPLITS)
    assert sum(map(len, later.values())) == 40


def test_an_edited_file_is_its_editors(main):
    first = main.run(names(0, 30)).members
    mine = [*first["val"], first["train"][0]]
    main.put(val=mine)
    found = main.run(names(0, 40))
    assert found.members["val"] == mine == main.read("val")
    assert first["train"][0] not in found.members["train"] + main.read("train")
    assert set(first["train"][1:]) <= set(found.members["train"]) and not found.unlisted
    assert sorted(sum(found.members.values(), [])) == names(0, 40)
    again = main.run(names(0, 40))
    assert again.members == found.members
    # With train and val in somebody's hands nothing new can be placed: it is listed instead.
    main.put(train=found.members["train"][1:])
    left = main.run(names(0, 42)).unlisted
    assert set(left) >= {"0040", "0041"}


@pytest.mark.parametrize("theirs", [
    {"train": names(0, 10), "val": names(10, 15), "test": names(15, 18)},
    {"train": names(0, 10), "val": names(10, 15), "trainval": names(0, 15)},
    {"train": names(0, 10), "val": names(10, 15)}])
@pytest.mark.parametrize("whole", [False, True])
def test_whole_splits_of_others_are_never_written(main, theirs, whole):
    main.put(**theirs, cat_train=["0001 1"])
    before = main.state()
    found = main.run(names(0, 20), whole=whole)
    listed = {key for keys in theirs.values() for key in keys}
    assert found.unlisted == [key for key in names(0, 20) if key not in listed]
    assert main.state() == before and found.members["test"] == theirs.get("test", [])
    if not whole:
        assert found.members["train"] == theirs["train"] and found.members["val"] == theirs["val"]


@pytest.mark.parametrize("given, val, train", [
    ("train", names(10, 15), names(0, 10)), ("val", names(0, 10), names(10, 15))])
def test_one_of_two_is_the_rest_of_trainval(main, given, val, train):
    main.put(trainval=names(0, 15), **{given: names(0, 10)})
    found = main.run(names(0, 20))
    assert (found.members["val"], found.members["train"]) == (val, train)


def old_draw(ids, seed=0):
    """Draw as the versions before the record did: test from all, then val from the rest."""
    rng = np.random.default_rng(seed)
    test = rng.permutation(ids)[:max(1, round(0.2 * len(ids)))].tolist()
    rest = [key for key in ids if key not in test]
    val = rng.permutation(rest)[:max(1, round(0.1 * len(ids)))].tolist() if rest else []
    return {"train": sorted(set(rest) - set(val)), "val": sorted(val), "test": sorted(test)}


@pytest.mark.parametrize("count", [1, 2, 3, 10, 57])
def test_files_of_earlier_versions_grow_too(main, count):
    before = {name: keys for name, keys in old_draw(names(0, count)).items() if keys}
    trainval = sorted(before.get("train", []) + before.get("val", []))
    main.put(**before, **({"trainval": trainval} if trainval else {}))
    found = main.run(names(0, count + 60))
    assert all(set(keys) <= set(found.members[name]) for name, keys in before.items())
    assert sum(map(len, found.members.values())) == count + 60 and not found.unlisted
    assert len(found.members["test"]) == round(0.2 * (count + 60))


def test_files_that_were_not_drawn_here_are_listed_when_they_do_not_suffice(main):
    main.put(**old_draw(names(0, 20), seed=5))  # of another seed: nobody can know
    assert main.run(names(0, 23)).unlisted == names(20, 23)


def test_overwrite_draws_all_anew(main):
    main.put(train=names(0, 18), val=names(18, 19), test=names(19, 20))
    found = main.run(names(0, 20), overwrite=True)
    assert [len(found.members[name]) for name in SPLITS] == [14, 2, 4]
    assert main.run(names(0, 20), seed=9).members == found.members


def test_overwritten_files_of_others_are_put_aside(main):
    main.put(train=names(0, 18), val=names(18, 19), test=names(19, 20))
    found = main.run(names(0, 20), overwrite=True, write=False)
    assert [path.name for path in found.retired] == ["train.txt", "val.txt", "test.txt"]
    assert sum("was not drawn here: it is now" in line for line in found.said) == 3
    main.run(names(0, 20), overwrite=True)
    assert not main.run(names(0, 20), overwrite=True, seed=3).retired  # drawn here
    main.put(val=names(3, 9))
    assert [path.name for path in main.run(names(0, 20), overwrite=True).retired] == ["val.txt"]


def test_a_test_split_that_comes_later_frees_the_images_drawn_for_test(tmp_path):
    def fill(test):
        found = fill_splits({"train": names(0, 20), "val": [], "test": test}, tmp_path / "r.json",
                            SHARES, 0)
        (tmp_path / "r.json").write_text(found.files[tmp_path / "r.json"])
        return found.members

    first, later = fill([]), fill(["x"])
    assert len(first["test"]) == 4 and later["test"] == ["x"]
    assert sorted(later["train"] + later["val"]) == names(0, 20)
    assert set(first["val"]) <= set(later["val"])


def test_a_removed_file_is_drawn_again(main):
    main.run(names(0, 20))
    for name in (*SPLITS, "trainval"):
        (main.folder / f"{name}.txt").unlink()
    assert main.run(names(0, 20), seed=1).members == draw_splits({}, names(0, 20), SHARES, 1)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"train": 5}', '{"other": []}', "[" * 9999,
                                  '{"train": "abc"}', '{"train": [["x"]]}', '{"train": [1]}',
                                  '{"train": ["0001"], "val": {}}', '["train"]'])
def test_a_broken_record_is_named(main, text):
    main.run(names(0, 20))
    (main.folder / RECORD).write_text(text)
    with pytest.raises(UserError, match=f"{RECORD}.*remove it"):
        main.run(names(0, 20))


@pytest.mark.parametrize("text", ['{"train": "abc"}', '{"train": [["x"]]}', '{"train": [null]}'])
def test_a_broken_record_of_other_sources_is_named(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(UserError, match=f"{RECORD}.*remove it"):
        fill_splits({"train": names(0, 20), "val": [], "test": []}, tmp_path / RECORD, SHARES, 0)


# count of images, shares of the second run, which of them the line names
@pytest.mark.parametrize("count, shares, named", [
    (100, (0.1, 0.2), ""), (100, (0.105, 0.21), ""), (100, (0.3, 0.2), "val"),
    (100, (0.1, 0.05), "test"), (100, (0, 0.2), "val"), (12, (0, 0), "val test"),
    (200, (0.1, 0.2), ""), (200, (0.8, 0), "val test"), (1, (0.1, 0.2), ""), (1, (0.1, 0), "")])
@pytest.mark.parametrize("voc", [True, False])
def test_shares_that_kept_splits_do_not_have_are_said(main, count, shares, named, voc):
    def run(count, shares, **changes):
        shares = dict(zip(("val", "test"), shares))
        if voc:
            return main.run(names(0, count), shares, **changes).said
        splits = {"train": names(0, count), "val": [], "test": []}
        found = fill_splits(splits, main.folder / RECORD, shares, 0, **changes)
        (main.folder / RECORD).write_text(found.files[main.folder / RECORD])
        return found.said
    assert len(run(min(count, 100), (0.1, 0.2))) == 1
    lines = [line for line in run(count, shares) if "apply to new images only" in line]
    assert len(lines) == bool(named) and all("overwrite_splits" in line for line in lines)
    for name in ("val", "test"):
        assert (f"{name}_share is" in "".join(lines)) == (name in named.split())
    assert not [line for line in run(count, shares, overwrite=True) if "only" in line]


@pytest.mark.parametrize("code, kept", [("EROFS", True), ("EACCES", True), ("ENOSPC", False)])
@pytest.mark.parametrize("folder", ["", "ImageSets/Main"])
def test_a_folder_that_cannot_be_written_is_drawn_from(tmp_path, monkeypatch, code, kept, folder):
    def fail(path, *_, **__):
        raise OSError(getattr(errno, code), "no", str(path))
    main = Main(tmp_path / folder)
    free = main.run(names(0, 20), write=False)
    monkeypatch.setattr("pathlib.Path.touch", fail)
    found = main.run(names(0, 20), write=False)
    assert found.members == free.members and bool(found.files) != kept
    assert any("not remembered" in line for line in found.said) == kept
    main.folder.mkdir(parents=True, exist_ok=True)
    for path, text in free.files.items():
        path.write_text(text)
    again = main.run(names(0, 20), write=False)
    assert again.members == free.members and not any("not rem" in line for line in again.said)


def test_names_with_spaces_and_numbers(main):
    ids = [" a", "a ", "a 1", "b -1", "plain"]
    main.put(train=ids[:3], val=["b -1", "plain 1"])
    found = main.run(ids)
    assert found.members["train"] == ids[:3] and found.members["val"] == ["b -1", "plain"]


@pytest.mark.parametrize("own", [{}, {"test": ["t1", "t2"]}])
def test_other_sources_are_as_stable(tmp_path, own):
    def run(keys, **changes):
        splits = {"train": keys, "val": [], "test": []} | own
        found = fill_splits(splits, tmp_path / "a_drawn_splits.json", SHARES, 0, **changes)
        for path, text in found.files.items():
            path.write_text(text)
        return found.members
    first, later = run(names(0, 20)), run(names(0, 50))
    assert all(set(first[name]) <= set(later[name]) for name in SPLITS)
    assert [len(later[name]) for name in SPLITS] == ([45, 5, 2] if own else [35, 5, 10])
    assert json.loads((tmp_path / "a_drawn_splits.json").read_text())["val"] == later["val"]
    assert run(names(0, 50), overwrite=True)["val"] != later["val"]


def test_names_with_zero_bytes_at_their_end_stay_whole():
    keys = [f"a{k}\0" for k in range(10)]
    drawn = draw_splits({}, keys, {"val": 0.3, "test": 0.3}, 0)
    assert sorted(key for members in drawn.values() for key in members) == keys
