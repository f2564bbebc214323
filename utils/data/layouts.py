"""How tools lay out a COCO, YOLO or CSV source, and which split they mean."""

import re
from pathlib import Path

from utils.cli import UserError, read_text, shorten
from utils.data.coco import read_coco
from utils.data.csv_table import read_csv
from utils.data.splits import RECORD, SPLITS
from utils.data.yolo import read_yolo, yaml_splits

# What tools call the folders of a data set that comes already split.
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
READERS = {"coco": (".json", read_coco), "csv": (".csv", read_csv)}


def read_parts(form: str, path: Path, images: Path | None = None) -> list[tuple]:
    """Read a source with its own split, where it has one.

    Args:
        form: "coco", "yolo" or "csv".
        path: file or folder. A folder may hold train, valid and test, as Roboflow exports them;
            images/train and labels/train, as Ultralytics has them; the splits of a data.yaml; or
            COCO's annotations/instances_train2017.json with train2017.
        images: folder of the images of a .json or .csv file; None is the folder of the file.

    Returns:
        list of (split or "", annotations, problems).
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; set annotation_path.")
    if form == "yolo" and not path.is_dir():
        raise UserError(f"{path}: annotation_path must name a folder for yolo.")
    places = yaml_splits(path, SPLIT_FOLDERS) if form == "yolo" else {}
    folders = {name: path / folder for name, choices in SPLIT_FOLDERS.items()
               for folder in choices if (path / folder).is_dir()}
    if form == "yolo" and (places or not folders):
        return _divide(read_yolo(path), path, places)
    if form == "yolo":
        return [(name, *read_yolo(place)) for name, place in folders.items()]
    if form == "coco" and (official := _official_coco(path)):
        return [(split, *read_coco(file, images or place)) for split, file, place in official]
    parts = []
    for name, place in (folders or {"": path}).items():
        ending, read = READERS[form]
        file = _only_file(place, ending)
        parts.append((name, *read(file, images or file.parent)))
    return parts


def _official_coco(path):
    """Return (split, file, folder of images) of COCO's own folder, [] where it is none.

    Other files there, of captions and key points, are passed over.
    """
    found = []
    for file in sorted((path / "annotations").glob("instances_*.json")):
        name = file.stem.removeprefix("instances_")
        split = next((split for split in SPLITS if name.startswith(split)), "")
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


def _divide(found, folder, places):
    """Return parts of what read_yolo found, by the places of each split, else by folder names."""
    items, problems = found
    listed = [(split, *_place_and_images(place, folder))
              for split, choices in places.items() for place in choices]
    parts = {name: [] for name in (*SPLITS, "")}
    for item in items:
        image = item.image.resolve()
        split = next((split for split, place, images in listed
                      if image in images or image.is_relative_to(place)), _split_of(item.key))
        parts[split].append(item)
    return [(name, items, [] if name else problems) for name, items in parts.items()]


def _split_of(key):
    """Return the split that a path such as images/valid/a or valid/images/a names, or ""."""
    found = re.match("(?:images/)?([^/]+)/", key.lower())
    return next((split for split, choices in SPLIT_FOLDERS.items()
                 if found and found[1] in choices), "")


def _place_and_images(place, folder):
    """Return a folder and (), or a text file and the images that it lists."""
    lines = [] if place.is_dir() else read_text(place, remedy="").splitlines()
    return place, {path.resolve() for line in map(str.strip, lines) if line
                   for path in (place.parent / line, folder / line)}
