"""The detections of one image, as users get them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.cli import UserError

if TYPE_CHECKING:
    import pandas

MAX_SHOWN = 12  # objects that a repr lists
COLUMNS = ("class", "label", "score", "x1", "y1", "x2", "y2")


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one image, highest score first.

    Unpacks as `boxes, scores, labels = detections`; `detections[...]` picks objects by a mask, a
    slice or indices, and `len` counts them. For supervision:
    `sv.Detections(detections.boxes, confidence=detections.scores, class_id=detections.labels)`.
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
        return [self.class_names[label] if self.class_names else str(label)
                for label in self.labels]

    def counts(self) -> dict[str, int]:
        """Return {class name: number of objects}, the most frequent first."""
        return dict(Counter(self.names).most_common())

    def rows(self) -> list[dict[str, Any]]:
        """Return {class, label, score, x1, y1, x2, y2} of each object, in plain types."""
        return [dict(zip(COLUMNS, (name, int(label), round(float(score), 6),
                                   *(round(float(edge), 2) for edge in box))))
                for name, box, score, label in zip(self.names, *self)]

    def to_pandas(self) -> pandas.DataFrame:
        """Return a table of `rows`; UserError where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install pandas") from None
        return pandas.DataFrame(self.rows(), columns=COLUMNS)

    def __repr__(self) -> str:
        lines = [f"{len(self)} found"]
        lines += [f"  {name:<16} {score:.2f}  at {x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}"
                  for name, (x1, y1, x2, y2), score in zip(self.names[:MAX_SHOWN], self.boxes,
                                                           self.scores)]
        if len(self) > MAX_SHOWN:
            lines.append(f"  and {len(self) - MAX_SHOWN} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        return f"<pre>{escape(repr(self))}</pre>"


def class_indices(names: Sequence[str], class_names: Sequence[str]) -> tuple[int, ...]:
    """Return the indices of classes; UserError for a name that is none of them."""
    for name in names:
        if name not in class_names:
            raise UserError(f"classes: {name!r} is none of the detector's: "
                            f"{', '.join(class_names[:30])}.")
    return tuple(class_names.index(name) for name in names)
