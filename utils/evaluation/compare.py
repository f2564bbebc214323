"""Two measurements of the same images: what changed, and whether it is more than chance."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.cli import UserError, read_text, resolve, shorten, typed_path
from utils.data.annotations import Record
from utils.evaluation.assignment import (Assignment, FlatDetections, FlatObjects, assign_voc,
                                         flatten_records)
from utils.evaluation.detection_files import GROUND_TRUTH, read_detections
from utils.evaluation.voc_ap import class_results, mean_ap

RESAMPLES = 1000
AT_ONCE = 4_000_000  # weights of detections, to bound the memory


class Difference(NamedTuple):
    """AP of a class, or its mean, in two measurements; nan without objects."""

    name: str
    first: float
    second: float
    low: float  # 95% interval of second - first
    high: float


def compare_folders(folders: Sequence[str]) -> str:
    """Compare what get_map.py left in two folders; return the differences as text.

    Raises UserError unless there are two folders with detections of the same ground truth.
    """
    if len(folders) != 2:
        raise UserError(f"compare needs two folders of results, got {len(folders)}.")
    paths = [typed_path(folder) for folder in folders]
    truths = [_read_ground_truth(path / GROUND_TRUTH) for path in paths]
    if truths[0] != truths[1]:
        raise UserError(f"{shorten(paths[0])} and {shorten(paths[1])} were measured on different "
                        "test lists; run get_map.py on the same one for both.")
    class_names, objects = truths[0]
    records = []
    for name, rows in objects.items():
        table = np.array(rows, np.float64).reshape(-1, 6)
        records.append(Record(resolve(name), table[:, :4].astype(np.float32),
                              table[:, 4].astype(np.int64), table[:, 5] > 0))
    first, second = (read_detections(path, records, class_names) for path in paths)
    differences = compare(first, second, flatten_records(records), class_names, len(records))
    return (f"from {shorten(paths[0])} to {shorten(paths[1])}: AP at IoU 0.5 (area)\n"
            + format_differences(differences))


def _read_ground_truth(path):
    """Return (class names, {image file: rows of x1, y1, x2, y2, label, difficult})."""
    try:
        values = json.loads(read_text(path, remedy="Run get_map.py, which writes it."))
        names = {image["id"]: image["file_name"] for image in values["images"]}
        labels = {row["id"]: k for k, row in enumerate(values["categories"])}
        objects = {name: [] for name in names.values()}
        for row in values["annotations"]:
            x, y, width, height = row["bbox"]
            objects[names[row["image_id"]]].append(
                (x, y, x + width, y + height, labels[row["category_id"]], row["iscrowd"]))
        return [row["name"] for row in values["categories"]], objects
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{shorten(path)}: not what get_map.py writes ({error!s:.60}); run it "
                        "again.") from None


def compare(first: FlatDetections, second: FlatDetections, objects: FlatObjects,
            class_names: Sequence[str], num_images: int) -> list[Difference]:
    """Compare two sets of detections on the same N images by VOC's rule, area under the curve.

    The intervals are of a paired bootstrap: images are drawn anew, with replacement, RESAMPLES
    times, the same ones for both; the 2.5th and 97.5th percentile of the differences are kept.
    Images without objects are drawn too; a class that a draw has no objects of is left out of it.
    Returns the Difference of each class, the mean's last.
    """
    weights = np.random.default_rng(0).multinomial(
        num_images, np.full(num_images, 1 / num_images), RESAMPLES)
    aps, draws = [], []
    for detections in (first, second):
        assignment = assign_voc(detections, objects)
        results = class_results(assignment, len(class_names))
        aps.append([*(result.ap_area for result in results), mean_ap(results)])
        draws.append(np.stack([resampled_ap(assignment, label, weights)
                               for label in range(len(class_names))]))
    changes = draws[1] - draws[0]  # (K, RESAMPLES), nan where a class was not drawn
    counted = ~np.isnan(changes)
    means = np.where(counted, changes, 0).sum(0) / np.where(counted.any(0), counted.sum(0), np.nan)
    return [Difference(name, *both, *_interval(change)) for name, both, change in
            zip([*class_names, "mean"], zip(*aps), [*changes, means])]


def _interval(values):
    """Return the 2.5th and 97.5th percentile of the values that are not nan."""
    values = values[~np.isnan(values)]
    return np.percentile(values, (2.5, 97.5)).tolist() if len(values) else [np.nan, np.nan]


def resampled_ap(assignment: Assignment, label: int, weights: np.ndarray) -> np.ndarray:
    """Return the (R,) AP (area) of a class where images occur in the set any number of times.

    `weights` are (R, N) integers. As if images were copied: copies of a detection come one after
    the other, which leaves the area as it is. nan where no object is left.
    """
    detections, objects = assignment.detections, assignment.objects
    rows = assignment.order[detections.labels[assignment.order] == label]
    rows = rows[~assignment.ignored[rows]]
    right, images = assignment.matched[rows] >= 0, detections.image[rows]
    of_class = objects.image[assignment.counted & (objects.labels == label)]
    totals = weights @ np.bincount(of_class, minlength=weights.shape[1])
    areas = np.zeros(len(weights))
    step = max(1, AT_ONCE // max(len(rows), 1))
    for start in range(0, len(weights), step):
        counts = weights[start:start + step, images]  # (r, D)
        hits = np.cumsum(counts * right, 1)[:, right]
        precision = hits / np.maximum(np.cumsum(counts, 1)[:, right], 1)
        highest = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        areas[start:start + step] = (counts[:, right] * highest).sum(1)
    return np.divide(areas, totals, out=np.full(len(weights), np.nan), where=totals > 0)


def format_differences(differences: Sequence[Difference]) -> str:
    """Return the differences as a table; better and worse are those beyond chance."""
    width = max(5, *(len(row.name) for row in differences))
    lines = [f"{'class':<{width}}  {'first':>7} {'second':>7} {'change':>8}  95% interval"]
    for name, first, second, low, high in differences:
        if np.isnan(first):
            lines.append(f"{name:<{width}}  {'-':>7} {'-':>7} {'-':>8}  no objects")
            continue
        word = "  better" if low > 0 else "  worse" if high < 0 else ""
        lines.append(f"{name:<{width}}  {first:>7.4f} {second:>7.4f} {second - first:>+8.4f}  "
                     f"{low:+.4f} .. {high:+.4f}{word}")
    return "\n".join(lines)
