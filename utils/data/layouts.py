"""How tools lay out a COCO, YOLO or CSV source, and which split they mean."""

import re
from functools import cache
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.coco import read_coco
from utils.data.csv_table import read_csv
from utils.data.sources import Problem, ProblemKind
from utils.data.splits import RECORD, SPLITS
from utils.data.yolo import read_yolo, yaml_splits

# What tools call the splits of a data set that comes already split; a year may follow.
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
READERS = {"coco": (".json", read_coco), "csv": (".csv", read_csv)}


def read_parts(form: str, path: Path, images: Path | None = None) -> list[tuple]:
    """Read a source with its own split, where it has one.

    Args:
        form: "coco", "yolo" or "csv".
        path: file or folder. A folder may hold train, valid and test, as Roboflow exports them;
            images/train and labels/train, as Ultralytics has them; the splits of a data.yaml; or
            COCO's annotations/instances_train2017.json with train2017. For names see split_of.
        images: folder of the images of a .json or .csv file; None is the folder of the file.

    Returns:
        list of (split or "", annotations, problems).
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; set annotation_path.")
    if form == "yolo" and not path.is_dir():
        raise UserError(f"{path}: annotation_path must name a folder for yolo.")
    places, faults = yaml_splits(path, SPLIT_FOLDERS) if form == "yolo" else ({}, [])
    if form == "coco" and (official := _official_coco(path)):
        return [(split, *read_coco(file, images or place)) for split, file, place in official]
    folders = {} if places or not path.is_dir() else _one_each(
        (split_of(folder.name), folder) for folder in sorted(path.iterdir()) if folder.is_dir())
    if form == "yolo":
        if folders:
            return [(name, *read_yolo(place)) for name, place in folders.items()]
        items, problems = read_yolo(path)
        return _divide(items, problems + faults, path, places)
    ending, read = READERS[form]
    if not any(file.suffix.lower() == ending for place in folders.values()
               for file in place.iterdir()):
        folders = {"": path}  # folders of images alone
    files = {name: _only_file(place, ending) for name, place in folders.items()}
    return [(name, *read(file, images or file.parent)) for name, file in files.items()]


def split_of(name: str) -> str:
    """Return the split that a name such as train, Valid or val2017 means, or ""."""
    word = re.sub(r"\d+$", "", name.lower())
    return next((split for split, words in SPLIT_FOLDERS.items() if word in words), "")


def _one_each(named):
    """Return {split: path} of (split or "", path); UserError for two paths of one split."""
    found = {}
    for split, path in named:
        if found.setdefault(split, path) != path and split:
            raise UserError(f"{shorten(found[split])} and {shorten(path)}: both are called the "
                            f"{split} split; put them together, or move one elsewhere.")
    return {split: found[split] for split in SPLITS if split in found}


def _official_coco(path):
    """Return (split or "", file, folder of images) of COCO's own folder, [] where it is none.

    Files of captions and key points are passed over. One file may have any name, such as CVAT's
    instances_default.json; of several, a UserError names one whose name is no split.
    """
    named = [(split_of(file.stem[len("instances_"):]), file)
             for file in sorted((path / "annotations").glob("*"))
             if re.fullmatch(r"instances_.*\.json", file.name, re.IGNORECASE)]
    odd = [file for split, file in named if not split]
    if odd and len(named) > 1:
        raise UserError(f"{shorten(odd[0])}: not named as a split such as train2017; move it out, "
                        "or name one file in annotation_path, its images in images_path.")
    found = []
    for split, file in named if odd else _one_each(named).items():
        name = file.stem[len("instances_"):]
        places = [path / name, path / "images" / name, path / "images", path]
        found.append((split, file, next(place for place in places if place.is_dir())))
    return found


def _only_file(place, ending):
    """Return the one file with an ending in a folder; a file is returned as it is."""
    if not place.is_dir():
        return place
    files = [file for file in sorted(place.iterdir()) if file.suffix.lower() == ending
             and not file.name.endswith(RECORD)]
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:4])
        raise UserError(f"{shorten(place)}: {len(files)} files ending in {ending}, one is needed "
                        f"({names or 'none'}); name it in annotation_path.")
    return files[0]


def _divide(items, problems, folder, places):
    """Return parts of what read_yolo found, by the places of each split, else by folder names.

    Where there are places, images in none of them, whose folder is called no split, are not used.
    """
    real = cache(Path.resolve)  # of folders: files are many, and disks may be far away
    images = [real(item.image.parent) / item.image.name if places else item.image
              for item in items]
    known = set(images)
    listed = [(split, place, _listed_images(split, place, folder, known, real, problems))
              for split, choices in places.items() for place in choices]
    parts = {name: [] for name in (*SPLITS, "")}
    for item, image in zip(items, images):
        split = next((split for split, place, mine in listed
                      if image in mine or image.is_relative_to(place)),
                     split_of(re.match("(?:images/)?([^/]+)/|", item.key, re.I)[1] or ""))
        if split or not places:
            parts[split].append(item)
        else:
            problems.append(Problem(ProblemKind.IN_NO_SPLIT, shorten(item.image),
                                    "in no place that the YAML file names"))
    return [(name, items, [] if name else problems) for name, items in parts.items()]


def _listed_images(split, place, folder, images, real, problems):
    """Return those of the images that a text file lists, none for a folder.

    Paths of another machine, or with backslashes, count by their ends. Adds a Problem for each
    line that is no image, or one where none is; raises UserError where that would have the images
    of val trained on. `real` resolves folders.
    """
    if place.is_dir():
        return set()
    found, lost = set(), []
    lines = [line.strip() for line in read_text(place, remedy="").splitlines() if line.strip()]
    for line in lines:
        parts = Path(line.replace("\\", "/")).parts
        paths = (real(start.joinpath(*parts[k:-1])) / parts[-1] for k in range(len(parts))
                 for start in (place.parent, folder))
        image = next((path for path in paths if path in images), None)
        found.add(image) if image else lost.append(line)
    if lines and not found:
        text = (f"none of its {len(lines)} lines is an image with labels here, such as "
                f"{lines[0][:200]!r}")
        if split != "test":
            raise UserError(f"{shorten(place)}: {text}; mend or remove it.")
        problems.append(Problem(ProblemKind.SPLIT_NAMES_NOTHING, shorten(place), text))
        return found
    problems += [Problem(ProblemKind.SPLIT_NAMES_NOTHING, shorten(place),
                         f"{line[:200]!r} is no image with labels") for line in lost]
    return found
