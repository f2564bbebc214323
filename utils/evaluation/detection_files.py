"""Detections as files that other tools read: COCO's results JSON, VOC's comp4_det_test_*.txt."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli import UserError, read_text, shorten, typed_path, writing
from utils.coco_ids import boxes_xywh, class_ids, coco_results, numbers_of
from utils.data.annotations import Record
from utils.evaluation.assignment import FlatDetections, flatten_records

DETECTIONS, GROUND_TRUTH = "detections.json", "ground_truth.json"


def image_names(records: Sequence[Record]) -> list[str]:
    """Return the names of files without suffix where these are unique, else their paths."""
    stems = [record.path.stem for record in records]
    is_unique = len(set(stems)) == len(stems)
    return stems if is_unique else [shorten(record.path) for record in records]


def image_ids(records: Sequence[Record]) -> list[int]:
    """Return COCO ids: the file names where all are integers, as COCO's are, else 1, 2, .."""
    names = image_names(records)
    return numbers_of(names) or list(range(1, len(names) + 1))


def write_detections(folder: Path, detections: FlatDetections, records: Sequence[Record],
                     class_names: Sequence[str]) -> None:
    """Write detections and their ground truth into a folder, for the tools of COCO and VOC.

    Numbers are written in full, so that they read back unchanged. comp4/comp4_det_test_<class>.txt
    have lines of image, score, and a box in VOC's pixels, from 1, the last one included.
    """
    ids, names = image_ids(records), image_names(records)
    results = coco_results([ids[k] for k in detections.image], detections.labels,
                           detections.boxes, detections.scores, class_names)
    files = {DETECTIONS: "[" + ",\n".join(map(json.dumps, results)) + "]\n",
             GROUND_TRUTH: json.dumps(coco_ground_truth(records, class_names), ensure_ascii=False)}
    columns = np.column_stack([detections.scores, detections.boxes.astype(float) + (1, 1, 0, 0)])
    for label, class_name in enumerate(class_names):
        rows = np.flatnonzero(detections.labels == label)
        lines = [f"{names[image]} {' '.join(map(repr, row))}\n"
                 for image, row in zip(detections.image[rows], columns[rows].tolist())]
        files[f"comp4/comp4_det_test_{class_name.replace('/', '%2F')}.txt"] = "".join(lines)
    (folder / "comp4").mkdir(exist_ok=True)
    for name, text in files.items():
        with writing(folder / name) as part:
            part.write_text(text, encoding="utf-8", newline="\n")


def coco_ground_truth(records: Sequence[Record], class_names: Sequence[str]) -> dict[str, Any]:
    """Return records as the values of a COCO annotation file; difficult objects become crowds."""
    ids, classes, objects = image_ids(records), class_ids(class_names), flatten_records(records)
    rows = zip(objects.image, objects.labels, boxes_xywh(objects.boxes).tolist(),
               objects.coco_area.tolist(), objects.difficult)
    return {"info": {"description": "objects and ids of detections.json"},
            "images": [{"id": k, "file_name": shorten(one.path)} for k, one in zip(ids, records)],
            "categories": [{"id": k, "name": name} for k, name in zip(classes, class_names)],
            "annotations": [{"id": k, "image_id": ids[image], "category_id": classes[label],
                             "bbox": box, "area": area, "iscrowd": int(crowd)}
                            for k, (image, label, box, area, crowd) in enumerate(rows, start=1)]}


def read_detections(path: str | Path, records: Sequence[Record], class_names: Sequence[str],
                    *, ids_path: str | Path = "") -> FlatDetections:
    """Read detections of the records' images from COCO's JSON, or the folder of a detections.json.

    Images are told by file_name or image_id: a name, or an id of the COCO file `ids_path` or
    ground_truth.json beside it; without these, an integer name or else a line of the list.
    """
    path = typed_path(path)
    path = path / DETECTIONS if path.is_dir() else path
    rows, beside = _read_results(path), path.with_name(GROUND_TRUTH)
    images, classes = _image_table(records), {name: k for k, name in enumerate(class_names)}
    if ids_path or beside.is_file():
        image_table, class_table = _read_ids(typed_path(ids_path or beside), images, classes)
    else:
        image_table, class_table = _ids_without_file(rows, records, class_names, path)
    images, classes = images | image_table, classes | class_table
    numbers = np.array([row[2:] for row in rows], np.float64).reshape(-1, 6)
    return FlatDetections(_look_up([row[0] for row in rows], images, path, "images"),
                          _look_up([row[1] for row in rows], classes, path, "classes"),
                          numbers[:, 0], numbers[:, 1:5], numbers[:, 5])


def read_json(path: Path) -> Any:
    """Return the values of a JSON file, or UserError."""
    try:
        return json.loads(read_text(path, remedy="Run get_map.py, which writes such files."))
    except ValueError as error:
        raise UserError(f"{shorten(path)}: not JSON, or cut short ({error!s:.80}).") from None


def _read_results(path):
    """Return (image, class, score, x1, y1, x2, y2, area) rows of a COCO results file."""
    rows, values = [], read_json(path)
    if not isinstance(values, list):
        raise UserError(f"{shorten(path)}: not a list of results; is it an annotation file?")
    for number, value in enumerate(values, start=1):
        try:
            score, (x, y, width, height) = float(value["score"]), map(float, value["bbox"])
            image, label = value.get("file_name") or value["image_id"], value["category_id"]
            if not math.isfinite(score + x + y + width + height) or min(width, height) < 0:
                raise ValueError
            rows.append((image, label, score, x, y, x + width, y + height, width * height))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(f"{shorten(path)}, row {number}: needs image_id, category_id, score, "
                            f"bbox of 4 finite numbers, got {value!r:.80}.") from None
    return rows


def _image_table(records):
    """Return {each name by which an image may be called: its index}, None where two share one."""
    table = {}
    for index, record in enumerate(records):
        for key in {record.path.stem, record.path.name, shorten(record.path)}:
            table[key] = None if key in table else index
    return table


def _ids_without_file(rows, records, class_names, path):
    """Return ({image id: index}, {class id: index}): integer names, or lines if there are none."""
    images, classes = {}, class_ids(class_names)
    for index, record in enumerate(records):
        for number in numbers_of([record.path.stem]) or ():
            images[number] = None if number in images else index
    if rows and 0 < len(images) < len(records) and not any(isinstance(row[0], str) for row in rows):
        raise UserError(f"{shorten(path)}: its image ids may be names, such as {min(images)}, or "
                        "lines of the list; set detections_ids to the COCO file of these ids.")
    if any(row[1] == 0 for row in rows):  # as YOLOv5 counts
        classes = range(len(class_names))
    return (images or {k + 1: k for k in range(len(records))},
            {number: k for k, number in enumerate(classes)})


def _read_ids(path, images, classes):
    """Return ({image id: index}, {class id: index}) of a COCO annotation file by its names."""
    values = read_json(path)
    try:
        return ({row["id"]: images.get(row["file_name"], images.get(Path(row["file_name"]).name))
                 for row in values["images"]},
                {row["id"]: classes.get(row["name"]) for row in values["categories"]})
    except (KeyError, TypeError) as error:
        raise UserError(f"{shorten(path)}: not a COCO annotation file ({error!r:.60}).") from None


def _look_up(keys, table, path, kind):
    """Return the (D,) indices of ids or names; UserError for the first one not known."""
    indices = [table.get(key) for key in keys]
    if None in indices:
        raise UserError(
            f"{shorten(path)}: {keys[indices.index(None)]!r:.60} is not one of the {kind}, such as "
            f"{[*table][:2] + [*table][-2:]}; set test_list, or detections_ids to their COCO file.")
    return np.array(indices, np.int64)
