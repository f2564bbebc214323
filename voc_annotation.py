"""Turn a VOC folder into the lists that train.py and get_map.py read.

Expects VOCdevkit/VOC2007/Annotations (XML) and VOCdevkit/VOC2007/JPEGImages; writes the splits to
ImageSets/Main and the lists 2007_train.txt, 2007_val.txt, 2007_test.txt with 2007_classes.txt.
"""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from utils.annotations import (Record, clip_box, nearest_name, read_class_names, read_voc_xml,
                               write_list)
from utils.cli import UserError, make_folder, read_text, resolve, run, shorten
from utils.image import IMAGE_SUFFIXES, picture_size

SPLITS = ("train", "val", "test")
SHOWN_PROBLEMS = 10


@dataclass(frozen=True)
class AnnotationSettings:
    """Where the data is and how it is split."""

    # ---- The one line to edit ----

    # A text file with your class names, one a line, spelt as in the XML files.
    classes_path: str = "model_data/voc_classes.txt"

    # ---- Data ----

    # The folder that holds VOC2007.
    VOCdevkit_path: str = "VOCdevkit"
    # Where the lists are written; "." is the repo itself.
    lists_dir: str = "."

    # ---- Splits ----

    # Share of the pictures that get_map.py measures on; the rest is for training.
    test_share: float = 0.1
    # Share that train.py chooses the best epoch by.
    val_share: float = 0.1
    # The same seed gives the same split of the same pictures.
    seed: int = 0
    # False keeps split files that are there already, such as VOC's own.
    overwrite_splits: bool = False


def main(settings):
    """Split, read, write, and say what was found."""
    if not (0 <= settings.test_share and 0 < settings.val_share
            and settings.test_share + settings.val_share < 1):
        raise UserError("val_share must be above 0, test_share at least 0, both below 1 together: got "
                        f"{settings.test_share} and {settings.val_share}.")
    class_names = read_class_names(settings.classes_path)
    root = resolve(settings.VOCdevkit_path) / "VOC2007"
    pictures = find_pictures(root)
    annotations = find_annotations(root)
    splits = make_splits(settings, root, sorted(annotations))
    reader = Reader(class_names, annotations, pictures)
    lists = {name: reader.read(ids) for name, ids in splits.items()}
    print_counts(lists, class_names)
    print_unknown(reader.unknown, class_names, settings.classes_path)
    print_problems(reader.problems)
    folder = make_folder(settings.lists_dir)
    for name, records in lists.items():
        if not splits[name]:
            print(f"no pictures for the {name} split, so no 2007_{name}.txt")
            continue
        if not any(len(record.labels) for record in records):
            raise UserError(f"the {name} split has no object of a known class in its "
                            f"{len(records)} pictures, so no list was written for it; check "
                            f"{settings.classes_path} and the split files.")
        path = folder / f"2007_{name}.txt"
        write_list(path, records, class_names)
        print(f"wrote {shorten(path)}: {len(records)} pictures")


def find_annotations(root):
    """Return {id: XML path} of a VOC folder; an id is the file name without .xml.

    Raises UserError where there are none.
    """
    files = {path.stem: path for path in sorted((root / "Annotations").glob("*.xml"))}
    if not files:
        raise UserError(f"{shorten(root)}/Annotations: no XML files. Put the annotations there and "
                        "the pictures into JPEGImages, or set VOCdevkit_path.")
    return files


def find_pictures(root):
    """Return {id: picture path} of a VOC folder, for the usual endings in any letter case."""
    folder = root / "JPEGImages"
    if not folder.is_dir():
        raise UserError(f"{shorten(folder)}: no such folder; put the pictures there, or set "
                        "VOCdevkit_path.")
    return {path.stem: path for path in sorted(folder.iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES}


def make_splits(settings, root, ids):
    """Return {split: ids}; read the split files that exist, draw and write those that do not.

    A missing test split is drawn from the pictures in no other file, a missing val split from
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
    """Return a random part of `pool`, sorted: `share` of `total` pictures, at least one."""
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
            path.write_text("".join(f"{member}\n" for member in members), encoding="utf-8")
        how = "kept" if name in kept else "drew" if members else "no pictures left for"
        print(f"{how} {shorten(path)}: {len(kept.get(name, members))} pictures")


class Reader:
    """Reads annotations to records and collects what is wrong with them."""

    def __init__(self, class_names, annotations, pictures):
        self.numbers = {name: k for k, name in enumerate(class_names)}
        self.annotations, self.pictures = annotations, pictures
        self.unknown = Counter()  # class name in the XML files -> objects left out
        self.problems = []  # one line each

    def read(self, ids):
        """Return the records of those ids whose picture and annotation exist."""
        records = []
        for name in tqdm(ids, unit="file", leave=False, disable=None):
            if name not in self.pictures:
                self.problems.append(f"{name}: no picture of that name in JPEGImages; left out")
            elif name not in self.annotations:
                self.problems.append(f"{name}: no XML file in Annotations; left out")
            else:
                records.append(self._record(self.annotations[name], self.pictures[name]))
        return records

    def _record(self, xml, picture):
        annotation = read_voc_xml(xml)
        width, height = annotation.size or picture_size(picture)
        boxes, labels, difficult = [], [], []
        for number, item in enumerate(annotation.objects, start=1):
            if item.name not in self.numbers:
                self.unknown[item.name] += 1
                continue
            box = clip_box(item.box_px, width, height)
            if box is None:
                self.problems.append(f"{xml.name}, object {number} ({item.name}): box "
                                     f"{item.box_px} has no area in the picture; left out")
                continue
            boxes.append(box)
            labels.append(self.numbers[item.name])
            difficult.append(item.difficult)
        return Record(picture, np.array(boxes, dtype=np.float32).reshape(-1, 4),
                      np.array(labels, dtype=np.int64), np.array(difficult, dtype=bool))


def print_counts(lists, class_names):
    """Print pictures and objects by class and split."""
    width = max(12, *map(len, class_names))
    print(f"{'':<{width}}" + "".join(f"{name + ': pictures':>17}{'objects':>9}" for name in lists))
    for label, name in enumerate(class_names):
        cells = ""
        for records in lists.values():
            with_class = [record.labels for record in records if (record.labels == label).any()]
            cells += f"{len(with_class):>17}{sum((labels == label).sum() for labels in with_class):>9}"
        print(f"{name:<{width}}{cells}")
    empty = sum(len(record.labels) == 0 for records in lists.values() for record in records)
    if empty:
        print(f"{empty} pictures have no object of these classes and serve as background.")


def print_unknown(unknown, class_names, classes_path):
    """Print the names in the XML files that the class list lacks."""
    for name, count in unknown.most_common():
        nearest = nearest_name(name, class_names)
        hint = f"; did you mean {nearest!r}?" if nearest else ""
        print(f"not in {classes_path}: {name!r}, {count} objects left out{hint}")


def print_problems(problems):
    """Print the first problems, and how many there are."""
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"problem: {problem}")
    if len(problems) > SHOWN_PROBLEMS:
        print(f"and {len(problems) - SHOWN_PROBLEMS} more problems")


if __name__ == "__main__":
    run(main, AnnotationSettings)
