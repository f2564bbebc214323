"""Two measurements of the same images: what changed, and whether it is more than chance."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.cli import UserError, read_text, resolve, shorten, typed_path
from utils.data.annotations import Record
from utils.evaluation.assignment import Assignment, Found, Objects, assign_voc, flatten_records
from utils.evaluation.detection_files import (GROUND_TRUTH, image_names, image_sizes,
                                              read_detections)
from utils.evaluation.voc_ap import best_f1, class_results, mean_ap, pooled_result

RESAMPLES = 1000
AT_ONCE = 4_000_000  # weights of detections; bounds the memory
SHOWN = 20  # images that got better, and worse


class Difference(NamedTuple):
    """AP of a class, or its mean, in two measurements; nan without objects."""

    name: str
    first: float
    second: float
    low: float  # 95% interval of second - first
    high: float


class Comparison(NamedTuple):
    """What a second measurement does better or worse than a first one."""

    differences: list[Difference]  # by class, the mean last
    confidences: tuple[float, float]  # with the best F1, at which errors are counted
    errors: np.ndarray  # (2, N) false positives and objects not found of each image


def compare_folders(folders: Sequence[str]) -> str:
    """Compare what get_map.py left in two folders; return the differences as text.

    Raises UserError unless there are two folders with detections of the same ground truth.
    """
    if len(folders) != 2:
        raise UserError(f"compare needs two folders of results, got {len(folders)}.")
    paths = [typed_path(folder) for folder in folders]
    (records, names), (others, other_names) = map(_read_truth, paths)
    if names != other_names or len(records) != len(others) or not all(
            a.path == b.path and all(map(np.array_equal, a[1:], b[1:]))
            for a, b in zip(records, others)):
        raise UserError(f"{shorten(paths[0])} and {shorten(paths[1])} were measured on different "
                        "test lists; run get_map.py on the same one for both.")
    sizes = image_sizes(records)
    found = [read_detections(path, records, names, sizes) for path in paths]
    comparison = compare(*found, flatten_records(records), names, len(records))
    return (f"from {shorten(paths[0])} to {shorten(paths[1])}: AP at IoU 0.5 (area)\n"
            + format_comparison(comparison, image_names(records)))


def _read_truth(folder):
    """Return (records, class names) of the ground_truth.json in a folder of results."""
    path = folder / GROUND_TRUTH
    try:
        values = json.loads(read_text(path, remedy="Run get_map.py, which writes it."))
        images = {image["id"]: image["file_name"] for image in values["images"]}
        classes = {row["id"]: k for k, row in enumerate(values["categories"])}
        rows = {number: [] for number in images}
        for row in values["annotations"]:
            x, y, width, height = row["bbox"]
            rows[row["image_id"]].append((x, y, x + width, y + height, classes[row["category_id"]],
                                          row["iscrowd"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{shorten(path)}: not what get_map.py writes ({error!s:.60}); run it "
                        "again.") from None
    tables = {number: np.array(mine, np.float64).reshape(-1, 6) for number, mine in rows.items()}
    return [Record(resolve(images[number]), table[:, :4].astype(np.float32),
                   table[:, 4].astype(np.int64), table[:, 5] > 0)
            for number, table in tables.items()], [row["name"] for row in values["categories"]]


def compare(first: Found, second: Found, objects: Objects, class_names: Sequence[str],
            num_images: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare two sets of detections on the same N images by VOC's rule, area under the curve.

    The intervals are of a paired bootstrap: images are drawn anew, with replacement, `resamples`
    times, the same ones for both; the 2.5th and 97.5th percentile of the differences are kept.
    Images without objects are drawn too; a class that a draw has no objects of is left out of it.
    """
    sets = [assign_voc(found, objects) for found in (first, second)]
    results = [class_results(assignment, len(class_names)) for assignment in sets]
    weights = np.random.default_rng(seed).multinomial(
        num_images, np.full(num_images, 1 / num_images), resamples)
    draws = [np.stack([resampled_ap(assignment, label, weights)
                       for label in range(len(class_names))]) for assignment in sets]
    changes = draws[1] - draws[0]
    counted = ~np.isnan(changes)
    means = np.where(counted, changes, 0).sum(0) / np.where(counted.any(0), counted.sum(0), np.nan)
    differences = [
        Difference(name, a, b, *_interval(change)) for name, a, b, change in zip(
            [*class_names, "mean"],
            *([*(result.ap_area for result in mine), mean_ap(mine)] for mine in results),
            [*changes, means])]
    best = [best_f1(pooled_result(assignment)) for assignment in sets]
    confidences = tuple(one.confidence if one else 0.0 for one in best)
    errors = np.stack([count_errors(assignment, confidence, num_images)
                       for assignment, confidence in zip(sets, confidences)])
    return Comparison(differences, confidences, errors)


def _interval(values):
    """Return the 2.5th and 97.5th percentile of what is no nan."""
    values = values[~np.isnan(values)]
    return np.percentile(values, (2.5, 97.5)).tolist() if len(values) else [np.nan] * 2


def resampled_ap(assignment: Assignment, label: int, weights: np.ndarray) -> np.ndarray:
    """Return the (R,) AP (area) of a class where each image stands in the set some number of times.

    `weights` are (R, N) whole numbers. As if images were copied: copies of a detection come one
    after the other, which leaves the area as it is. nan where no object is left.
    """
    found, objects = assignment.found, assignment.objects
    rows = assignment.order[found.labels[assignment.order] == label]
    rows = rows[~assignment.ignored[0][rows]]
    right, images = assignment.matched[0][rows] >= 0, found.image[rows]
    mine = objects.image[assignment.counted & (objects.labels == label)]
    totals = weights @ np.bincount(mine, minlength=weights.shape[1])
    areas = np.zeros(len(weights))
    step = max(1, AT_ONCE // max(len(rows), 1))
    for start in range(0, len(weights), step):
        counts = weights[start:start + step, images]  # (r, D)
        hits = np.cumsum(counts * right, 1)[:, right]
        precision = hits / np.maximum(np.cumsum(counts, 1)[:, right], 1)
        highest = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        areas[start:start + step] = (counts[:, right] * highest).sum(1)
    return np.divide(areas, totals, out=np.full(len(weights), np.nan), where=totals > 0)


def count_errors(assignment: Assignment, confidence: float, num_images: int) -> np.ndarray:
    """Return the (N,) false positives and objects not found of each image above a confidence."""
    found, matched = assignment.found, assignment.matched[0]
    seen = (found.scores > confidence) & ~assignment.ignored[0]
    objects, right, wrong = (
        np.bincount(images, minlength=num_images) for images in
        (assignment.objects.image[assignment.counted], found.image[seen & (matched >= 0)],
         found.image[seen & (matched < 0)]))
    return objects - right + wrong


def format_comparison(comparison: Comparison, image_names: Sequence[str]) -> str:
    """Return the differences by class, and the images that changed most, as text."""
    width = max(5, *(len(it.name) for it in comparison.differences))
    lines = [f"{'class':<{width}}  {'first':>7} {'second':>7} {'change':>8}  95% interval"]
    for it in comparison.differences:
        if np.isnan(it.first):
            lines.append(f"{it.name:<{width}}  {'-':>7} {'-':>7} {'-':>8}  no objects")
            continue
        word = "  better" if it.low > 0 else "  worse" if it.high < 0 else ""
        lines.append(f"{it.name:<{width}}  {it.first:>7.4f} {it.second:>7.4f} "
                     f"{it.second - it.first:>+8.4f}  {it.low:+.4f} .. {it.high:+.4f}{word}")
    lines.append("errors by image, above a confidence of {:g} in the first, {:g} in the second:"
                 .format(*comparison.confidences))
    change = comparison.errors[1] - comparison.errors[0]
    for word, sign in (("better", 1), ("worse", -1)):
        order = np.argsort(sign * change, kind="stable")[:SHOWN]
        order = order[sign * change[order] < 0]
        lines.append(f"images that got {word}: {int((sign * change < 0).sum())}")
        lines += [f"  {image_names[k]}: {comparison.errors[0, k]} -> {comparison.errors[1, k]} "
                  "errors" for k in order]
    return "\n".join(lines)
