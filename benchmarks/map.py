"""Seconds to score detections, against pycocotools: VOC's mAP at one IoU, and COCO's figures.

    python -m benchmarks.map
    python -m benchmarks.map --images 50_000 --detections 10_000_000 --no_reference

Ours starts from the lists that a detector gives, pycocotools from its own index of the same boxes,
made beforehand. For VOC pycocotools has one IoU, one range of sizes, the recalls of VOC 2007, and
a class at most once in an image: so its rule and VOC's give the same figure.
"""

import contextlib
import io
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from utils.cli import UserError, run
from utils.data.annotations import Record
from utils.evaluation.assignment import flatten_detections, flatten_records
from utils.evaluation.coco_ap import evaluate_coco
from utils.evaluation.detection_files import coco_ground_truth, coco_results
from utils.evaluation.voc_ap import evaluate_voc, mean_ap


@dataclass(frozen=True)
class MapBenchmark:
    """What is timed."""

    images: int = 5000
    detections: int = 100_000
    classes: int = 20
    # Turns of each; the best counts, since other programs can only slow a turn down.
    turns: int = 2
    # Compare with pycocotools; without, this project alone, on sets too large for it.
    reference: bool = True


def main(settings):
    """Time both rules, and say what they took."""
    print(f"{processor()}, Python {platform.python_version()}, NumPy {np.__version__}\n{settings}")
    compare("VOC, IoU 0.5", settings, voc=True)
    compare("COCO, 10 IoUs, 4 sizes", settings, voc=False)
    with contextlib.suppress(ImportError):  # Windows
        import resource
        print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


def compare(name, settings, *, voc):
    """See that both find the same figures on the same boxes, then time both in turns."""
    found, records = make_set(settings, np.random.default_rng(0), once=voc)
    tasks = {"this project": lambda: ours(found, records, settings.classes, voc)}
    if settings.reference:
        judge = make_judge(found, records, settings.classes, voc)
        tasks["pycocotools"] = lambda: theirs(judge, voc)
        difference = np.abs(np.subtract(*(task() for task in tasks.values()))).max()
        print(f"{name}: largest difference {difference:.1e}")
        if not difference < 1e-12:
            raise UserError("the two do not find the same figures.")
    best = dict.fromkeys(tasks, np.inf)
    for task in list(tasks) * settings.turns:
        start = time.perf_counter()
        tasks[task]()
        best[task] = min(best[task], time.perf_counter() - start)
    for task, seconds in best.items():
        print(f"{name}: {task:<13} {seconds:8.3f} s   {seconds / best['this project']:6.1f}")


def processor():
    """Return the name of the processor."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    return platform.processor()


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


def make_judge(found, records, classes, voc):
    """Return pycocotools' COCOeval of the same boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    names = [str(label) for label in range(classes)]
    truth = COCO()
    truth.dataset = coco_ground_truth(records, names, [None] * len(records))
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = list(coco_results(flatten_detections(found), records, names))
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
    if voc:
        judge.params.iouThrs, judge.params.recThrs = np.array([0.5]), np.arange(11) / 10
        judge.params.areaRng, judge.params.maxDets = judge.params.areaRng[:1], [100]
        judge.params.areaRngLbl = ["all"]
    return judge


def theirs(judge, voc):
    """Return the figures of pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        judge.evaluate()
        judge.accumulate()
        if voc:
            precision = judge.eval["precision"]
            return [precision[precision > -1].mean()]
        judge.summarize()
        return judge.stats


if __name__ == "__main__":
    run(main, MapBenchmark)
