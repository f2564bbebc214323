"""The ids by which COCO's tools know classes and images, for all files of results."""

import re
from collections.abc import Sequence

# COCO numbers its 80 classes 1 to 90.
COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def class_ids(class_names: Sequence[str]) -> list[int]:
    """Return COCO ids: its own for its 80 classes, else 1, 2, .. in the order of the names."""
    if len(class_names) == 80 and (class_names[0], class_names[-1]) == ("person", "toothbrush"):
        return [number for number in range(1, 91) if number not in COCO_GAPS]
    return list(range(1, len(class_names) + 1))


def numbers_of(names: Sequence[str]) -> list[int] | None:
    """Return what images are called where all are different numbers, as COCO's are, else None."""
    numbers = [int(name) for name in names if re.fullmatch(r"[0-9]{1,15}", name)]
    return numbers if len(set(numbers)) == len(names) else None
