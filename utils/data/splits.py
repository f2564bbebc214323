"""Which images train, choose the best epoch, and test."""

import re

import numpy as np

from utils.cli import UserError, make_folder, read_text, shorten

SPLITS = ("train", "val", "test")


def fill_splits(settings, splits):
    """Draw from the train split what a source came without: val, and test where it has neither."""
    total, rng = len(splits["train"]), np.random.default_rng(settings.seed)
    missing = [] if splits["val"] else [("val", settings.val_share)]
    if not splits["val"] and not splits["test"]:
        missing.append(("test", settings.test_share))
    for name, share in missing:
        splits[name] = draw(sorted(splits["train"]), share, total, rng)
        splits["train"] = sorted(set(splits["train"]) - set(splits[name]))


def make_splits(settings, root, ids):
    """Return {split: ids}; read the split files that exist, draw and write those that do not.

    A missing test split is drawn from the images in no other file, a missing val split from
    trainval.txt where there is one, and a missing train split is what then remains.
    """
    folder = root / "ImageSets" / "Main"
    kept = {} if settings.overwrite_splits else {
        name: read_split(path, set(ids)) for name in (*SPLITS, "trainval")
        if (path := folder / f"{name}.txt").exists()}
    rng = np.random.default_rng(settings.seed)
    used = {member for members in kept.values() for member in members}
    free = [member for member in ids if member not in used]
    test = kept["test"] if "test" in kept else draw(free, settings.test_share, len(ids), rng)
    learn = kept.get("trainval", free)
    taken = {*test, *kept.get("train", ()), *kept.get("val", ())}
    learn = [member for member in learn if member not in taken]
    val = kept["val"] if "val" in kept else draw(learn, settings.val_share, len(ids), rng)
    train = kept["train"] if "train" in kept else sorted(set(learn) - set(val))
    splits = {"train": train, "val": val, "test": test}
    write_splits(make_folder(folder), splits | {"trainval": sorted(train + val)}, kept)
    return splits


def draw(pool, share, total, rng):
    """Return a random part of `pool`, sorted: `share` of `total` images, at least one."""
    count = max(1, round(share * total)) if share else 0
    return sorted(rng.permutation(pool)[:count].tolist()) if pool else []


def read_split(path, ids):
    """Return the ids in a split file; a 1, 0 or -1 behind an id, as VOC has them, is left off."""
    lines = read_text(path, remedy="Check the split file.").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    return [line if line in ids else re.sub(r"\s+-?[01]$", "", line) for line in lines]


def write_splits(folder, splits, kept):
    """Write the split files that were not there, and say of each what became of it."""
    for name, members in splits.items():
        path = folder / f"{name}.txt"
        if name not in kept and members:
            try:
                path.write_text("".join(f"{member}\n" for member in members), encoding="utf-8")
            except OSError as error:
                raise UserError(f"{shorten(path)}: cannot be written ({error.strerror}).") from None
        how = "kept" if name in kept else "drew" if members else "no images left for"
        print(f"{how} {shorten(path)}: {len(kept.get(name, members))} images")
