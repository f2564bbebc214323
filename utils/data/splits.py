"""Which images train, which choose the best epoch (val), and which test.

What is drawn here is recorded in drawn_splits.json: later runs keep it, drop images that are gone
and draw new ones. Split files that differ from the record came with the data or were edited by
hand: they are kept as they are.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.cli import UserError, read_text, shorten

SPLITS = ("train", "val", "test")
RECORD = "drawn_splits.json"
Members = dict[str, list[str]]  # split -> keys of its images


class Splits(NamedTuple):
    """How the images of a source are split."""

    members: Members  # every key of the split files, known or not
    files: dict[Path, str]  # to be written together with the lists
    retired: list[Path]  # split files to get .old appended to their names
    messages: list[str]  # lines to print


def draw_splits(old: Members, keys: Sequence[str], shares: Mapping[str, float],
                seed: int) -> Members:
    """Add new images to the splits drawn before, and drop those that are gone.

    val and test are filled up to their `shares` of all keys, with at least one image each as long
    as one is left for train; train gets the rest. Images that have a split keep it. The same seed,
    keys and `old` splits ({} for a first draw) give the same result. Returns {split: sorted keys}.
    """
    known = set(keys)
    splits = {name: [key for key in old.get(name, ()) if key in known] for name in SPLITS}
    placed = set().union(*splits.values())
    new = [key for key in keys if key not in placed]
    room, counts = len(new) - (0 if splits["train"] else 1), {}
    for name in ("val", "test"):
        share = shares.get(name, 0)
        target = max(1, round(share * len(known))) if share else 0
        counts[name] = max(0, min(target - len(splits[name]), room))
        room -= counts[name]
    rng = np.random.default_rng(seed)
    for name in ("test", "val"):
        drawn = {new[k] for k in rng.permutation(len(new))[:counts[name]]}
        splits[name] += drawn
        new = [key for key in new if key not in drawn]
    splits["train"] += new
    return {name: sorted(members) for name, members in splits.items()}


def fill_splits(given: Members, record: Path, shares: Mapping[str, float], seed: int, *,
                overwrite: bool = False) -> Splits:
    """Draw what a source came without from its train images: val, and test if it has neither.

    `given` is {split: keys} of the source; `record` remembers the draw; `overwrite` draws anew.
    """
    if given["val"]:
        return Splits(given, {}, [], [])
    old = {} if overwrite else read_record(record)
    if given["test"]:
        shares = {"val": shares["val"]}
        old.pop("test", None)
    drawn = draw_splits(old, given["train"], shares, seed)
    files, message = _to_write(record.parent, old, drawn, {record: _to_json(drawn)})
    return Splits(drawn | {"test": given["test"] or drawn["test"]}, files, [], [message])


def voc_splits(folder: Path, keys: Sequence[str], shares: Mapping[str, float], seed: int, *,
               overwrite: bool = False, train_on_val: bool = False) -> Splits:
    """Read the split files of a VOC folder, ImageSets/Main, and draw what they leave open.

    train and val are drawn from trainval.txt where it came with the data. test is drawn from the
    images in no file, unless trainval.txt, or train.txt and val.txt, came with the data.
    `overwrite` draws all anew; `train_on_val` trains on the given train and val images together,
    except for the val share. `keys` are the annotated images, sorted.
    """
    files = {name: read_split(path, set(keys)) for name in (*SPLITS, "trainval")
             if (path := folder / f"{name}.txt").exists()}
    record = read_record(folder / RECORD)
    given = {name: members for name, members in files.items()
             if set(members) != set(record.get(name, ()))}
    retired = []
    if overwrite:
        retired, given, record = [folder / f"{name}.txt" for name in given], {}, {}
    fixed = set().union(*(given[name] for name in SPLITS if name in given))
    old = {name: [key for key in record.get(name, ()) if key not in fixed] for name in files
           if name in SPLITS and name not in given}
    val_share = shares["val"]
    shares = {name: share for name, share in shares.items() if name not in given}
    if "trainval" in given or {"train", "val"} <= set(given):
        shares.pop("test", None)
    pool = fixed.union(given.get("trainval", keys))
    drawn = draw_splits(old | given, [key for key in keys if key in pool], shares, seed)
    members = drawn | {name: given[name] for name in SPLITS if name in given}
    drawn = {name: drawn[name] for name in SPLITS
             if name not in given and (drawn[name] or name in files)}
    messages = [f"kept {shorten(folder / name)}.txt: {len(given[name])} images" for name in given]
    messages += [f"{shorten(path)} was not drawn here: it is now {path.name}.old"
                 for path in retired]
    texts = {}
    if drawn:
        if "trainval" not in given:
            drawn["trainval"] = sorted({*members["train"], *members["val"]})
        texts = {folder / f"{name}.txt": "".join(f"{key}\n" for key in drawn[name])
                 for name in drawn} | {folder / RECORD: _to_json(drawn)}
        texts, message = _to_write(folder, old, drawn, texts)
        messages.append(message)
    if train_on_val and "val" in given:
        both = sorted({*given.get("trainval", ()), *members["train"], *members["val"]})
        members |= draw_splits({}, both, {"val": val_share}, seed) | {"test": members["test"]}
    return Splits(members, texts, retired if texts else [], messages)


def _to_write(folder, old, new, files):
    """Return (files to write, a line on what became of the splits drawn in a folder)."""
    before, after = (set().union(*splits.values()) for splits in (old, new))
    counts = ", ".join(f"{name} {len(new[name])}" for name in SPLITS if name in new)
    text = f"drew the splits of {shorten(folder)}: {counts} images"
    if before:
        text = (f"splits of {shorten(folder)}: {len(after & before)} images kept, "
                f"{len(after - before)} new, {len(before - after)} gone or moved by hand; now "
                f"{counts} (shares and seed apply to new images only; see overwrite_splits)")
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(parent, os.W_OK):
        return {}, f"{text}\n{shorten(folder)} cannot be written to, so this is not remembered"
    return files, text


def read_split(path: Path, keys: set[str]) -> list[str]:
    """Return the keys in a split file; a 1, 0 or -1 behind a key, as VOC has them, is left off."""
    lines = [line.strip() for line in read_text(path, remedy="Check the split file.").splitlines()]
    return [line if line in keys else re.sub(r"\s+-?[01]$", "", line) for line in lines if line]


def read_record(path: Path) -> Members:
    """Return {split: keys} that were drawn before, {} where there is no record."""
    try:
        record = json.loads(read_text(path, remedy="Remove it.")) if path.exists() else {}
        return {name: sorted(keys) for name, keys in record.items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{shorten(path)}: not a record of drawn splits; restore it from a copy, "
                        "or remove it and set overwrite_splits.") from None


def _to_json(splits):
    return json.dumps(splits, indent=0, ensure_ascii=False) + "\n"
