"""The page of a measurement: its answers, its curves, and the images behind the errors."""

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli import UserError
from utils.data.samples import DETECTED, MISSED, TRUE, draw_marked
from utils.evaluation.errors import KINDS
from utils.evaluation.measurement import Measurement, figure_text, format_measurement
from utils.evaluation.voc_ap import f1_score
from utils.image import load_image
from utils.page import Card, Section, image_uri, write_page

MAX_EXAMPLES = 8  # images of a kind of error
SHOWN_CURVES = 6  # at first: all classes as one and the weakest
CURVE_STEPS = 100  # of a curve's points
CLOSE_F1 = 0.95  # share of the best F1 that is as good
_text = partial(figure_text, decimals=3)  # more is chance in small sets
NEXT_STEPS = {
    "classification": ("Check the class labels", "If they are right, add images of these classes."),
    "localisation": ("Check how tight boxes are", "If they are, fit the priors to your objects."),
    "both": ("Label more of these", "Neither class nor box is right; see the images below."),
    "duplicate": ("Lower nms_iou", "One object has several boxes; predict.py drops more with it."),
    "background": ("Look for missing labels", "If none is missing, add images without objects."),
    "missed": ("Label more of these", "If they are small, enlarge input_shape or set tile.")}


def write_report(path: Path, title: str, measurement: Measurement, values: dict[str, Any],
                 origin: str) -> None:
    """Write the page, with `as_values` of the measurement and the origin of the detections."""
    confidence = measurement.confidence
    kinds = sorted(KINDS, key=measurement.costs.get, reverse=True)
    write_page(path, title, origin, _cards(measurement, values), [
        Section("Classes", _class_rows(values), "AP (average precision) is the area under the "
                "curve of precision (boxes that are right) over recall (objects that are found). "
                "Small are objects of up to 32 x 32 pixels of the image, medium up to 96 x 96.",
                groups=[("", 2), ("average precision (AP)", 6),
                        (f"at confidence {confidence:g}", 3), ("best F1", 2)]),
        Section("Curves", curves=_curves(measurement), panels=[
            ("Precision over recall", "recall", "precision", None),
            (f"F1 over confidence; dashed: {confidence:g}", "confidence", "F1", confidence)]),
        Section("Errors", text="Each wrong box has one kind, with the AP to gain if that kind "
                "alone were corrected (TIDE). An object with a wrong box on it is not missed. "
                f"Above confidence {confidence:g}: red is detected, cyan true, yellow missed.",
                details=[_error_examples(measurement, kind, kind != kinds[0]) for kind in kinds]),
        _confusion_section(values),
        Section("All figures", code=format_measurement(measurement), folded=True)])


def _cards(measurement, values):
    confidence, costs = measurement.confidence, measurement.costs
    results, map_area = _weakest_first(measurement), values["map_area"]
    used = values["all_classes"]["at_confidence"]
    cards = [Card("How good is it?", f"{_percent(used['recall'])} found, "
                  f"{_percent(used['precision'])} of the boxes right",
                  f"{_found_text(measurement.pooled, confidence)} mAP is {_text(map_area)}: the "
                  f"mean AP of the classes at IoU {values['iou']:g}; 1 is perfect.")]
    if len(results) > 1:
        name, result = results[0]
        cards.append(Card("Which class is weakest?", f"{name}: AP {_text(result.ap_area)}",
                          _found_text(result, confidence)))
    kind = max(costs, key=costs.get)
    step = ("Try it on new images", "No kind of error costs AP on these.")
    if costs[kind] > 0:
        step = NEXT_STEPS[kind]
        cards.append(Card("Which error costs most?", f"{kind}: {_text(costs[kind])} AP",
                          f"{len(measurement.working_errors.rows_of(kind))} {KINDS[kind]}."))
    if not map_area or map_area < 0.05:
        step = ("Train longer", "mAP is near 0. If boxes fit and classes do not, the order of the "
                "class names differs.")
    return [*cards, _confidence_card(values), Card("What to do next?", *step)]


def _weakest_first(measurement):
    """Return (name, result) of the classes that have objects."""
    results = zip(measurement.class_names, measurement.results)
    return sorted((pair for pair in results if pair[1].num_objects),
                  key=lambda pair: pair[1].ap_area)


def _found_text(result, confidence):
    boxes = int((result.scores > confidence).sum())
    found = round(result.recall[:boxes].max(initial=0) * result.num_objects)
    return (f"At confidence {confidence:g}, {found} of {result.num_objects} objects are found, and "
            f"{boxes - found} of {boxes} boxes are wrong.")


def _confidence_card(values):
    question, best = "Which confidence?", values["best_f1"]
    if not best:
        return Card(question, "-", "No box is right at any confidence.", "bad")
    used = values["all_classes"]["at_confidence"]
    advised, tone = (used, "") if used["f1"] >= CLOSE_F1 * best["f1"] else (best, "warn")
    points = [f"at {point['confidence']:.2g}, {_percent(point['recall'])} of objects are found, "
              f"and {_percent(point['precision'])} of the boxes right" for point in (used, best)]
    more = "" if best == used else f" Best F1 on these images: {points[1]}."
    return Card(question, f"{advised['confidence']:.2g}", f"In use: {points[0]}.{more}", tone)


def _percent(share):
    return "-" if share is None else f"{share:.0%}"


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
    curves = []
    for name, result in [("all as one", measurement.pooled), *_weakest_first(measurement)]:
        f1 = f1_score(result.precision, result.recall)
        curves.append((name, len(curves) < SHOWN_CURVES, [
            _thin(result.recall, result.precision), _thin(result.scores[::-1], f1[::-1])]))
    return curves


def _thin(x, y):
    """Return (x, y) points of a curve at even steps of x, which rises."""
    if not len(x):
        return []
    rows = np.unique(np.searchsorted(x, np.linspace(x[0], x[-1], CURVE_STEPS)))
    return list(zip(x[rows].tolist(), y[rows].tolist()))


def _confusion_section(values):
    """Return the confusion matrix, and the most frequent confusions by name."""
    *names, _ = values["confusion"]["true_by_found"]
    rows, cells = list(zip([*names, "nothing"], values["confusion"]["matrix"])), []
    for name, numbers in rows:
        for other, number in zip([*names, "missed"], numbers):
            words = (f"{other} on nothing" if name == "nothing" else
                     f"{name} missed" if other == "missed" else f"{name} taken for {other}")
            if number and name != other:
                cells.append((number, words))
    text = ", ".join(f"{number} x {words}" for number, words in sorted(cells, reverse=True)[:5])
    return Section("Confusion matrix", [["true (rows), as detected", *names, "missed"],
                                        *([name, *numbers] for name, numbers in rows)], text,
                   shaded=True)


def _error_examples(measurement, kind, folded):
    """Return a Section of errors: of the highest scores, or the largest objects missed."""
    errors, cost = measurement.working_errors, _text(measurement.costs[kind])
    rows, detections, objects = errors.rows_of(kind), *errors.assignment[:2]
    worth = objects.area if kind == "missed" else detections.scores
    images = []
    for row in rows[np.argsort(-worth[rows], kind="stable")][:MAX_EXAMPLES]:
        pair = (-1, row) if kind == "missed" else (row, errors.target[row])
        with contextlib.suppress(UserError):  # without this image the report has all figures
            images.append(_draw_example(measurement, *pair))
    return Section(f"{kind}, {cost} AP: {len(rows)} {KINDS[kind]}", images=images, folded=folded)


def _draw_example(measurement, row, target):
    """Return (caption, data URI) of a detection and an object, by rows or -1, among the others."""
    detections, objects = measurement.working_errors.assignment[:2]
    names, marked = measurement.class_names, []
    image = detections.image[row] if row >= 0 else objects.image[target]
    if target >= 0:
        word, colour = ("true", TRUE) if row >= 0 else ("missed", MISSED)
        marked.append((f"{word} {names[objects.labels[target]]}", objects.boxes[target], colour))
    if row >= 0:
        marked.append((f"detected {names[detections.labels[row]]} {detections.scores[row]:.2f}",
                       detections.boxes[row], DETECTED))
    words, boxes, colours = zip(*marked)
    path = measurement.records[image].path
    return f"{', '.join(words)}\n{path.name}", image_uri(draw_marked(
        load_image(path), np.array(boxes), colours, objects.boxes[objects.image == image]))
