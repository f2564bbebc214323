"""Measure a detector, or detections in a file, on the test list by the rules of VOC and COCO."""

import utils.streams  # noqa: F401 (first: it looks after Ctrl-C while the rest is imported)

# isort: split
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ssd import SSD, SSDSettings, WeightsSettings
from utils.cli import UserError, make_folder, run, shared_fields, shorten, writing
from utils.data.annotations import Record, check_same_classes, read_list
from utils.distributed import (check_alike, check_device, first_ahead, on_first, process_group,
                               rank, share_tensors)
from utils.evaluation.advice import advise
from utils.evaluation.assignment import Found, assign_voc, flatten_detections, flatten_records
from utils.evaluation.coco_ap import CocoResult, evaluate_coco
from utils.evaluation.detection_files import detection_writers, image_ids, read_detections
from utils.evaluation.map_report import format_results, plot_precision_recall
from utils.evaluation.voc_ap import (VOC_IOU, ClassResult, best_f1, class_results, mean_ap,
                                     pooled_result)
from utils.training.run_state import fingerprint


@dataclass(frozen=True)
class MapSettings(WeightsSettings):
    """What is measured, and where the results go. Thresholds are the paper's for scoring."""

    # ---- What to measure ----

    # A list that voc_annotation.py wrote.
    test_list: str = "2007_test.txt"
    # Folder for the figures (results.txt, results.json, precision_recall.png) and the detections
    # (detections.json for COCO's tools with ground_truth.json, comp4/ for VOC's).
    map_out_path: str = "map_out"
    # Images a pass; lower it when memory runs out.
    batch_size: int = 8

    # ---- Detections of another time or project ----

    # Scored in place of a network's, which is not needed then: a detections.json or other COCO
    # results, or a folder with comp4_det_test_<class>.txt files.
    detections: str = ""
    # COCO annotation file whose ids they have. Leave "": the ids are those of ground_truth.json
    # beside them, else numbers or names as get_map.py writes them.
    detections_ids: str = ""


class Figures(NamedTuple):
    """What was measured by every rule."""

    images: int
    results: list[ClassResult]  # VOC's, by class
    pooled: ClassResult  # all classes as one
    coco: CocoResult
    advice: list[str]  # lines to print


def main(settings: MapSettings) -> None:
    """Detect or read, write, measure, report: first on the screen, then in files."""
    with process_group():
        if settings.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {settings.batch_size}.")
        records, names = read_list(settings.test_list)
        image_ids(records)  # refuses an image that stands twice, before the work
        folder = on_first(lambda: make_folder(settings.map_out_path))
        found = None
        if not settings.detections:
            found = detect(settings, records, names)
        if rank() == 0:
            found = found or read_detections(settings.detections, records, names,
                                             ids_path=settings.detections_ids)
            faults = write_files(folder, detection_writers(found, records, names))
            report(settings.test_list, names, measure(found, records, names), folder, faults)


def detect(settings: MapSettings, records: list[Record], list_names: tuple[str, ...]) -> Found:
    """Run the detector that the settings name over the images of records."""
    detector = first_ahead(lambda: SSD(SSDSettings(**shared_fields(settings, SSDSettings))))
    check_device(detector.device)
    check_same_classes(detector.class_names, "the weights", list_names, settings.test_list)
    check_alike({"test_list": fingerprint(records), "batch_size": settings.batch_size,
                 "precision": detector.precision, "classes": detector.class_names,
                 "network": detector.spec.to_dict()})
    share_tensors(detector.network.state_dict().values())
    return flatten_detections(detector.detect_records(records, batch_size=settings.batch_size))


def measure(found: Found, records: list[Record], class_names: tuple[str, ...]) -> Figures:
    """Score detections by the rules of VOC and COCO."""
    objects = flatten_records(records)
    assignment = assign_voc(found, objects, VOC_IOU)
    results, pooled = class_results(assignment, len(class_names)), pooled_result(assignment)
    return Figures(len(records), results, pooled, evaluate_coco(found, objects, len(class_names)),
                   advise(assignment, results, pooled, class_names))


def report(test_list: str, class_names: tuple[str, ...], figures: Figures, folder: Path,
           faults: list[str]) -> None:
    """Say what was measured, and write it into files of a folder.

    Raises UserError where a file could not be written, or `faults` of earlier ones.
    """
    results, coco = figures.results, figures.coco.figures()
    lines = [f"{test_list}: {figures.images} images, IoU {VOC_IOU}",
             format_results(results, class_names, figures.coco)]
    for kind in ("AP", "AR"):
        lines.append("COCO: " + ", ".join(f"{name} {value:.4f}".replace("nan", "-")
                                          for name, value in coco.items()
                                          if name.startswith(kind)))
    text = "\n".join(lines + figures.advice)
    print(text)
    area, points = mean_ap(results), mean_ap(results, "ap_11_point")
    print(f"mAP@0.5 {area:.4f} (area), {points:.4f} (11-point)")
    values = as_values(test_list, figures, class_names)
    faults += write_files(folder, {
        "results.txt": lambda path: path.write_text(f"{text}\n", encoding="utf-8"),
        "results.json": lambda path: path.write_text(
            json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8"),
        "precision_recall.png": lambda path: plot_precision_recall(
            results, class_names, path)})
    if faults:
        raise UserError(f"{faults[0]}\n{len(faults)} files are missing; the figures above are "
                        "complete.")
    print(f"details in {shorten(folder)}")


def as_values(test_list: str, figures: Figures, class_names: tuple[str, ...]) -> dict:
    """Return the figures for programs to read; None stands for what has no objects."""
    def known(value):
        return None if math.isnan(value) else value

    def best(result):
        found = best_f1(result)
        return found and found._asdict()

    results = figures.results
    classes = {name: {"ap_area": known(result.ap_area), "ap_11_point": known(result.ap_11_point),
                      "ap_50_95": known(figures.coco.figure("AP50:95", label)),
                      "objects": result.num_objects, "detections": result.num_detections,
                      "best_f1": best(result)}
               for label, (name, result) in enumerate(zip(class_names, results))}
    return {"list": test_list, "iou": VOC_IOU, "map_area": known(mean_ap(results)),
            "map_11_point": known(mean_ap(results, "ap_11_point")),
            "coco": {name: known(value) for name, value in figures.coco.figures().items()},
            "best_f1": best(figures.pooled), "classes": classes}


def write_files(folder: Path, writers: dict[str, Callable[[Path], object]]) -> list[str]:
    """Write each file of a folder, {name: what writes it}, whatever becomes of the others.

    Returns a line for each file that could not be written.
    """
    faults = []
    for name, write in writers.items():
        try:
            with writing(folder / name) as part:
                part.parent.mkdir(exist_ok=True)
                write(part)
        except UserError as error:
            faults.append(str(error))
    return faults


if __name__ == "__main__":
    run(main, MapSettings)
