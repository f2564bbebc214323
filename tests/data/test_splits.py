"""Splits that grow with the data, and split files that came with the data, which are kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.data.splits import SPLITS, draw_splits, fill_splits, voc_splits

SHARES = {"val": 0.1, "test": 0.2}


def names(start, stop):
    return [f"{k:04d}" for k in range(start, stop)]


class Main:
    """A folder of split files, and voc_splits called on it as the script does."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, keys, shares=SHARES, seed=0, **changes):
        splits = voc_splits(self.folder, keys, shares, seed, **changes)
        for path, text in splits.files.items():
            path.write_text(text)
        return splits

    def put(self, **splits):
        for name, members in splits.items():
            (self.folder / f"{name}.txt").write_text("\n".join(members))

    def read(self, name):
        return (self.folder / f"{name}.txt").read_text().split()


@pytest.fixture
def main(tmp_path):
    return Main(tmp_path)


def sizes(members):
    return [len(members[name]) for name in SPLITS]


def test_old_images_stay_new_ones_are_drawn_gone_ones_dropped(main):
    first = main.run(names(0, 60)).members
    assert sizes(first) == [42, 6, 12]
    gone = {first["train"][0], first["val"][0], first["test"][0]}
    keys = [key for key in names(0, 100) if key not in gone]
    splits = main.run(keys)
    for name in SPLITS:
        assert set(first[name]) - gone <= set(splits.members[name])
        assert splits.members[name] == main.read(name)
    assert sorted(sum(splits.members.values(), [])) == keys
    assert "57 images kept, 40 new" in splits.messages[-1]
    assert main.read("trainval") == sorted(main.read("train") + main.read("val"))
    assert main.run(keys).members == splits.members


@given(st.lists(st.integers(1, 9), max_size=6), st.sampled_from([(0.1, 0.2), (0, 0.3), (0.5, 0)]))
def test_images_never_move_and_shares_are_reached(growth, shares):
    shares, members, count = dict(zip(("val", "test"), shares)), {}, 0
    for more in growth:
        before = {key: name for name, keys in members.items() for key in keys}
        count += more
        members = draw_splits(members, names(0, count), shares, 0)
        after = {key: name for name, keys in members.items() for key in keys}
        assert before.items() <= after.items() and len(after) == count and members["train"]
        for name, share in shares.items():
            assert len(members[name]) <= (max(1, round(share * count)) if share else 0)


def test_an_edited_file_is_kept(main):
    first = main.run(names(0, 30)).members
    edited = [*first["val"], first["train"][0]]
    main.put(val=edited)
    splits = main.run(names(0, 40))
    assert splits.members["val"] == edited == main.read("val")
    assert set(first["train"][1:]) <= set(splits.members["train"])
    assert sorted(sum(splits.members.values(), [])) == names(0, 40)
    assert main.run(names(0, 40)).members == splits.members
    main.put(train=splits.members["train"][1:])  # both: what was drawn for test stays
    assert main.run(names(0, 40)).members["test"] == splits.members["test"]


@pytest.mark.parametrize("given", [
    {"train": names(0, 10), "val": names(10, 15), "test": names(15, 18)},
    {"train": names(0, 10), "val": names(10, 15), "trainval": names(0, 15)},
    {"train": names(0, 10), "val": names(10, 15)}])
def test_whole_splits_that_came_with_the_data_are_never_written(main, given):
    main.put(**given, cat_train=["0001 1"])
    splits = main.run(names(0, 20))
    assert not splits.files and not splits.retired
    assert splits.members == {"test": []} | {name: given[name] for name in SPLITS if name in given}
    both = main.run(names(0, 20), {"val": 0, "test": 0.1}, train_on_val=True).members
    assert both == splits.members | {"train": names(0, 15), "val": []}


def test_trainval_alone_is_divided(main):
    main.put(trainval=names(0, 15), test=names(15, 18))
    members = main.run(names(0, 20)).members
    assert sorted(members["train"] + members["val"]) == names(0, 15) == main.read("trainval")
    assert len(members["val"]) == 2 and members["test"] == names(15, 18)
    assert main.run(names(0, 20), seed=5).members == members


def test_overwrite_draws_all_anew_and_puts_other_files_aside(main):
    main.put(train=names(0, 18), val=names(18, 19), test=names(19, 20))
    splits = main.run(names(0, 20), overwrite=True)
    assert [path.name for path in splits.retired] == ["train.txt", "val.txt", "test.txt"]
    assert sizes(splits.members) == [14, 2, 4]
    assert main.run(names(0, 20), seed=9).members == splits.members
    assert not main.run(names(0, 20), overwrite=True, seed=3).retired  # drawn here


def test_names_with_spaces_and_numbers(main):
    main.put(train=["a 1 ", "", "plain  1"], val=["b -1"])
    members = main.run(["a 1", "b -1", "plain"]).members
    assert members["train"] == ["a 1", "plain"] and members["val"] == ["b -1"]


@pytest.mark.parametrize("line", [
    "{0}.jpg", "{0}.xml", "JPEGImages/{0}.jpg Annotations/{0}.xml", "{0}.PNG 1", "C:\\x\\{0}.jpg"])
@pytest.mark.parametrize("names", [("train", "val"), ("Train", "Validation"),
                                   ("cat_train", "cat_val")])
def test_lines_and_names_of_tools(main, line, names):
    for name, keys in zip(names, (["a 1.5", "b"], ["sub/c", "d"])):
        main.put(**{name: [line.format(key) for key in keys]})
    members = main.run(["a 1.5", "b", "sub/c", "d", "e/f"]).members
    assert members == {"train": ["a 1.5", "b"], "val": ["sub/c", "d"], "test": []}


@pytest.mark.parametrize("test", [[], ["t1", "t2"]])
def test_other_sources_are_as_stable(tmp_path, test):
    record = tmp_path / "a_drawn_splits.json"

    def run(keys, test=test, **changes):
        splits = fill_splits({"train": keys, "val": [], "test": test}, record, SHARES, 0, **changes)
        record.write_text(splits.files[record])
        return splits.members

    first, later = run(names(0, 20)), run(names(0, 50))
    assert all(set(first[name]) <= set(later[name]) for name in SPLITS)
    assert sizes(later) == ([45, 5, 2] if test else [35, 5, 10])
    assert run(names(0, 50), overwrite=True)["val"] != later["val"]
    # A test split that comes later frees the images drawn for test.
    freed = run(names(0, 50), test=["x"])
    assert freed["test"] == ["x"] and sorted(freed["train"] + freed["val"]) == names(0, 50)
    given = {"train": ["a"], "val": ["b"], "test": []}
    assert fill_splits(given, record, SHARES, 0) == (given, {}, [], [])
