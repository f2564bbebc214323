"""COCO's form of results, and the ids by which its tools know classes and images."""

import re
from collections.abc import Sequence

import numpy as np

# COCO numbers its 80 classes 1 to 90.
COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def class_ids(class_names: Sequence[str]) -> list[int]:
    """Return COCO ids: its own for its 80 classes, else 1, 2, .. in the order of the names."""
    if len(class_names) == 80 and (class_names[0], class_names[-1]) == ("person", "toothbrush"):
        return [number for number in range(1, 91) if number not in COCO_GAPS]
    return list(range(1, len(class_names) + 1))


def numbers_of(names: Sequence[str]) -> list[int] | None:
    """Return image names as integers where all are different integers, as COCO's are, else None."""
    numbers = [int(name) for name in names if re.fullmatch(r"[0-9]{1,15}", name)]
    return numbers if len(set(numbers)) == len(names) else None


def coco_results(image_ids: Sequence[int | str], labels: np.ndarray, boxes: np.ndarray,
                 scores: np.ndarray, class_names: Sequence[str]) -> list[dict]:
    """Return D detections, (D, 4) xyxy in pixels, as rows of a COCO results file."""
    ids = class_ids(class_names)
    rows = zip(image_ids, labels.tolist(), boxes_xywh(boxes).tolist(), scores.tolist())
    return [{"image_id": image_id, "category_id": ids[label], "bbox": box, "score": score}
            for image_id, label, box, score in rows]


def boxes_xywh(boxes: np.ndarray) -> np.ndarray:
    """Return (N, 4) xyxy boxes as float64 [x, y, width, height]."""
    boxes = boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
