"""Measure a detector, or detections in a file, on the test list by the rules of VOC and COCO."""

import json
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

from nets.weights.families import names_without_gaps, without_gaps
from ssd import SSD, SSDSettings, WeightsSettings
from utils.cli import VERSION, check_fields, make_folder, run, shorten, writing
from utils.data.annotations import Record, check_images, check_same_classes, read_list
from utils.device import keep_freed_memory
from utils.distributed import check_device, on_rank0, process_group, rank, rank0_first
from utils.evaluation.assignment import FlatDetections, flatten_detections
from utils.evaluation.compare import compare_folders
from utils.evaluation.detection_files import read_detections, write_detections
from utils.evaluation.measurement import Measurement, as_values, format_measurement, measure
from utils.evaluation.report import write_report


@dataclass(frozen=True)
class MapSettings(WeightsSettings):
    """What is measured, and where the results go. Thresholds are the paper's for scoring."""

    # A list that voc_annotation.py wrote.
    test_list: str = "2007_test.txt"
    # Folder for report.html, results.txt and .json, and detections for other tools.
    map_out_path: str = "map_out"
    # Least IoU of a right detection by VOC's rule, its MINOVERLAP; more values give more mAPs.
    iou: tuple[float, ...] = (0.5,)
    # Images a pass; lower it when memory runs out.
    batch_size: int = 8
    # Scored in place of a network's detections: COCO results, or a folder of get_map.py.
    detections: str = ""
    # COCO annotation file whose ids they have; "" takes ground_truth.json beside them, or names.
    detections_ids: str = ""
    # Two folders of results of one test list, such as map_before map_out: prints what got better.
    compare: tuple[str, ...] = ()


def main(settings: MapSettings) -> None:
    """Detect or read, measure, report."""
    with process_group():
        if settings.compare:
            on_rank0(lambda: print(compare_folders(settings.compare)))
            return
        check_fields(settings, {"batch_size": (1, 10 ** 6), "iou": (0.01, 1)})
        records, class_names = read_list(settings.test_list)
        folder = on_rank0(lambda: make_folder(settings.map_out_path))
        if settings.detections:
            detections = read_detections(settings.detections, records, class_names,
                                         ids_path=settings.detections_ids)
            about = {"detections": settings.detections}
        else:
            detections, about = detect(settings, records, class_names)
        if rank() == 0:
            write_detections(folder, detections, records, class_names)
            measurement = measure(detections, records, class_names, settings.iou,
                                  confidence=about.get("confidence"))
            report(settings, measurement, about, folder)


def detect(settings: MapSettings, records: list[Record], class_names: tuple[str, ...]
           ) -> tuple[FlatDetections, dict[str, Any]]:
    """Run the detector that the settings name over the images of records, on all ranks.

    Return what it detects, and what is known of it.
    """
    check_images(records, settings.test_list)
    keep_freed_memory()
    weights = {field.name: getattr(settings, field.name) for field in fields(WeightsSettings)}
    detector = rank0_first(lambda: SSD(SSDSettings(**weights)))
    check_device(detector.device, settings.device)
    check_same_classes(names_without_gaps(detector.class_names), "the weights", class_names,
                       settings.test_list)
    detections = detector.detect_records(records, batch_size=settings.batch_size)
    return flatten_detections([without_gaps(image) for image in detections]), detector.about


def report(settings: MapSettings, measurement: Measurement, about: dict[str, Any], folder: Path
           ) -> None:
    """Print what was measured, and write it into files of a folder."""
    values = {"list": settings.test_list, "date": str(date.today()), "version": VERSION,
              "detector": about} | as_values(measurement)
    title = (f"{shorten(settings.test_list)}: {len(measurement.records)} images, IoU "
             f"{', '.join(values['by_iou'])}")
    origin = f"detections of {settings.detections}" if settings.detections else (
        "model {model}, confidence {confidence:g}, {confidence_from}".format(**about))
    origin = f"{origin}; measured {values['date']} with version {VERSION}"
    text = f"{title}\n{origin}\n{format_measurement(measurement)}"
    print(text)
    with writing(folder / "results.txt") as part:
        part.write_text(f"{text}\n", encoding="utf-8")
    with writing(folder / "results.json") as part:
        part.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")
    write_report(folder / "report.html", f"Detector report: {title}", measurement, values, origin)
    print(f"details in {folder}, images of the errors in its report.html")


if __name__ == "__main__":
    run(main, MapSettings)
