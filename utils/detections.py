"""The detections of one image, as users get them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from utils.cli import UserError

MAX_SHOWN = 12  # objects that a repr lists
COLUMNS = ("class", "label", "score", "x1", "y1", "x2", "y2")


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one image, highest score first.

    `boxes, scores, labels = detections` unpacks them, `detections[...]` picks by mask or indices.
    """

    boxes: np.ndarray  # (N, 4) float32, xyxy edges in pixels of the image
    scores: np.ndarray  # (N,) float32 in (0, 1)
    labels: np.ndarray  # (N,) int64 index into class_names
    class_names: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.boxes, self.scores, self.labels))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, indices: Any) -> Detections:
        indices = np.atleast_1d(indices) if isinstance(indices, (int, np.integer)) else indices
        return replace(self, boxes=self.boxes[indices], scores=self.scores[indices],
                       labels=self.labels[indices])

    @property
    def names(self) -> list[str]:
        """The class name of each object; its label as text where the classes have no names."""
        names = self.class_names
        return [names[label] if names else str(label) for label in self.labels]

    def counts(self) -> dict[str, int]:
        """Return {class name: number of objects}, the most frequent first."""
        return dict(Counter(self.names).most_common())

    def rows(self) -> list[dict[str, Any]]:
        """Return {class, label, score, x1, y1, x2, y2} of each object in plain types."""
        return [dict(zip(COLUMNS, (name, int(label), round(float(score), 6),
                                   *(round(float(edge), 2) for edge in box))))
                for name, box, score, label in zip(self.names, *self)]

    def to_supervision(self) -> Any:
        """Return them as supervision.Detections, with class names; pip install supervision."""
        import supervision
        return supervision.Detections(self.boxes, confidence=self.scores, class_id=self.labels,
                                      data={"class_name": np.array(self.names, dtype=str)})

    def __repr__(self) -> str:
        lines = [f"  {name:<16} {score:.2f}  at {x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}"
                 for name, (x1, y1, x2, y2), score in zip(self.names, self.boxes, self.scores)]
        more = [f"  and {len(self) - MAX_SHOWN} more"] if len(self) > MAX_SHOWN else []
        return "\n".join([f"{len(self)} found", *lines[:MAX_SHOWN], *more])


def class_texts(classes: Any) -> tuple[str, ...]:
    """Return classes, one or several, names or numbers, or None for all, as a tuple of texts."""
    return () if classes is None else tuple(map(str, np.atleast_1d(classes)))


def class_indices(classes: Any, class_names: Sequence[str]) -> tuple[int, ...]:
    """Return the indices of what `class_texts` takes; UserError for a class that there is not."""
    texts, numbers = class_texts(classes), [str(number) for number in range(len(class_names))]
    for text in texts:
        if text not in class_names and text not in numbers:
            choices = ", ".join(class_names[:30])
            raise UserError(f"classes: {text!r} is none of the detector's: {choices}.")
    return tuple((class_names if text in class_names else numbers).index(text) for text in texts)
