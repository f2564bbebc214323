"""Table and curves of a measurement."""

import math
import os
from collections.abc import Sequence

from utils.evaluation.voc_ap import ClassResult, mean_ap
from utils.page import new_figure, plain_text, save_figure


def plot_precision_recall(results: Sequence[ClassResult], class_names: Sequence[str],
                          path: str | os.PathLike) -> None:
    """Draw the precision-recall curve of every class that has objects, as a PNG file."""
    figure, axes = new_figure("Precision and recall at IoU 0.5", "recall", "precision")
    for result, name in zip(results, class_names):
        if result.num_objects:
            axes.plot(result.recall, result.precision,
                      label=f"{plain_text(name)} {result.ap_area:.3f}")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    if axes.lines and len(axes.lines) <= 25:
        axes.legend(loc="lower left", fontsize=8)
    save_figure(figure, path, dpi=100)


def format_results(results: Sequence[ClassResult], class_names: Sequence[str]) -> str:
    """Return a table of AP by class and the mean, as text."""
    width = max(5, *map(len, class_names))
    lines = [f"{'class':<{width}}  {'AP area':>8} {'AP 11pt':>8} {'objects':>8} {'found':>8}"]
    for name, result in zip(class_names, results):
        lines.append(f"{name:<{width}}  {_number(result.ap_area)} {_number(result.ap_11_point)} "
                     f"{result.num_objects:>8} {result.num_detections:>8}")
    lines.append(f"{'mean':<{width}}  {_number(mean_ap(results))} "
                 f"{_number(mean_ap(results, 'ap_11_point'))}")
    return "\n".join(lines)


def _number(value):
    """Return an AP in 8 columns, a dash for a class without objects."""
    return f"{'-':>8}" if math.isnan(value) else f"{value:>8.4f}"
