"""Seconds to score detections, against pycocotools, faster-coco-eval and hotcoco.

This project starts from the lists that a detector gives, the others from their own index. VOC's mAP
is that of VOC 2007 at one IoU, with a class at most once in an image, as pycocotools needs it.
"""

import contextlib
import importlib
import io
import json
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.prepare import BenchSettings
from benchmarks.timing import Row, race
from utils.coco_ids import coco_results
from utils.data.annotations import Record
from utils.evaluation.assignment import flatten_detections, flatten_records
from utils.evaluation.coco_ap import evaluate_coco
from utils.evaluation.detection_files import coco_ground_truth, image_ids
from utils.evaluation.voc_ap import evaluate_voc, mean_ap

# Module, the class that scores, the module of its index.
JUDGES = {"pycocotools": ("pycocotools.cocoeval", "COCOeval", "pycocotools.coco"),
          "faster-coco-eval": ("faster_coco_eval", "COCOeval_faster", "faster_coco_eval"),
          "hotcoco": ("hotcoco", "COCOeval", "hotcoco")}
IMAGES, DETECTIONS, CLASSES = 5000, 100_000, 20


def measure(settings: BenchSettings) -> list[Row]:
    """Time both rules."""
    return [*compare("VOC mAP", settings.turns, voc=True),
            *compare("COCO's figures", settings.turns, voc=False)]


def compare(task, turns, *, voc):
    """Time the scoring of the same boxes in turns; return the rows."""
    detections, records = make_set(np.random.default_rng(0), once=voc)
    tasks = {}
    for name in ("pycocotools",) if voc else JUDGES:
        judge = make_judge(name, detections, records, voc)
        tasks[name] = partial(reference_figures, judge, voc)
    tasks["this project"] = partial(project_figures, detections, records, voc)
    medians = race(tasks, turns, partial(np.allclose, rtol=0, atol=1e-12), rehearse=False)
    seconds = medians.pop("this project")
    return [Row(f"{task}, {DETECTIONS:,} detections", "this project", seconds, name, median)
            for name, median in medians.items()]


def make_set(rng, *, once):
    """Return (list of detections, list of Record); `once`: a class is in an image at most once."""
    detections, records = [], []
    count = DETECTIONS // IMAGES
    for number in range(IMAGES):
        labels = np.flatnonzero(rng.random(CLASSES) < 7 / CLASSES)
        if not once:
            labels = rng.integers(CLASSES, size=len(labels))
        boxes = random_boxes(rng, len(labels))
        near = rng.integers(len(labels), size=count * 6 // 10 if len(labels) else 0)
        sides = boxes[near, 2:] - boxes[near, :2]
        noise = rng.normal(0, 0.08, (len(near), 4)) * np.concatenate([sides, sides], 1)
        guesses = np.concatenate([boxes[near] + noise, random_boxes(rng, count - len(near))])
        guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2] + 1)
        classes = [labels[near], rng.integers(CLASSES, size=count - len(near))]
        detections.append(SimpleNamespace(
            boxes=guesses.astype(np.float32), labels=np.concatenate(classes),
            scores=rng.random(count, np.float32)))
        records.append(Record(Path(f"{number + 1}.jpg"), boxes.astype(np.float32), labels,
                              np.zeros(len(labels), bool)))
    return detections, records


def random_boxes(rng, number):
    """Return (number, 4) boxes with sides of 12 to 240 pixels."""
    low = rng.uniform(0, 400, (number, 2))
    return np.concatenate([low, low + 12 * 20 ** rng.random((number, 2))], 1)


def project_figures(detections, records, voc):
    """Return VOC's 11-point mAP, or COCO's twelve figures."""
    if voc:
        return [mean_ap(evaluate_voc(detections, records, CLASSES), "ap_11_point")]
    flat, objects = flatten_detections(detections), flatten_records(records)
    return list(evaluate_coco(flat, objects, CLASSES).figures().values())


def make_judge(name, detections, records, voc):
    """Return a package's COCOeval of the same boxes."""
    module, scorer, index = JUDGES[name]
    names = [str(label) for label in range(CLASSES)]
    flat, ids = flatten_detections(detections), image_ids(records)
    results = coco_results(np.array(ids)[flat.image].tolist(), flat.labels, flat.boxes,
                           flat.scores, names)
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "truth.json")
        file.write_text(json.dumps(coco_ground_truth(records, names)))
        truth = importlib.import_module(index).COCO(str(file))
        judge = getattr(importlib.import_module(module), scorer)(
            truth, truth.loadRes(results), "bbox")
    if voc:
        judge.params.iouThrs, judge.params.recThrs = np.array([0.5]), np.arange(11) / 10
        judge.params.areaRng, judge.params.maxDets = judge.params.areaRng[:1], [100]
        judge.params.areaRngLbl = ["all"]
    return judge


def reference_figures(judge, voc):
    """Return the figures of a package's COCOeval."""
    with contextlib.redirect_stdout(io.StringIO()):
        judge.evaluate()
        judge.accumulate()
        if voc:
            precision = judge.eval["precision"]
            return [precision[precision > -1].mean()]
        judge.summarize()
        return judge.stats[:12]  # faster-coco-eval has more
