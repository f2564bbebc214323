"""Measure a detector on the test list: VOC average precision by class and its mean."""

import json
from dataclasses import dataclass

from ssd import SSD, SSDSettings
from utils.cli import UserError, make_folder, run, shorten
from utils.data.annotations import check_same_classes, read_list
from utils.evaluation.map_report import format_results, plot_precision_recall
from utils.evaluation.voc_ap import VOC_IOU, mean_ap


@dataclass(frozen=True)
class MapSettings:
    """What is measured, and where the results go."""

    # A best.pth or last.pth; "" takes the newest best.pth under save_dir.
    model_path: str = ""
    # A list that voc_annotation.py wrote.
    test_list: str = "2007_test.txt"
    # Folder for results.txt, results.json and precision_recall.png.
    map_out_path: str = "map_out"
    # Where training results lie.
    save_dir: str = "logs"
    # Images a pass; lower it when memory runs out.
    batch_size: int = 8
    # "auto" takes an NVIDIA GPU if there is one; else "cpu", "cuda", "cuda:1", "mps".
    device: str = "auto"


def main(settings):
    """Load, measure, report. Thresholds are the paper's for scoring, precision is fp32."""
    if settings.batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {settings.batch_size}.")
    records, list_names = read_list(settings.test_list)
    detector = SSD(SSDSettings(model_path=settings.model_path, device=settings.device),
                   logs_dir=settings.save_dir)
    check_same_classes(detector.class_names, "the weights", list_names, settings.test_list)
    results, detections = detector.evaluate(records, batch_size=settings.batch_size)
    table = format_results(results, detector.class_names)
    folder = make_folder(settings.map_out_path)
    title = f"{settings.test_list}: {len(records)} images, IoU {VOC_IOU}"
    (folder / "results.txt").write_text(f"{title}\n{table}\n", encoding="utf-8")
    write_json(folder / "results.json", settings, results, detector.class_names)
    plot_precision_recall(results, detector.class_names, folder / "precision_recall.png")
    print(f"{title}\n{table}")
    if not any(len(found.scores) for found in detections):
        print("nothing was found in any image; has the training gone on long enough?")
    area, points = mean_ap(results), mean_ap(results, "ap_11_point")
    print(f"mAP@0.5 {area:.4f} (area), {points:.4f} (11-point); "
          f"details in {shorten(folder)}")


def write_json(path, settings, results, class_names):
    """Write the figures for programs to read; null stands for a class without objects."""
    classes = {}
    for name, result in zip(class_names, results):
        known = result.num_objects > 0
        classes[name] = {"ap_area": result.ap_area if known else None,
                         "ap_11_point": result.ap_11_point if known else None,
                         "objects": result.num_objects, "detections": result.num_detections}
    scored = any(result.num_objects for result in results)
    values = {"list": settings.test_list, "iou": VOC_IOU,
              "map_area": mean_ap(results) if scored else None,
              "map_11_point": mean_ap(results, "ap_11_point") if scored else None,
              "classes": classes}
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    run(main, MapSettings)
