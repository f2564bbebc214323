"""Measure a detector, or detections in a file, on the test list by the rules of VOC and COCO."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nets.weights.families import names_without_gaps, without_gaps
from nets.runtimes.torch import TorchRuntime
from ssd import SCORING, SSD, SSDSettings, WeightsSettings
from utils.cli import UserError, make_folder, run, shared_fields, shorten, writing
from utils.data.annotations import Record, check_same_classes, read_list
from utils.device import keep_freed_memory
from utils.distributed import (check_alike, check_device, first_ahead, on_first, process_group,
                               rank, share_tensors)
from utils.evaluation.advice import advise
from utils.evaluation.assignment import Found, flatten_detections, flatten_records
from utils.evaluation.compare import compare_folders
from utils.evaluation.detection_files import (detection_writers, image_ids, image_sizes,
                                              read_detections)
from utils.evaluation.map_page import Measurement, as_values, measure, write_report
from utils.evaluation.map_report import (format_results, plot_confusion, plot_errors,
                                         plot_precision_recall)
from utils.evaluation.voc_ap import VOC_IOU, mean_ap
from utils.training.run_state import fingerprint


@dataclass(frozen=True)
class MapSettings(WeightsSettings):
    """What is measured, and where the results go. Thresholds are the paper's for scoring."""

    # ---- What to measure ----

    # A list that voc_annotation.py wrote.
    test_list: str = "2007_test.txt"
    # Folder for the figures (report.html, results.txt, results.json, and plots as PNG) and the
    # detections (detections.json for COCO's tools with ground_truth.json, comp4/ for VOC's).
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

    # ---- Two measurements ----

    # Two folders of results of the same test list, such as map_out_before map_out: nothing is
    # measured then, it is said what got better and worse from the first to the second.
    compare: tuple[str, ...] = ()


def main(settings: MapSettings) -> None:
    """Detect or read, write, measure, report: first on the screen, then in files."""
    with process_group():
        if settings.compare:
            on_first(lambda: print(compare_folders(settings.compare)))
            return
        if settings.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {settings.batch_size}.")
        records, names = read_list(settings.test_list)
        image_ids(records)  # refuses an image that stands twice, before the work
        folder = on_first(lambda: make_folder(settings.map_out_path))
        found = None
        if not settings.detections:
            found = detect(settings, records, names)
        if rank() == 0:
            sizes = image_sizes(records)
            found = found or read_detections(settings.detections, records, names, sizes,
                                             ids_path=settings.detections_ids)
            faults = write_files(folder, detection_writers(found, records, names, sizes))
            it = measure(found, flatten_records(records), names, image_ids(records))
            report(settings, it, records, folder, faults)


def detect(settings: MapSettings, records: list[Record], list_names: tuple[str, ...]) -> Found:
    """Run the detector that the settings name over the images of records."""
    keep_freed_memory()
    detector = first_ahead(lambda: SSD(SSDSettings(**shared_fields(settings, SSDSettings))))
    check_device(detector.device, settings.device)
    check_same_classes(names_without_gaps(detector.class_names), "the weights", list_names,
                       settings.test_list)
    check_alike({"test_list": fingerprint(records), "batch_size": settings.batch_size,
                 "precision": detector.precision, "classes": detector.class_names,
                 "network": detector.spec.to_dict()})
    if isinstance(detector.runtime, TorchRuntime):  # each process reads an .onnx by itself
        share_tensors(detector.network.state_dict().values())
    found = detector.detect_records(records, batch_size=settings.batch_size)
    return flatten_detections([without_gaps(each) for each in found])


def report(settings: MapSettings, it: Measurement, records: list[Record], folder: Path,
           faults: list[str]) -> None:
    """Say what was measured, and write it into files of a folder.

    Raises UserError where a file could not be written, or `faults` of earlier ones.
    """
    coco, title = it.coco.figures(), f"{settings.test_list}: {it.images} images, IoU {VOC_IOU}"
    lines = [title, format_results(it.results, it.class_names, it.coco)]
    for kind in ("AP", "AR"):
        lines.append("COCO: " + ", ".join(f"{name} {value:.4f}".replace("nan", "-")
                                          for name, value in coco.items()
                                          if name.startswith(kind)))
    text = "\n".join(lines + advise(it.assignment, it.results, it.pooled, it.class_names))
    print(text)
    area, points = mean_ap(it.results), mean_ap(it.results, "ap_11_point")
    print(f"mAP@0.5 {area:.4f} (area), {points:.4f} (11-point)")
    values = {"list": settings.test_list} | as_values(it, SSDSettings().confidence)
    origin = (f"The detections are those of {settings.detections}." if settings.detections else
              f"The APs are of all detections above a confidence of {SCORING.confidence:g}.")
    faults += write_files(folder, {
        "results.txt": lambda path: path.write_text(f"{text}\n", encoding="utf-8"),
        "results.json": lambda path: path.write_text(
            json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8"),
        "precision_recall.png": lambda path: plot_precision_recall(
            it.results, it.class_names, path),
        "errors.png": lambda path: plot_errors(values["errors"], path),
        "confusion.png": lambda path: plot_confusion(values["confusion"], path),
        "report.html": lambda path: write_report(
            path, f"mAP on {title}", it, values, records=records, origin=origin)})
    if faults:
        raise UserError(f"{faults[0]}\n{len(faults)} files are missing; the figures above are "
                        "complete.")
    print(f"details in {shorten(folder)}, images of the errors in its report.html")


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
