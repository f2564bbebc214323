"""Measure a detector on the test list: VOC average precision by class and its mean."""

import utils.streams  # noqa: F401 (first: it looks after Ctrl-C while the rest is imported)

# isort: split
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nets.runtime import TorchRuntime
from ssd import SSD, SSDSettings, WeightsSettings
from utils.cli import UserError, make_folder, run, shared_fields, shorten, writing
from utils.data.annotations import check_same_classes, read_list
from utils.detections import Detections
from utils.distributed import (check_alike, check_device, first_ahead, on_first, process_group,
                               rank, share_tensors)
from utils.evaluation.map_report import format_results, plot_precision_recall
from utils.evaluation.voc_ap import VOC_IOU, ClassResult, mean_ap
from utils.training.run_state import fingerprint


@dataclass(frozen=True)
class MapSettings(WeightsSettings):
    """What is measured, and where the results go. Thresholds are the paper's for scoring."""

    # ---- What to measure ----

    # A list that voc_annotation.py wrote.
    test_list: str = "2007_test.txt"
    # Folder for results.txt, results.json and precision_recall.png.
    map_out_path: str = "map_out"
    # Images a pass; lower it when memory runs out.
    batch_size: int = 8


def main(settings: MapSettings) -> None:
    """Load, measure, report: first on the screen, then in files."""
    with process_group():
        if settings.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {settings.batch_size}.")
        records, list_names = read_list(settings.test_list)
        detector = first_ahead(lambda: SSD(SSDSettings(**shared_fields(settings, SSDSettings))))
        check_device(detector.device)
        check_same_classes(detector.class_names, "the weights", list_names, settings.test_list)
        check_alike({"test_list": fingerprint(records), "batch_size": settings.batch_size,
                     "precision": detector.precision, "classes": detector.class_names,
                     "network": detector.spec.to_dict()})
        if isinstance(detector.runtime, TorchRuntime):  # each process reads an .onnx by itself
            share_tensors(detector.network.state_dict().values())
        folder = on_first(lambda: make_folder(settings.map_out_path))
        results, detections = detector.evaluate(records, batch_size=settings.batch_size)
        if rank() == 0:
            report(settings.test_list, detector.class_names, results, detections, folder)


def report(test_list: str, class_names: tuple[str, ...], results: list[ClassResult],
           detections: list[Detections], folder: Path) -> None:
    """Say what was measured, and write it into files of a folder."""
    table = format_results(results, class_names)
    title = f"{test_list}: {len(detections)} images, IoU {VOC_IOU}"
    print(f"{title}\n{table}")
    if not any(len(found.scores) for found in detections):
        print("nothing was found in any image; has the training gone on long enough?")
    area, points = mean_ap(results), mean_ap(results, "ap_11_point")
    print(f"mAP@0.5 {area:.4f} (area), {points:.4f} (11-point)")
    values = figures(test_list, results, class_names)
    write_files(folder, {
        "results.txt": lambda path: path.write_text(f"{title}\n{table}\n", encoding="utf-8"),
        "results.json": lambda path: path.write_text(
            json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8"),
        "precision_recall.png": lambda path: plot_precision_recall(
            results, class_names, path)})
    print(f"details in {shorten(folder)}")


def figures(test_list: str, results: list[ClassResult], class_names: tuple[str, ...]) -> dict:
    """Return the figures for programs to read; None stands for a class without objects."""
    def known(value):
        return None if math.isnan(value) else value

    classes = {name: {"ap_area": known(result.ap_area), "ap_11_point": known(result.ap_11_point),
                      "objects": result.num_objects, "detections": result.num_detections}
               for name, result in zip(class_names, results)}
    return {"list": test_list, "iou": VOC_IOU, "map_area": known(mean_ap(results)),
            "map_11_point": known(mean_ap(results, "ap_11_point")), "classes": classes}


def write_files(folder: Path, writers: dict[str, Callable[[Path], object]]) -> None:
    """Write each file of a folder, {name: what writes it}, whatever becomes of the others.

    Raises UserError, so that the script ends with status 2, where a file could not be written.
    """
    faults = []
    for name, write in writers.items():
        try:
            with writing(folder / name) as part:
                write(part)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError(f"{faults[0]}\n{len(faults)} of {len(writers)} files are missing; "
                        "the figures above are complete.")


if __name__ == "__main__":
    run(main, MapSettings)
