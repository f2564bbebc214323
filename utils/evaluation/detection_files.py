"""Detections as files that other tools read: COCO's results JSON, VOC's comp4_det_test_*.txt.

Numbers are written in full, so that what is read back has the same figures to the last digit.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from utils.cli import UserError, check_file, read_text, shorten, typed_path
from utils.coco_ids import class_ids, numbers_of
from utils.data.annotations import Record, plain_name
from utils.evaluation.assignment import Found, flatten_records
from utils.image import image_size

DETECTIONS, GROUND_TRUTH = "detections.json", "ground_truth.json"
# comp3 or comp4, perhaps somebody's id, the split, the class.
VOC_FILE = re.compile(r"comp\d(?:_[^_]+)?_det_[^_]+_(.+)\.txt")
UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*%]')  # in file names, on one system or another


def image_names(records: Sequence[Record]) -> list[str]:
    """Return a name for each record: its file's, without suffix and folders where that is unique.

    Raises UserError for an image that stands twice in the list.
    """
    paths = [record.path for record in records]
    for names in ([path.stem for path in paths],
                  [shorten(path.with_suffix("")) for path in paths],
                  [shorten(path) for path in paths]):
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{Counter(names).most_common(1)[0][0]} stands twice in the list of images; "
                    "remove one of the lines.")


def image_ids(records: Sequence[Record]) -> list[int]:
    """Return COCO ids: the file names where all are numbers, as COCO's are, else 1, 2, .."""
    names = image_names(records)
    return numbers_of(names) or list(range(1, len(names) + 1))


def image_sizes(records: Sequence[Record]) -> list[tuple[int, int] | None]:
    """Return (width, height) of each image, None where it is not here or cannot be read."""
    sizes = []
    for record in records:
        try:
            sizes.append(image_size(record.path))
        except UserError:
            sizes.append(None)
    return sizes


def detection_writers(found: Found, records: Sequence[Record], class_names: Sequence[str],
                      sizes: Sequence[tuple[int, int] | None]
                      ) -> dict[str, Callable[[Path], object]]:
    """Return {name of a file: what writes it} for a set of detections and its ground truth.

    pycocotools takes detections.json, a list of results, and ground_truth.json, the objects and
    what the ids stand for, as they are. A comp4_det_test_<class>.txt has lines of image, score, and
    a box in VOC's pixels, which count from 1 and include the last one.
    """
    names = image_names(records)
    boxes = found.boxes.astype(np.float64) + (1, 1, 0, 0)

    def voc_lines(label):
        mine = found.labels == label
        for image, score, box in zip(*(part[mine].tolist()
                                       for part in (found.image, found.scores, boxes))):
            yield f"{names[image]} {score!r} {' '.join(map(repr, box))}\n"

    def coco_lines():
        for number, row in enumerate(coco_results(found, records, class_names)):
            yield (",\n" if number else "[") + json.dumps(row)
        yield "]\n" if len(boxes) else "[]\n"

    files = {DETECTIONS: coco_lines, GROUND_TRUTH: lambda: [
        json.dumps(coco_ground_truth(records, class_names, sizes), ensure_ascii=False)]}
    files |= {f"comp4/comp4_det_test_{_file_name(name)}.txt": partial(voc_lines, label)
              for label, name in enumerate(class_names)}
    return {name: partial(_write_lines, lines) for name, lines in files.items()}


def _write_lines(lines, path):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines())


def coco_results(found: Found, records: Sequence[Record], class_names: Sequence[str]
                 ) -> Iterator[dict]:
    """Yield detections as COCO's results."""
    images, classes = image_ids(records), class_ids(class_names)
    for image, label, box, score in zip(found.image.tolist(), found.labels.tolist(),
                                        _xywh(found.boxes), found.scores.tolist()):
        yield {"image_id": images[image], "category_id": classes[label], "bbox": box,
               "score": score}


def coco_ground_truth(records: Sequence[Record], class_names: Sequence[str],
                      sizes: Sequence[tuple[int, int] | None]) -> dict:
    """Return records as the values of a COCO annotation file; difficult objects become crowds.

    `sizes` are those of `image_sizes`.
    """
    images, classes, it = image_ids(records), class_ids(class_names), flatten_records(records)
    rows = zip(it.image.tolist(), it.labels.tolist(), _xywh(it.boxes), it.area.tolist(),
               it.difficult.tolist())
    return {"info": {"description": "objects and ids of detections.json"},
            "images": [{"id": number, "file_name": shorten(record.path),
                        **dict(zip(("width", "height"), size or ()))}
                       for number, record, size in zip(images, records, sizes)],
            "categories": [{"id": number, "name": name}
                           for number, name in zip(classes, class_names)],
            "annotations": [{"id": k, "image_id": images[image], "category_id": classes[label],
                             "bbox": box, "area": area, "iscrowd": int(crowd)}
                            for k, (image, label, box, area, crowd) in enumerate(rows, start=1)]}


def _xywh(boxes):
    """Return xyxy boxes as lists of [x, y, width, height], without loss."""
    boxes = boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()


def _file_name(name):
    """Return a class name as part of a file name."""
    return UNSAFE.sub(lambda found: quote(found[0], safe=""), name)


class _Row(NamedTuple):
    """What a row of a file says."""

    place: str  # file and row, for messages
    images: int | str  # id or name
    classes: int | str  # id or name
    numbers: tuple  # score, xyxy edges, area


def read_detections(path: str | Path, records: Sequence[Record], class_names: Sequence[str],
                    sizes: Sequence[tuple[int, int] | None], *, ids_path: str | Path = "") -> Found:
    """Read detections of the records' images from COCO's JSON, or a folder of it or comp4 files.

    `sizes` are those of `image_sizes`.
    Ids in JSON are those of a COCO annotation file `ids_path`, of ground_truth.json beside it, or
    of `image_ids` and `class_ids`; names do as well. UserError naming the row for what cannot be
    right; what only looks odd is a printed note.
    """
    path = typed_path(path)
    if (path / DETECTIONS).is_file():
        path = path / DETECTIONS
    images, classes = _names_of(records), {name: k for k, name in enumerate(class_names)}
    if path.is_dir():
        rows = _read_voc(path, classes)
    else:
        rows = _read_coco(check_file(path))
        beside = path.with_name(GROUND_TRUTH)
        ids_path = typed_path(ids_path) if ids_path else beside if beside.is_file() else None
        if ids_path:
            _add_ids(check_file(ids_path), images, classes)
        else:
            images |= {number: k for k, number in enumerate(image_ids(records))}
            classes |= {number: k for k, number in enumerate(class_ids(class_names))}
    numbers = np.array([row.numbers for row in rows], np.float64).reshape(-1, 6)
    found = Found(_looked_up(rows, "images", images), _looked_up(rows, "classes", classes),
                  numbers[:, 0], numbers[:, 1:5], numbers[:, 5])
    _check_numbers(rows, found)
    _note_oddities(rows, found, sizes)
    return found


def _read_coco(path):
    """Return the _Rows of a COCO results file."""
    try:
        values = json.loads(read_text(path, remedy="detections must name a results file."))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shorten(path)}: not JSON, or cut short ({error!s:.80}); write it "
                        "again.") from None
    if not isinstance(values, list):
        raise UserError(f"{shorten(path)}: not a list of results (image_id, category_id, bbox, "
                        "score); is it an annotation file?")
    rows = []
    for number, value in enumerate(values, start=1):
        place = f"{shorten(path)}, row {number}"
        try:
            x, y, width, height = map(float, value["bbox"])
            numbers = float(value["score"]), x, y, x + width, y + height, width * height
            rows.append(_Row(place, value["image_id"], value["category_id"], numbers))
            hash(rows[-1])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(f"{place}: {json.dumps(value):.80} is no result; it needs image_id, "
                            "category_id, score and bbox, [x, y, width, height].") from None
    return rows


def _read_voc(folder, classes):
    """Return the _Rows of the comp4 files in a folder; files of other classes are left out."""
    files = {path: match[1] for path in sorted(folder.iterdir())
             if (match := VOC_FILE.fullmatch(path.name))}
    known = {_file_name(name): name for name in classes}
    others = [path.name for path, name in files.items() if name not in known]
    if len(others) == len(files):
        raise UserError(f"{shorten(folder)}: no {DETECTIONS}, and no comp4_det_test_<class>.txt of "
                        f"the classes {', '.join(classes):.80}, but {others[:2]}.")
    if others:
        print(f"note: {len(others)} files of other classes are left out, such as {others[0]}")
    rows = []
    for path, name in files.items():
        lines = read_text(path, remedy="").rstrip().splitlines() if name in known else []
        for number, line in enumerate(lines, start=1):
            place = f"{shorten(path)}, line {number}"
            try:
                image, *words = line.strip().rsplit(None, 5)
                score, x0, y0, x1, y1 = map(float, words)
            except ValueError:
                raise UserError(f"{place}: {line.strip()!r:.80} is not an image, a score, and a "
                                "box of xmin ymin xmax ymax.") from None
            x0, y0 = x0 - 1, y0 - 1
            numbers = score, x0, y0, x1, y1, (x1 - x0) * (y1 - y0)
            rows.append(_Row(place, image, known[name], numbers))
    return rows


def _names_of(records):
    """Return {each name by which an image may be called: its number}, unless two are called so."""
    table = {}
    for number, (name, record) in enumerate(zip(image_names(records), records)):
        path = record.path
        for key in dict.fromkeys((name, path.stem, path.name, shorten(path), str(path))):
            table[key] = number if key not in table else None
    return table


def _add_ids(path, images, classes):
    """Add the ids of a COCO annotation file to tables of names, None for images of no record."""
    try:
        values = json.loads(read_text(path, remedy="detections_ids must name a COCO file."))
        for part, name, table in (("images", "file_name", images), ("categories", "name", classes)):
            ids, known = {}, set()
            for row in values[part]:
                key = row[name] if row[name] in table else plain_name(row[name])
                number = table.get(key, table.get(Path(key).name))
                if row["id"] in ids or number in known:
                    raise UserError(f"{shorten(path)}: id {row['id']!r} or {key} stands twice.")
                known |= {number} - {None}
                ids[row["id"]] = number
            table.update(ids)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{shorten(path)}: not a COCO annotation file ({type(error).__name__}: "
                        f"{error!s:.60}).") from None


def _looked_up(rows, field, table):
    """Return the (D,) numbers of images or classes; UserError for the first one not known."""
    numbers = [table.get(getattr(row, field)) for row in rows]
    if None in numbers:
        first = rows[numbers.index(None)]
        value = getattr(first, field)
        ids = {number: repr(key) for key, number in reversed(table.items())
               if isinstance(key, str) == isinstance(value, str) and number is not None}
        raise UserError(
            f"{first.place}: {value!r:.60} is none of the {field} of the list "
            f"({', '.join(ids[number] for number in sorted(ids)[:3])}, ...); {numbers.count(None)} "
            f"of {len(rows)} rows are so.\nSet test_list to the list that was detected on, or "
            "detections_ids to the COCO annotation file whose ids these are.")
    return np.array(numbers, np.int64)


def _check_numbers(rows, found):
    """Raise UserError for the first score or box that cannot be."""
    low, high = found.boxes[:, :2], found.boxes[:, 2:]
    for text, wrong in (("score is not finite", ~np.isfinite(found.scores)),
                        ("box is not finite", ~np.isfinite(found.boxes).all(1)),
                        ("box has a negative width or height", (high < low).any(1))):
        if wrong.any():
            row = rows[int(wrong.argmax())]
            raise UserError(f"{row.place}: the {text} (score, box from and to x and y: "
                            f"{row.numbers[:5]}); {wrong.sum()} of {len(rows)} rows are so.")


def _note_oddities(rows, found, sizes):
    """Print notes on boxes that lie outside of their images and on rows that stand twice."""
    if len(rows) and found.boxes.max() <= 2:
        print("note: no box reaches beyond 2; boxes must be in pixels, not fractions of the image")
    sizes = np.reshape([size or (np.inf, np.inf) for size in sizes], (-1, 2))[found.image]
    low, high = found.boxes[:, :2], found.boxes[:, 2:]
    outside = ((low >= sizes) | (high > 1.1 * sizes) | (high <= 0)).any(1)
    if outside.any():
        print(f"note: {outside.sum()} of {len(rows)} boxes lie outside of their images or reach far"
              f" out, first {rows[int(outside.argmax())].place}; JSON has [x, y, width, height]")
    whole = {(image, label, row.numbers) for image, label, row in zip(
        found.image.tolist(), found.labels.tolist(), rows)}
    if len(whole) < len(rows):
        print(f"note: {len(rows) - len(whole)} of {len(rows)} rows stand twice: false positives")
