"""Table and curves of a measurement."""

import math
import os
from collections.abc import Sequence

import numpy as np

from utils.evaluation.coco_ap import CocoResult
from utils.evaluation.voc_ap import ClassResult, best_f1, mean_ap
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


def plot_errors(errors: dict, path: str | os.PathLike) -> None:
    """Draw what each kind of error costs, "errors" of results.json, as a PNG file."""
    kinds = [name for name, value in errors.items() if isinstance(value, dict)]
    figure, axes = new_figure("What each kind of error costs", "", "AP at IoU 0.5")
    axes.bar([f"{name}\n{errors[name]['count']}" for name in kinds],
             [errors[name]["cost"] or 0 for name in kinds])  # None without objects
    save_figure(figure, path, dpi=100)


def plot_confusion(confusion: dict, path: str | os.PathLike) -> None:
    """Draw the confusion matrix, "confusion" of results.json, as a PNG file.

    Shades are shares of a row; numbers stand in the cells of up to 12 classes and background.
    """
    figure, axes = new_figure(f"Confusion above a confidence of {confusion['confidence']:g}",
                              "found", "true")
    matrix = np.array(confusion["matrix"])
    names = [plain_text(name) for name in confusion["true_by_found"]]
    axes.grid(False)
    axes.imshow(matrix / matrix.sum(1, keepdims=True).clip(1), cmap="Blues", vmin=0, vmax=1,
                aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 6 else 0)
    axes.set_yticks(range(len(names)), names)
    for (row, column), count in np.ndenumerate(matrix) if len(names) <= 13 else ():
        share = count / max(matrix[row].sum(), 1)
        axes.text(column, row, str(count), ha="center", va="center",
                  color="white" if share > 0.5 else "black")
    save_figure(figure, path, dpi=100)


def format_results(results: Sequence[ClassResult], class_names: Sequence[str],
                   coco: CocoResult | None = None) -> str:
    """Return a table by class, as text: AP, COCO's if given, counts, and the best F1 and where."""
    width = max(5, *map(len, class_names))
    rows = [[name, result.ap_area, result.ap_11_point,
             *([coco.figure("AP50:95", label)] if coco else []),
             result.num_objects, result.num_detections, *(best_f1(result) or (math.nan,) * 2)[:2]]
            for label, (name, result) in enumerate(zip(class_names, results))]
    titles = ["AP area", "AP 11pt", *(["AP50:95"] if coco else []), "objects", "found",
              "conf.", "best F1"]
    rows.append(["mean", mean_ap(results), mean_ap(results, "ap_11_point"),
                 *([coco.figure("AP50:95")] if coco else [])])
    return "\n".join([f"{'class':<{width}} {''.join(f'{title:>9}' for title in titles)}",
                      *(f"{name:<{width}} {''.join(map(_number, values))}"
                        for name, *values in rows)])


def _number(value):
    """Return a figure in 9 columns, a dash where it has no meaning."""
    if isinstance(value, int):
        return f"{value:>9}"
    return f"{'-':>9}" if math.isnan(value) else f"{value:>9.4f}"
