"""Which images train, which choose the best epoch (val), and which test.

A draw parts no copies, Roboflow's versions of a photo, or frames of a video, and starves no class.
What is drawn here is recorded in drawn_splits.json, and later runs keep it. Nothing is drawn over a
split that came with the data.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.doctor import ImageFacts
from utils.data.sources import Annotation

SPLITS = ("train", "val", "test")
RECORD = "drawn_splits.json"
# What tools call the splits.
SPLIT_OF = {"train": "train", "training": "train", "val": "val", "valid": "val",
            "validation": "val", "test": "test", "testing": "test", "trainval": "train"}
ROBOFLOW = re.compile(r"(.+)[._-](?:jpe?g|png|bmp|webp|tiff?)\.rf\.\w+", re.I)  # name_jpg.rf.<hash>
COPY = re.compile(r"[ _-]+(aug|copy|flip|mirror)[ _(-]*\d*\)?$", re.I)  # a_aug1, a - Copy (2)
SAME_SCENE = 0.5  # likeness of neighbours by number; of unlike images it is below 0.45
# A video of more than WHOLE of all images is cut into PIECES, else little would be left to draw.
WHOLE, PIECES = 0.25, 0.1
Members = dict[str, list[str]]  # split -> keys of its images


class Candidate(NamedTuple):
    """An image that may be drawn."""

    group: int  # images of one group stay together
    labels: frozenset[str]  # class names of its objects, without difficult ones


def find_candidates(annotations: Mapping[str, Annotation], facts: Mapping[Path, ImageFacts]
                    ) -> dict[str, Candidate]:
    """Return {key: Candidate} of the annotations that can be read, and their images too."""
    images = {key: facts[item.image] for key, item in annotations.items()
              if item.image and item.objects is not None and facts[item.image].size}
    names, first = {}, {}  # first: content -> name of the first image with it
    for key, image in images.items():
        path = annotations[key].image
        # Roboflow's versions of an image share a name, others have their own path.
        match = ROBOFLOW.fullmatch(path.stem)
        name = match[1] if match else COPY.sub("", path.with_suffix("").as_posix())
        names[key] = first.setdefault(image.digest, name)
    runs = _find_runs({names[key]: image for key, image in images.items()})
    groups = {name: group for group, run in enumerate(runs) for name in run}
    return {key: Candidate(groups[name], frozenset(item.name for item in annotations[key].objects
                                                   if not item.difficult))
            for key, name in names.items()}


def _find_runs(images):
    """Return the names of {name: ImageFacts} in groups, of frames of one video or one name."""
    order = sorted(images, key=lambda name: [int(part) if k % 2 else part for k, part
                                             in enumerate(re.split(r"(\d+)", name))])
    rows = np.array([images[name].fingerprint for name in order])
    runs = [order[:1]]
    for previous, name, likeness in zip(order, order[1:], (rows[1:] * rows[:-1]).sum(1)):
        if likeness >= SAME_SCENE and re.sub(r"\d+", "", previous) == re.sub(r"\d+", "", name):
            runs[-1].append(name)
        else:
            runs.append([name])
    steps = [max(1, round(PIECES * len(order))) if len(run) > WHOLE * len(order) else len(run)
             for run in runs]
    return [run[start:start + step] for run, step in zip(runs, steps)
            for start in range(0, len(run), step or 1)]


class Splits(NamedTuple):
    """How the images of a source are split."""

    members: Members
    files: dict[Path, str]  # records of draws, to be written together with the lists
    messages: list[str]  # lines to print


def draw_splits(old: Members, keys: Sequence[str], shares: Mapping[str, float], seed: int,
                candidates: Mapping[str, Candidate]) -> Members:
    """Return the `old` splits without images that are gone and with the new ones, sorted.

    val and test are filled up to their `shares` of the images, with a like part of the images of
    every class. Images of one group come into one split, those that are no `candidates` into train.
    """
    known = set(keys)
    splits = {name: [key for key in old.get(name, ()) if key in known] for name in SPLITS}
    placed = set().union(*splits.values())
    split_of = {candidates[key].group: name for name in SPLITS[::-1] for key in splits[name]
                if key in candidates and (name == "train" or name in shares)}
    groups = defaultdict(list)
    for key in keys:
        if key not in placed:
            candidate = candidates.get(key)
            name = split_of.get(candidate.group) if candidate else "train"
            (splits[name] if name else groups[candidate.group]).append(key)
    drawable = [*chain(*groups.values()), *(key for key in placed if key in candidates)]
    total = _count_labels(drawable, candidates)
    groups = [*groups.values()]
    groups = [groups[k] for k in np.random.default_rng(seed).permutation(len(groups))]
    open_names = [name for name in ("val", "test") if shares.get(name)]
    for name in open_names:
        chosen = _choose(groups, splits[name], total, candidates,
                         train_labels=_count_labels(splits["train"], candidates),
                         others=1 + (name != open_names[-1]), number=len(drawable),
                         target=max(1, round(shares[name] * len(drawable))))
        splits[name] += chain(*(groups[k] for k in chosen))
        groups = [group for k, group in enumerate(groups) if k not in chosen]
    splits["train"] += chain(*groups)
    return {name: sorted(members) for name, members in splits.items()}


def _choose(groups, members, total, candidates, *, train_labels, others, number, target):
    """Return which of the groups, lists of keys in random order, join the `members` of a split.

    The class with the smallest part of its images in the split comes next, the rarer of equals,
    until there are `target` images; for classes without any, up to a third of the `number` of all.
    A class leaves a group to train, and where it has three to each of the `others`.
    """
    labels = [_count_labels(group, candidates) for group in groups]
    counts = Counter(chain(*labels, train_labels))
    spare = {label: max(count - others, min(count - 1, 1)) for label, count in counts.items()}
    have, size, chosen = _count_labels(members, candidates), len(members), set()
    piles = {label: [k for k in range(len(groups)) if label in labels[k]] for label in counts}
    while piles:
        label = min(piles, key=lambda label: (have[label] / total[label], total[label], label))
        pile, best, lacks_class = piles[label], -1, label and not have[label]
        if not pile or size >= target and not lacks_class:
            del piles[label]
            continue
        if lacks_class:  # the group that brings most classes, without too many images
            best = max(range(len(pile)), key=lambda place: (
                size + len(groups[pile[place]]) <= target,
                sum(not have[other] for other in labels[pile[place]])))
        k = pile.pop(best)
        fits = size + len(groups[k]) <= (max(target, number // 3) if lacks_class else target)
        if fits and k not in chosen and all(spare[other] > 0 for other in labels[k]):
            chosen.add(k)
            size += len(groups[k])
            have.update(labels[k])
            for other in labels[k]:
                spare[other] -= 1
    return chosen


def _count_labels(keys, candidates):
    """Return the number of images of each class; "" counts those without objects."""
    return Counter(label for key in keys if key in candidates
                   for label in candidates[key].labels or ("",))


def record_path(root: Path) -> Path:
    """Return where the draws from a source are recorded: a folder, or a file of annotations."""
    return root.with_name(f"{root.stem}_{RECORD}") if root.is_file() else root / RECORD


def make_splits(given: Members, record: Path, shares: Mapping[str, float], seed: int,
                candidates: Mapping[str, Candidate], *, overwrite: bool = False,
                train_on_val: bool = False) -> Splits:
    """Draw what the data leaves open: val, and test if it has neither, from the train images.

    What `record` holds of earlier draws is kept, unless `overwrite`. `train_on_val` trains on given
    val images too; val is then drawn from both.
    """
    if given["val"] and not train_on_val:
        counts = ", ".join(f"{name} {len(given[name])}" for name in SPLITS)
        return Splits(given, {}, [f"the split is that of the data: {counts} images"])
    old = json.loads(record.read_bytes()) if record.exists() and not overwrite else {}
    if given["val"] or given["test"]:
        shares, old = {"val": shares["val"]}, old | {"test": []}
    drawn = draw_splits(old, sorted(given["train"] + given["val"]), shares, seed, candidates)
    before, after = (set().union(*splits.values()) for splits in (old, drawn))
    # New images that cannot be read yet are not remembered: they will be drawn when mended.
    lasting = {name: [key for key in members if key in before or key in candidates]
               for name, members in drawn.items()}
    kept, new = len(after & before), len((after - before) & candidates.keys())
    return Splits(drawn | {"test": given["test"] or drawn["test"]},
                  {record: json.dumps(lasting, indent=0)},
                  [f"drawn splits: {kept} images kept, {new} new"])
