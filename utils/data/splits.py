"""Which images train, choose the best epoch, and test.

What is drawn here is remembered in drawn_splits.json beside it: later runs keep it, drop what is
gone and draw what is new. Split files that differ from it are somebody else's: they are kept, or
where all is to be drawn anew get `.old` behind their names.
"""

import errno
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.cli import UserError, read_text, shorten

SPLITS = ("train", "val", "test")
FILES = (*SPLITS, "trainval")
RECORD = "drawn_splits.json"


class Splits(NamedTuple):
    """How the images of a source are split."""

    members: dict[str, list[str]]  # split -> keys; every key of the split files, known or not
    unlisted: list[str]  # keys in no split
    files: dict[Path, str]  # what is to be written, with the lists or not at all
    said: list[str]  # lines for the screen
    retired: tuple[Path, ...] = ()  # files of others in the way, to get .old behind their names


def draw_splits(old: dict, keys: list[str], shares: dict[str, float], seed: int) -> dict:
    """Add to splits drawn before what is new, and drop what is gone.

    Each split is filled up to its share of all, at least one image, while one is left to train
    on; who has a split keeps it. The same seed and images give the same splits.

    Args:
        old: {split: keys} drawn before, {} for a first draw.
        keys: what is to be divided.
        shares: {"val": share, "test": share}; train gets the rest.
        seed: of the draw.

    Returns:
        {split: keys, sorted}.
    """
    known = set(keys)
    splits = {name: [key for key in old.get(name, ()) if key in known] for name in SPLITS}
    placed = set().union(*splits.values())
    new = [key for key in keys if key not in placed]
    room, counts = len(new) - (not splits["train"]), {}
    for name in ("val", "test"):
        share = shares.get(name, 0)
        aim = max(1, round(share * len(known))) if share else 0
        counts[name] = max(0, min(aim - len(splits[name]), room))
        room -= counts[name]
    rng = np.random.default_rng(seed)
    for name in ("test", "val"):
        # By index: an array of texts would lose the zero bytes that broken names end with.
        drawn = {new[k] for k in rng.permutation(len(new))[:counts[name]]}
        splits[name] += drawn
        new = [key for key in new if key not in drawn]
    splits["train"] += new
    return {name: sorted(members) for name, members in splits.items()}


def fill_splits(splits: dict, record: Path, shares: dict[str, float], seed: int, *,
                overwrite: bool = False) -> Splits:
    """Draw from the train split what a source came without: val, and test where it has neither.

    Args:
        splits: {split: keys} that the source has itself.
        record: path of the file to remember in what was drawn.
        shares, seed: of draw_splits.
        overwrite: draw anew.
    """
    if splits["val"]:
        return Splits(splits, [], {}, [])
    wanted = {"val": shares["val"]} if splits["test"] else shares
    old = {} if overwrite else read_record(record)
    if splits["test"]:  # which came later: the images drawn for test before are to be drawn again
        old.pop("test", None)
    drawn = draw_splits(old, splits["train"], wanted, seed)
    said = [describe(record.parent, old, drawn, wanted, len(splits["train"]))]
    files = _to_write(record.parent, {record: _json(drawn)}, said)
    return Splits(drawn | {"test": splits["test"] or drawn["test"]}, [], files, said)


def voc_splits(folder: Path, ids: list[str], shares: dict[str, float], seed: int, *,
               overwrite: bool = False, whole: bool = False) -> Splits:
    """Read the split files of a VOC folder; draw or extend what they leave open.

    A missing test split is drawn from the images in no other file, unless trainval.txt, or
    train.txt with val.txt, tells already what is for training; a missing train or val split comes
    from trainval.txt where there is one.

    Args:
        folder: ImageSets/Main.
        ids: of the annotated images, sorted.
        shares, seed: of draw_splits.
        overwrite: draw all anew.
        whole: train on train and val of files that are not from here, but for the val share.
    """
    found = {} if overwrite else _split_files(folder, ids)
    old = (read_record(folder / RECORD) or drawn_before(found, ids, shares, seed)) if found else {}
    old = {name: members for name, members in old.items() if name in found}
    theirs = {name: members for name, members in found.items()
              if name not in old or set(members) != set(old[name])}
    taken = set().union(*theirs.values())
    base = {name: theirs[name] if name in theirs
            else [key for key in old.get(name, ()) if key not in taken] for name in SPLITS}
    wanted = {name: share for name, share in shares.items() if name not in theirs}
    if "trainval" in theirs or {"train", "val"} <= set(theirs):
        wanted.pop("test", None)
    keys = ids
    if "trainval" in theirs:
        known = set(theirs["trainval"]).union(*base.values())
        keys = [key for key in ids if key in known]
        if "train" in theirs and "val" in wanted:
            wanted["val"] = 1  # all of trainval that is not in train
    drawn = draw_splits(base, keys, wanted, seed)
    members = {name: theirs.get(name, drawn[name]) for name in SPLITS}
    listed = taken.union(*members.values())
    said = [f"kept {shorten(folder / name)}.txt: {len(theirs[name])} images" for name in theirs]
    ours = {name: drawn[name] for name in SPLITS
            if name not in theirs and (drawn[name] or name in found)}
    files, retired = {}, []
    if ours:
        old = {name: old[name] for name in ours if name in old}
        said.append(describe(folder, old, ours, wanted, len(keys)))
        if "trainval" not in theirs:
            ours["trainval"] = sorted({*members["train"], *members["val"]})
        files = {folder / f"{name}.txt": "".join(f"{key}\n" for key in keys)
                 for name, keys in ours.items()}
        files = _to_write(folder, files | {folder / RECORD: _json(ours)}, said)
        retired = foreign_files(folder, ids, shares, seed) if overwrite and files else []
        said += [f"{shorten(path)} was not drawn here: it is now {path.name}.old"
                 for path in retired]
    if whole and "val" in theirs:
        both = sorted({*theirs.get("trainval", ()), *members["train"], *members["val"]})
        members |= draw_splits({}, both, {"val": shares["val"]}, seed) | {"test": members["test"]}
    return Splits(members, [key for key in ids if key not in listed], files, said, tuple(retired))


def _split_files(folder, ids):
    """Return {split: keys} of the split files that are there."""
    return {name: read_split(folder / f"{name}.txt", set(ids)) for name in FILES
            if os.path.lexists(folder / f"{name}.txt")}


def foreign_files(folder: Path, ids: list[str], shares: dict[str, float], seed: int) -> list[Path]:
    """Return the split files of a VOC folder that are not as they were drawn here."""
    found, old = {}, {}
    with suppress(UserError):  # what cannot be read was not drawn here
        found = _split_files(folder, ids)
        old = read_record(folder / RECORD) or drawn_before(found, ids, shares, seed)
    return [path for name in FILES if (path := folder / f"{name}.txt").is_file()
            and not (name in old and set(old[name]) == set(found.get(name, ())))]


def drawn_before(found: dict, ids: list[str], shares: dict[str, float], seed: int) -> dict:
    """Return the splits where an earlier version drew them, which kept no record, else {}.

    Drawing their images, all of them annotated, again gives the same; of one or two images none
    was left for train.
    """
    listed = sorted({key for name in SPLITS for key in found.get(name, ())})
    again = draw_splits({}, listed, shares, seed)
    same = all(again[name] == found.get(name, []) for name in SPLITS)
    few = len(listed) < 3 and "train" not in found
    return found if listed and set(listed) <= set(ids) and (same or few) else {}


def describe(place: Path, old: dict, new: dict, shares: dict[str, float], total: int) -> str:
    """Return what became of the splits drawn in a place, and which miss their share of `total`."""
    before, after = (set().union(*splits.values()) for splits in (old, new))
    counts = ", ".join(f"{name} {len(members)}" for name, members in new.items())
    if not before:
        return f"drew the splits of {shorten(place)}: {counts} images"
    added = ", ".join(f"{name} {len({*members} - before)}" for name, members in new.items())
    odd = ""
    for name, share in shares.items() if total > 2 else ():
        size, aim = len(new.get(name, ())), share * total  # a share of 1: what others' files leave
        if share < 1 and (bool(share) != bool(size) or abs(size - aim) > max(1, aim / 10)):
            odd += f"{name} has {size} of {total} images, {name}_share is {share:g}; "
    return (f"splits of {shorten(place)}: {len(after & before)} images kept, "
            f"{len(after - before)} new{f' ({added})' if after - before else ''}, "
            f"{len(before - after)} gone or moved by hand; now {counts}" + (odd and
            f"\n{odd}shares and seed apply to new images only; overwrite_splits draws anew"))


def _to_write(folder, files, said):
    """Return the files, {} where their folder cannot be written to, which is then said."""
    folder = next(place for place in (folder, *folder.parents) if place.exists())
    part = folder / f".{os.getpid()}.part"
    try:  # os.access lets root write anywhere
        part.touch()
        part.unlink()
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            if any(not path.is_file() or path.read_bytes() != text.encode()
                   for path, text in files.items()):
                said.append(f"{shorten(folder)} cannot be written to, so the split is not "
                            "remembered: where images come or go, others change their split too")
            return {}
    return files


def read_split(path: Path, ids: set[str]) -> list[str]:
    """Return the ids in a split file; a 1, 0 or -1 behind an id, as VOC has them, is left off."""
    lines = read_text(path, remedy="Check the split file.").splitlines()
    lines = [line if line in ids else line.strip() for line in lines if line.strip()]
    return [line if line in ids else re.sub(r"\s+-?[01]$", "", line) for line in lines]


def read_record(path: Path) -> dict[str, list[str]]:
    """Return {split: keys} that were drawn before, {} where there is no record."""
    if not path.exists():
        return {}
    record = {}
    with suppress(ValueError, TypeError, RecursionError):
        values = json.loads(read_text(path, remedy="Remove it."))
        record = {name: [str.__str__(key) for key in [] + values[name]]  # else a TypeError
                  for name in FILES if name in values}
    if not record:
        raise UserError(f"{shorten(path)}: not the record of drawn splits that it was; put it back "
                        "from a copy, or remove it and set overwrite_splits.")
    return record


def _json(splits):
    return json.dumps(splits, indent=0, ensure_ascii=False) + "\n"
