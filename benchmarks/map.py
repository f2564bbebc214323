"""Seconds to score detections, against pycocotools, faster-coco-eval and hotcoco.

    python -m benchmarks.map
    python -m benchmarks.map --images 50_000 --detections 10_000_000 --no_reference

For VOC's mAP at one IoU, and COCO's twelve figures. Ours starts from the lists that a detector
gives, the others from their own index of the same boxes, made beforehand. For VOC pycocotools has
one IoU, one range of sizes, the recalls of VOC 2007, and a class at most once in an image: so its
rule and VOC's give the same figure. What is not installed is left out.
"""

import contextlib
import importlib
import io
import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.machine import most_memory
from benchmarks.race import race
from benchmarks.table import Row, quantity, report
from utils.cli import run
from utils.data.annotations import Record
from utils.evaluation.assignment import flatten_detections, flatten_records
from utils.evaluation.coco_ap import evaluate_coco
from utils.coco_ids import coco_results
from utils.evaluation.detection_files import coco_ground_truth, image_ids
from utils.evaluation.voc_ap import evaluate_voc, mean_ap

# Module, the class that scores, what its index is loaded by.
JUDGES = {"pycocotools": ("pycocotools.cocoeval", "COCOeval", "pycocotools.coco"),
          "faster-coco-eval": ("faster_coco_eval", "COCOeval_faster", "faster_coco_eval"),
          "hotcoco": ("hotcoco", "COCOeval", "hotcoco")}


@dataclass(frozen=True)
class MapBenchmark:
    """What is timed."""

    images: int = 5000
    detections: int = 100_000
    classes: int = 20
    turns: int = 2
    # Compare with others; without, this project alone, on sets too large for them.
    reference: bool = True
    # File for the figures; "" for none.
    json_path: str = ""


def main(settings):
    """Time both rules, and say what they took."""
    print(settings)
    rows = [*compare("VOC mAP", settings, voc=True),
            *compare("COCO's figures", settings, voc=False)]
    print(f"most memory: {quantity(most_memory(), 'B')}")
    report(rows, settings.json_path)


def compare(name, settings, *, voc):
    """See that all find the same figures on the same boxes, then time them in turns."""
    found, records = make_set(settings, np.random.default_rng(0), once=voc)
    tasks = {}
    for other in JUDGES if settings.reference else ():
        if (not voc or other == "pycocotools") and installed(other):
            judge = make_judge(other, found, records, settings.classes, voc)
            tasks[other] = partial(theirs, judge, voc)
    tasks["this project"] = partial(ours, found, records, settings.classes, voc)
    figures = race(tasks, settings.turns, equal, rehearse=False)
    task = f"{name}, {settings.detections:,} detections"
    mine = figures.pop("this project")["median"]
    if not figures:
        return [Row(task, "this project", mine)]
    return [Row(task, "this project", mine, other, figure["median"])
            for other, figure in figures.items()]


def installed(name):
    """Tell whether a package can be imported."""
    try:
        return bool(importlib.import_module(JUDGES[name][0]))
    except ImportError:
        return False


def equal(one, other):
    return np.abs(np.subtract(one, other)).max() < 1e-12


def make_set(settings, rng, *, once):
    """Return (list of detections, list of Record) with boxes near and far, right and wrong.

    Images have 7 objects on average; with `once` a class is among them at most once.
    """
    found, records = [], []
    count = settings.detections // settings.images
    for number in range(settings.images):
        labels = np.flatnonzero(rng.random(settings.classes) < 7 / settings.classes)
        if not once:
            labels = rng.integers(settings.classes, size=len(labels))
        boxes = random_boxes(rng, len(labels))
        near = rng.integers(len(labels), size=count * 6 // 10 if len(labels) else 0)
        noise = rng.normal(0, 0.08, (len(near), 4)) * np.tile(boxes[near, 2:] - boxes[near, :2], 2)
        far = count - len(near)
        guesses = np.concatenate([boxes[near] + noise, random_boxes(rng, far)])
        guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2] + 1)
        classes = np.concatenate([labels[near], rng.integers(settings.classes, size=far)])
        found.append(SimpleNamespace(boxes=guesses.astype(np.float32), labels=classes,
                                     scores=rng.random(count, np.float32)))
        records.append(Record(Path(f"{number + 1}.jpg"), boxes.astype(np.float32), labels,
                              np.zeros(len(labels), bool)))
    return found, records


def random_boxes(rng, number):
    """Return (number, 4) boxes with sides of 12 to 240 pixels."""
    low = rng.uniform(0, 400, (number, 2))
    return np.concatenate([low, low + 12 * 20 ** rng.random((number, 2))], 1)


def ours(found, records, classes, voc):
    """Return the figures of this project: VOC's 11-point mAP, or COCO's twelve."""
    if voc:
        return [mean_ap(evaluate_voc(found, records, classes), "ap_11_point")]
    found, objects = flatten_detections(found), flatten_records(records)
    return list(evaluate_coco(found, objects, classes).figures().values())


def make_judge(name, found, records, classes, voc):
    """Return a package's COCOeval of the same boxes."""
    module, scorer, index = JUDGES[name]
    names = [str(label) for label in range(classes)]
    flat, ids = flatten_detections(found), image_ids(records)
    results = coco_results([ids[k] for k in flat.image], flat.labels, flat.boxes, flat.scores, names)
    make_index = importlib.import_module(index).COCO
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "truth.json")
        file.write_text(json.dumps(coco_ground_truth(records, names)))
        truth = make_index(str(file))
        judge = getattr(importlib.import_module(module), scorer)(
            truth, truth.loadRes(results), "bbox")
    if voc:
        judge.params.iouThrs, judge.params.recThrs = np.array([0.5]), np.arange(11) / 10
        judge.params.areaRng, judge.params.maxDets = judge.params.areaRng[:1], [100]
        judge.params.areaRngLbl = ["all"]
    return judge


def theirs(judge, voc):
    """Return the figures of a package's COCOeval."""
    with contextlib.redirect_stdout(io.StringIO()):
        judge.evaluate()
        judge.accumulate()
        if voc:
            precision = judge.eval["precision"]
            return [precision[precision > -1].mean()]
        judge.summarize()
        return judge.stats[:12]  # faster-coco-eval has more


if __name__ == "__main__":
    run(main, MapBenchmark)
