"""What was found in one image, as users get it."""

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


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one image, highest score first.

    Unpacks as `boxes, scores, labels = detections`; `detections[...]` picks objects by a mask, a
    slice or indices, and `len` counts them. supervision takes its fields:
    `sv.Detections(found.boxes, confidence=found.scores, class_id=found.labels)`.
    """

    boxes: np.ndarray  # (N, 4) float32, xyxy edges in pixels of the image
    scores: np.ndarray  # (N,) float32 in (0, 1)
    labels: np.ndarray  # (N,) int64 index into class_names
    class_names: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.boxes, self.scores, self.labels))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Any) -> Detections:
        chosen = [chosen] if isinstance(chosen, (int, np.integer)) else chosen
        return replace(self, boxes=self.boxes[chosen], scores=self.scores[chosen],
                       labels=self.labels[chosen])

    @property
    def names(self) -> list[str]:
        """The class name of each object; its number where the classes have no names."""
        return [self.class_names[label] if self.class_names else str(label)
                for label in self.labels]

    def counts(self) -> dict[str, int]:
        """Return {class name: number of objects}, the most frequent first."""
        return dict(Counter(self.names).most_common())

    def rows(self) -> list[dict[str, Any]]:
        """Return {class, label, score, x1, y1, x2, y2} of each object, in plain types."""
        return [{"class": name, "label": int(label), "score": round(float(score), 6),
                 **{edge: round(float(value), 2) for edge, value in zip(("x1", "y1", "x2", "y2"),
                                                                        box)}}
                for name, box, score, label in zip(self.names, *self)]

    def to_pandas(self) -> pandas.DataFrame:
        """Return a table of `rows`; UserError where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install pandas") from None
        return pandas.DataFrame(self.rows(), columns=["class", "label", "score", "x1", "y1", "x2",
                                                      "y2"])

    def __repr__(self) -> str:
        lines = [f"  {row['class']:<16} {row['score']:.2f}  at {row['x1']:.0f} {row['y1']:.0f} "
                 f"{row['x2']:.0f} {row['y2']:.0f}" for row in self[:MAX_SHOWN].rows()]
        more = len(self) - len(lines)
        return "\n".join([f"{len(self)} found", *lines, *[f"  and {more} more"] * (more > 0)])

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        rows = self[:MAX_SHOWN].rows()
        cells = "".join("<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row.values())
                        + "</tr>" for row in rows)
        head = "".join(f"<th>{name}</th>" for name in (rows or [{}])[0])
        return f"<p>{len(self)} found</p><table><tr>{head}</tr>{cells}</table>"


def class_numbers(names: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Return the numbers of classes; UserError for a name that is none of them."""
    for name in names:
        if name not in class_names:
            raise UserError(f"classes: {name!r} is none of the detector's: "
                            f"{', '.join(class_names[:30])}.")
    return [class_names.index(name) for name in names]
