"""The page of a measurement: its answers, its curves, and the images behind the errors."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli import UserError
from utils.data.samples import choose_window, draw_window
from utils.evaluation.errors import KINDS
from utils.evaluation.measurement import Measurement, figure_text
from utils.evaluation.voc_ap import f1_score
from utils.image import load_image
from utils.page import Card, Curve, Panel, Section, image_uri, write_page

MAX_EXAMPLES, SIDE = 8, 480  # images of a kind of error, and the longer side of each
SHOWN_CURVES = 6  # at first: all classes as one and the weakest
CURVE_STEPS = 100  # of a curve's points
CLOSE_F1 = 0.95  # share of the best F1 that is as good
MAX_CONFUSIONS = 5  # most frequent ones that are named
DETECTED, MISSED, TRUE, NUM_COLOURS = 0, 1, 3, 6  # red, yellow, cyan: most eyes tell them apart
NEXT_STEPS = {
    "classification": ("Check the class labels", "Look at the images below for wrong labels. If "
                       "these are right, add images of the classes that are confused."),
    "localisation": ("Check how boxes are drawn", "Look at the images below for loose boxes. If "
                     "these are tight, fit the priors or enlarge input_shape."),
    "both": ("Look at the images below", "Both class and box are wrong: label more such objects."),
    "duplicate": ("Lower nms_iou", "One object has several boxes. Lower nms_iou in predict.py."),
    "background": ("Look for objects without a label", "If the boxes in the images below are "
                   "on nothing, add images of such backgrounds, without objects, to train."),
    "missed": ("Label more such objects", "Look at the objects below. If they are small, enlarge "
               "input_shape or set tile.")}


def write_report(path: Path, title: str, measurement: Measurement, values: dict[str, Any],
                 origin: str) -> None:
    """Write the page, with `as_values` of the measurement and the origin of the detections."""
    confidence = f"{values['all_classes']['at_confidence']['confidence']:g}"
    details = sorted((_error_examples(measurement, kind) for kind in KINDS),
                     key=lambda section: section.folded)
    write_page(path, title, origin, _cards(measurement, values), [
        Section("Classes", _class_rows(values), "Small are objects of up to 32 x 32 pixels of the "
                "image, medium up to 96 x 96. The best F1 is on these images.",
                groups=[("", 2), ("average precision (AP)", 6),
                        (f"at confidence {confidence}", 3), ("best F1", 2)]),
        Section("Curves", curves=_curves(measurement), panels=[
            Panel("Precision over recall", "recall", "precision"),
            Panel(f"F1 over confidence; dashed: {confidence}", "confidence", "F1",
                  float(confidence))]),
        Section("Errors", _error_rows(measurement, values), f"Above confidence {measurement.confidence:g}. "
                "The cost is what COCO's AP at IoU 0.5 would rise by if this kind alone were "
                "corrected, over all boxes (TIDE). Images: red is detected, cyan is true, yellow "
                "is missed.", details=details),
        Section("Confusion matrix", _confusion_rows(values), _confusion_text(values), shaded=True),
        Section("All figures", _figure_rows(values), folded=True)])


def _text(value):
    """Return a figure for the page: three decimals are more than small sets deserve."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _cards(measurement, values):
    total, costs = values["all_classes"], measurement.costs
    cards = [Card("How good is it?", f"mAP {_text(total['ap_area'])}",
                  f"{_found_text(measurement.pooled, total)} mAP is the mean AP of the classes at "
                  f"IoU {values['iou']:g}; 1 is perfect.")]
    rows = {name: row for name, row in values["classes"].items() if row["objects"]}
    if len(rows) > 1:
        name = min(rows, key=lambda name: rows[name]["ap_area"])
        result = measurement.results[measurement.class_names.index(name)]
        cards.append(Card("Which class is weakest?", f"{name}: AP {_text(rows[name]['ap_area'])}",
                          _found_text(result, rows[name])))
    kind = max(costs, key=costs.get)
    if not costs[kind] > 0:
        return [*cards, _confidence_card(values)]
    number = len(measurement.working_errors.rows_of(kind))
    step = NEXT_STEPS[kind]
    if not total["ap_area"] > 0.05:
        step = ("Train longer", "mAP is near 0. If boxes fit and classes do not, the order of the "
                "class names differs.")
    return [*cards, Card("Which error costs most?", f"{kind}: {_text(costs[kind])} AP",
                         f"{number} {KINDS[kind]}."),
            _confidence_card(values), Card("What to do next?", *step)]


def _found_text(result, row):
    confidence, _, _, recall = row["at_confidence"].values()
    boxes, found = int((result.scores > confidence).sum()), round((recall or 0) * result.num_objects)
    return (f"At confidence {confidence:g}, {found} of {result.num_objects} objects are found, and "
            f"{boxes - found} of {boxes} boxes are wrong.")


def _confidence_card(values):
    question, best = "Which confidence?", values["best_f1"]
    if not best:
        return Card(question, "-", "No box is right at any confidence.", "bad")
    used = values["all_classes"]["at_confidence"]
    if used["f1"] < CLOSE_F1 * best["f1"]:
        return Card(question, str(best["confidence"]), f"F1 is {_text(best['f1'])} there, and "
                    f"{_text(used['f1'])} at {used['confidence']:g}, the one in use.", "warn")
    return Card(question, f"{used['confidence']:g}", f"F1 is {_text(used['f1'])} at this one, which "
                f"is in use; the best here is {_text(best['f1'])} at {best['confidence']}.")


def _class_rows(values):
    rows = [["class", "objects", "area", "11-point", "50:95", "small", "medium", "large",
             "F1", "precision", "recall", "F1", "confidence"]]
    for name, row in [("all", values["all_classes"]), *values["classes"].items()]:
        objects, _, *figures, used, best = row.values()
        best = best or {"f1": None, "confidence": "-"}
        figures += [used["f1"], used["precision"], used["recall"], best["f1"]]
        rows.append([name, objects, *map(_text, figures), str(best["confidence"])])
    return rows


def _curves(measurement):
    """Return the curves of all classes as one, and of each class that has objects."""
    results = zip(measurement.class_names, measurement.results)
    results = [(name, result) for name, result in results if result.num_objects]
    weakest = sorted(result.ap_area for _, result in results)[:SHOWN_CURVES - 1]
    curves = []
    for name, result in [("all classes as one", measurement.pooled), *results]:
        f1 = f1_score(result.precision, result.recall)
        curves.append(Curve(name, not curves or result.ap_area <= weakest[-1], [
            _thin(result.recall, result.precision), _thin(result.scores[::-1], f1[::-1])]))
    return curves


def _thin(x, y):
    """Return (x, y) points of a curve at even steps of x, which rises."""
    if not len(x):
        return []
    rows = np.unique(np.searchsorted(x, np.linspace(x[0], x[-1], CURVE_STEPS)))
    return list(zip(x[rows].tolist(), y[rows].tolist()))


def _error_rows(measurement, values):
    rows = [[f"{kind}: {meaning}", len(measurement.working_errors.rows_of(kind)),
             _text(values["errors"][kind]["cost"])] for kind, meaning in KINDS.items()]
    return [["kind", "number", "cost"], *rows]


def _confusion_rows(values):
    *names, _ = values["confusion"]["true_by_found"]
    return [["true, by detected", *names, "missed"],
            *([name, *row] for name, row in zip([*names, "nothing"],
                                                values["confusion"]["matrix"]))]


def _confusion_text(values):
    """Name the most frequent confusions."""
    (_, *detected), *rows = _confusion_rows(values)
    cells = [(number, f"{other} on nothing" if name == "nothing" else f"{name} missed"
              if other == "missed" else f"{name} taken for {other}")
             for name, *numbers in rows for number, other in zip(numbers, detected)
             if number and name != other]
    cells = sorted(cells, key=lambda cell: -cell[0])[:MAX_CONFUSIONS]
    return ", ".join(f"{number} x {words}" for number, words in cells)


def _figure_rows(values):
    rows = {"figure": "value"}
    for iou, row in values["by_iou"].items():
        rows[f"mAP at IoU {iou}, area under the curve (VOC 2010 and later)"] = row["map_area"]
        rows[f"mAP at IoU {iou}, 11 points (VOC 2007)"] = row["map_11_point"]
    rows |= {f"COCO's {name}": value for name, value in values["coco"].items()}
    rows |= {f"{kind} errors of all detections": values["errors"][kind]["count"] for kind in KINDS}
    return [[name, figure_text(value)] for name, value in rows.items()]


def _error_examples(measurement, kind):
    """Return a Section of errors: of the highest scores, or the largest objects missed."""
    errors, costs = measurement.working_errors, measurement.costs
    rows, detections, objects = errors.rows_of(kind), *errors.assignment[:2]
    worth = objects.area if kind == "missed" else detections.scores
    images = []
    for row in rows[np.argsort(-worth[rows], kind="stable")][:MAX_EXAMPLES]:
        pair = (-1, row) if kind == "missed" else (row, errors.target[row])
        with contextlib.suppress(UserError):  # without this image the report has all figures
            images.append(_draw_example(measurement, *pair))
    return Section(f"{kind.capitalize()}: {len(rows)} {KINDS[kind]}", images=images,
                   folded=not images or costs[kind] < max(costs.values()))


def _draw_example(measurement, row, target):
    """Return (caption, data URI) of a detection and an object, by rows or -1, among the others."""
    detections, objects = measurement.working_errors.assignment[:2]
    names, words = measurement.class_names, []
    image = detections.image[row] if row >= 0 else objects.image[target]
    others = np.flatnonzero(objects.image == image)
    boxes = [*objects.boxes[others[others != target]]]
    colours = [TRUE] * len(boxes)
    if target >= 0:
        word, colour = ("true", TRUE) if row >= 0 else ("missed", MISSED)
        words.append(f"{word} {names[objects.labels[target]]}")
        boxes, colours = [*boxes, objects.boxes[target]], [*colours, colour]
    if row >= 0:
        words.append(f"detected {names[detections.labels[row]]} {detections.scores[row]:.2f}")
        boxes, colours = [*boxes, detections.boxes[row]], [*colours, DETECTED]
    path = measurement.records[image].path
    pixels = load_image(path)
    height, width = pixels.shape[:2]
    marked = np.array(boxes[-len(words):]).clip(0, (width, height, width, height))
    extent = np.concatenate([marked[:, :2].min(0), marked[:, 2:].max(0)])[None]
    window = choose_window(extent, width, height, zoom=2.2)
    thumbnail = draw_window(pixels, window, np.array(boxes), colours, [""] * len(boxes),
                            NUM_COLOURS, side=SIDE)
    return f"{', '.join(words)}\n{path.name}", image_uri(thumbnail)
