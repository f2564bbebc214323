"""Two measurements of the same images: what changed, and whether it is more than chance."""

from collections.abc import Sequence

import numpy as np

from utils.cli import UserError, resolve, shorten, typed_path
from utils.data.annotations import Record
from utils.evaluation.assignment import (Assignment, FlatDetections, FlatObjects, assign_voc,
                                         flatten_records)
from utils.evaluation.detection_files import GROUND_TRUTH, read_detections, read_json
from utils.evaluation.voc_ap import class_results, mean_ap

RESAMPLES = 1000
# Name of a class or "mean", first AP, second AP, 95% interval of second - first: low, high.
Difference = tuple[str, float, float, float, float]


def compare_folders(folders: Sequence[str]) -> str:
    """Return what changed between two folders of get_map.py, as text, or UserError."""
    if len(folders) != 2:
        raise UserError(f"compare needs two folders of results, got {len(folders)}.")
    paths = [typed_path(folder) for folder in folders]
    truth, other = (read_json(path / GROUND_TRUTH) for path in paths)
    if truth != other:
        raise UserError("the folders were measured on different test lists; run get_map.py on one.")
    class_names = [row["name"] for row in truth["categories"]]
    labels = {row["id"]: k for k, row in enumerate(truth["categories"])}
    objects = {row["id"]: [] for row in truth["images"]}
    for row in truth["annotations"]:
        x, y, width, height = row["bbox"]
        objects[row["image_id"]].append(
            (x, y, x + width, y + height, labels[row["category_id"]], row["iscrowd"]))
    tables = [np.array(rows, np.float64).reshape(-1, 6) for rows in objects.values()]
    records = [Record(resolve(row["file_name"]), table[:, :4], table[:, 4].astype(np.int64),
                      table[:, 5] > 0) for row, table in zip(truth["images"], tables)]
    detections = [read_detections(path, records, class_names) for path in paths]
    differences = compare(*detections, flatten_records(records), class_names, len(records))
    names = " to ".join(map(shorten, paths))
    return f"from {names}: AP at IoU 0.5 (area)\n{format_differences(differences)}"


def compare(first: FlatDetections, second: FlatDetections, objects: FlatObjects,
            class_names: Sequence[str], num_images: int) -> list[Difference]:
    """Return the Difference of each class with objects by VOC's rule (area), and the mean's last.

    The intervals are of a paired bootstrap: RESAMPLES times images are drawn anew with replacement,
    the same ones for both.
    """
    share = np.full(num_images, 1 / num_images)
    weights = np.random.default_rng(0).multinomial(num_images, share, RESAMPLES)
    aps, draws = [], []
    for detections in (first, second):
        assignment = assign_voc(detections, objects)
        results = class_results(assignment, len(class_names))
        present = [label for label, result in enumerate(results) if result.num_objects]
        aps.append([*(results[label].ap_area for label in present), mean_ap(results)])
        draws.append(np.array([resampled_ap(assignment, label, weights) for label in present]))
    changes = draws[1] - draws[0]  # (classes, RESAMPLES), nan where a class was not drawn
    changes = np.vstack([changes, np.nanmean(changes, 0)])
    low, high = np.nanpercentile(changes, (2.5, 97.5), axis=1)
    names = [*(class_names[label] for label in present), "mean"]
    return list(zip(names, *aps, low.tolist(), high.tolist()))


def resampled_ap(assignment: Assignment, label: int, weights: np.ndarray) -> np.ndarray:
    """Return the (R,) AP (area) of a class where images occur in the set any number of times.

    `weights` are (R, N) integers; nan where no object is left.
    """
    detections, objects = assignment.detections, assignment.objects
    of_label = (detections.labels == label) & ~assignment.ignored
    rows = assignment.order[of_label[assignment.order]]
    right, images = assignment.matched[rows] >= 0, detections.image[rows]
    of_class = objects.image[assignment.counted & (objects.labels == label)]
    totals = weights @ np.bincount(of_class, minlength=weights.shape[1])
    areas = []
    for weight in weights:
        counts = weight[images]  # copies of each detection; that they follow it changes no area
        precision = np.cumsum(counts * right)[right] / np.maximum(np.cumsum(counts)[right], 1)
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        areas.append(counts[right] @ highest)
    return np.divide(areas, totals, out=np.full(len(weights), np.nan), where=totals > 0)


def format_differences(differences: Sequence[Difference]) -> str:
    """Return the differences as a table; better and worse are those beyond chance."""
    width = max(5, *(len(name) for name, *_ in differences))
    lines = [f"{'class':<{width}}  {'first':>7} {'second':>7} {'change':>8}  95% interval"]
    for name, first, second, low, high in differences:
        word = "better" if low > 0 else "worse" if high < 0 else ""
        lines.append(f"{name:<{width}}  {first:>7.4f} {second:>7.4f} {second - first:>+8.4f}  "
                     f"{low:+.4f} .. {high:+.4f}  {word}".rstrip())
    return "\n".join(lines)
