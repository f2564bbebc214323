"""Detections as files that other tools read: COCO's results JSON, VOC's comp4_det_test_*.txt.

Numbers are written in full, so that files that are read back give the same figures.
"""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from utils.cli import UserError, check_file, read_text, shorten, typed_path, writing
from utils.coco_ids import boxes_xywh, class_ids, coco_results, numbers_of
from utils.data.annotations import Record, plain_name
from utils.evaluation.assignment import FlatDetections, flatten_records
from utils.image import image_size

DETECTIONS, GROUND_TRUTH = "detections.json", "ground_truth.json"
# comp3 or comp4, an id of the participant perhaps, the split, the class.
VOC_FILE = re.compile(r"comp\d(?:_[^_]+)?_det_[^_]+_(.+)\.txt")
UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*%]')  # in file names, on one system or another


def image_names(records: Sequence[Record]) -> list[str]:
    """Return a name for each record: its file's, without suffix and folders where that is unique.

    Raises UserError for an image that is listed twice.
    """
    paths = [record.path for record in records]
    for names in ([path.stem for path in paths],
                  [shorten(path.with_suffix("")) for path in paths],
                  [shorten(path) for path in paths]):
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{Counter(names).most_common(1)[0][0]} is duplicated in the list of images; "
                    "remove one of the lines.")


def image_ids(records: Sequence[Record]) -> list[int]:
    """Return COCO ids: the file names where all are integers, as COCO's are, else 1, 2, .."""
    names = image_names(records)
    return numbers_of(names) or list(range(1, len(names) + 1))


def write_detections(folder: Path, detections: FlatDetections, records: Sequence[Record],
                     class_names: Sequence[str]) -> None:
    """Write detections and their ground truth into a folder, for the tools of COCO and VOC.

    pycocotools takes detections.json, a list of results, and ground_truth.json, the objects and
    what the ids mean, as they are. A comp4/comp4_det_test_<class>.txt has lines of image, score,
    and a box in VOC's pixels, which count from 1 and include the last one. Raises UserError where
    a file cannot be written.
    """
    ids, names = image_ids(records), image_names(records)
    results = coco_results([ids[k] for k in detections.image], detections.labels,
                           detections.boxes, detections.scores, class_names)
    _write_text(folder / DETECTIONS, "[" + ",\n".join(map(json.dumps, results)) + "]\n")
    _write_text(folder / GROUND_TRUTH, json.dumps(coco_ground_truth(records, class_names),
                                                  ensure_ascii=False))
    (folder / "comp4").mkdir(exist_ok=True)
    pixels = detections.boxes.astype(np.float64) + (1, 1, 0, 0)
    for label, class_name in enumerate(class_names):
        rows = np.flatnonzero(detections.labels == label)
        lines = [f"{names[image]} {score!r} {' '.join(map(repr, box))}\n" for image, score, box in
                 zip(detections.image[rows], detections.scores[rows].tolist(),
                     pixels[rows].tolist())]
        _write_text(folder / "comp4" / f"comp4_det_test_{_file_name(class_name)}.txt",
                    "".join(lines))


def _write_text(path, text):
    with writing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def coco_ground_truth(records: Sequence[Record], class_names: Sequence[str]) -> dict[str, Any]:
    """Return records as the values of a COCO annotation file; difficult objects become crowds."""
    ids, classes, objects = image_ids(records), class_ids(class_names), flatten_records(records)
    rows = zip(objects.image, objects.labels, boxes_xywh(objects.boxes).tolist(),
               objects.area.tolist(), objects.difficult)
    images = []
    for image_id, record in zip(ids, records):
        images.append({"id": image_id, "file_name": shorten(record.path)})
        with contextlib.suppress(UserError):  # scoring needs no images
            images[-1]["width"], images[-1]["height"] = image_size(record.path)
    return {"info": {"description": "objects and ids of detections.json"}, "images": images,
            "categories": [{"id": k, "name": name} for k, name in zip(classes, class_names)],
            "annotations": [{"id": k, "image_id": ids[image], "category_id": classes[label],
                             "bbox": box, "area": area, "iscrowd": int(crowd)}
                            for k, (image, label, box, area, crowd) in enumerate(rows, start=1)]}


def _file_name(class_name):
    """Return a class name as part of a file name."""
    return UNSAFE.sub(lambda match: quote(match[0], safe=""), class_name)


class _Row(NamedTuple):
    """A detection as a file has it."""

    where: str  # file and row, for messages
    image: int | str  # id or name
    category: int | str  # id or name
    numbers: tuple[float, ...]  # score, xyxy edges, area


def read_detections(path: str | Path, records: Sequence[Record], class_names: Sequence[str],
                    *, ids_path: str | Path = "") -> FlatDetections:
    """Read detections of the records' images from COCO's JSON, or a folder of it or comp4 files.

    Ids in JSON are those of a COCO annotation file `ids_path`, of ground_truth.json beside it, or
    of `image_ids` and `class_ids`; names do as well. Raises UserError naming the row that
    cannot be right.
    """
    path = typed_path(path)
    if (path / DETECTIONS).is_file():
        path = path / DETECTIONS
    images, classes = _image_table(records), {name: k for k, name in enumerate(class_names)}
    if path.is_dir():
        rows = _read_comp4(path, classes)
    else:
        rows = _read_results(check_file(path))
        beside = path.with_name(GROUND_TRUTH)
        if ids_path or beside.is_file():
            image_table, class_table = _read_ids(typed_path(ids_path or beside), images, classes)
        else:
            image_table = {number: k for k, number in enumerate(image_ids(records))}
            class_table = {number: k for k, number in enumerate(class_ids(class_names))}
        images, classes = images | image_table, classes | class_table
    numbers = np.array([row.numbers for row in rows], np.float64).reshape(-1, 6)
    detections = FlatDetections(
        _look_up([row.image for row in rows], images, rows, "images"),
        _look_up([row.category for row in rows], classes, rows, "classes"),
        numbers[:, 0], numbers[:, 1:5], numbers[:, 5])
    bad = ~np.isfinite(numbers).all(1) | (numbers[:, 3:5] < numbers[:, 1:3]).any(1)
    if bad.any():
        row = rows[int(bad.argmax())]
        raise UserError(f"{row.where}: score and box (two corners) must be finite, width and "
                        f"height not negative, got {row.numbers[:5]}; {bad.sum()} of {len(rows)} "
                        "rows are so.")
    return detections


def _read_results(path):
    """Return the _Rows of a COCO results file."""
    try:
        values = json.loads(read_text(path, remedy="detections must name a results file."))
    except ValueError as error:
        raise UserError(f"{shorten(path)}: not JSON, or cut short ({error!s:.80}).") from None
    if not isinstance(values, list):
        raise UserError(f"{shorten(path)}: not a list of results (image_id, category_id, bbox, "
                        "score); is it an annotation file?")
    rows = []
    for number, value in enumerate(values, start=1):
        where = f"{shorten(path)}, row {number}"
        try:
            x, y, width, height = map(float, value["bbox"])
            numbers = float(value["score"]), x, y, x + width, y + height, width * height
            rows.append(_Row(where, value["image_id"], value["category_id"], numbers))
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{where}: {json.dumps(value):.80} is no result; it needs image_id, "
                            "category_id, score and bbox, [x, y, width, height].") from None
    return rows


def _read_comp4(folder, classes):
    """Return the _Rows of the comp4 files in a folder; files of other classes are left out."""
    known = {_file_name(name): name for name in classes}
    files = [(path, known[match[1]]) for path in sorted(folder.iterdir())
             if (match := VOC_FILE.fullmatch(path.name)) and match[1] in known]
    if not files:
        raise UserError(f"{shorten(folder)}: no {DETECTIONS}, and no comp4_det_test_<class>.txt of "
                        f"the classes {', '.join(classes):.80}.")
    rows = []
    for path, name in files:
        lines = read_text(path, remedy="").splitlines()
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{shorten(path)}, line {number}"
            try:
                image, *words = line.strip().rsplit(None, 5)
                score, x1, y1, x2, y2 = map(float, words)
            except ValueError:
                raise UserError(f"{where}: {line.strip()!r:.60} is not an image, a score, and a "
                                "box of xmin ymin xmax ymax.") from None
            x1, y1 = x1 - 1, y1 - 1
            numbers = score, x1, y1, x2, y2, (x2 - x1) * (y2 - y1)
            rows.append(_Row(where, image, name, numbers))
    return rows


def _image_table(records):
    """Return {each name by which an image may be called: its index}, None where two share one."""
    table = {}
    for index, (name, record) in enumerate(zip(image_names(records), records)):
        path = record.path
        for key in dict.fromkeys((name, path.stem, path.name, shorten(path), str(path))):
            table[key] = index if key not in table else None
    return table


def _read_ids(path, images, classes):
    """Return ({image id: index}, {class id: index}) of a COCO annotation file by its names."""
    try:
        values = json.loads(read_text(path, remedy="detections_ids must name a COCO file."))
        files = {row["id"]: row["file_name"] for row in values["images"]}
        names = {row["id"]: plain_name(row["name"]) for row in values["categories"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{shorten(path)}: not a COCO annotation file ({type(error).__name__}: "
                        f"{error!s:.60}).") from None
    image_table = {number: images.get(name, images.get(Path(name).name))
                   for number, name in files.items()}
    indices = [index for index in image_table.values() if index is not None]
    if len(set(indices)) < len(indices):
        raise UserError(f"{shorten(path)}: two images have the name of one image of the list.")
    return image_table, {number: classes.get(name) for number, name in names.items()}


def _look_up(keys, table, rows, kind):
    """Return the (D,) indices of ids or names; UserError for the first one not known."""
    indices = [table.get(key) for key in keys]
    if None in indices:
        first = indices.index(None)
        known = [key for key in table if isinstance(key, type(keys[first]))]
        raise UserError(
            f"{rows[first].where}: {keys[first]!r:.60} is none of the {kind} of the list "
            f"({', '.join(map(repr, known[:3]))}, ...); {indices.count(None)} of {len(rows)} rows "
            "are so.\nSet test_list to the list that was detected on, or detections_ids to the "
            "COCO annotation file whose ids these are.")
    return np.array(indices, np.int64)
