"""What to make of a measurement: which confidence to look at images with, and why mAP is low."""

from collections.abc import Sequence

import numpy as np

from utils.evaluation.assignment import Assignment, best_overlaps
from utils.evaluation.voc_ap import ClassResult, best_f1, mean_ap

LOW = 0.05  # a mAP that needs an explanation
FITS = 0.5  # IoU


def advise(assignment: Assignment, results: Sequence[ClassResult], pooled: ClassResult,
           class_names: Sequence[str]) -> list[str]:
    """Return the lines to print under the figures of VOC at IoU 0.5.

    `pooled` is the result of all classes taken as one.
    """
    names = {"are not in the mean, for want of objects":
             [name for name, result in zip(class_names, results) if not result.num_objects],
             "were never detected":
             [name for name, result in zip(class_names, results)
              if result.num_objects and not result.num_detections]}
    lines = [f"{len(some)} of {len(class_names)} classes {what}: {_some(some)}"
             for what, some in names.items() if some]
    if not mean_ap(results) > LOW:
        lines.append(_explain(assignment, pooled.num_objects, class_names))
    best = best_f1(pooled)
    if best:
        lines.append(f"best F1 of all classes together: {best.f1:.4f} at confidence "
                     f"{best.confidence:.3f} (precision {best.precision:.4f}, recall "
                     f"{best.recall:.4f});\n  for predict.py: --confidence {best.confidence:.3f}")
    return lines


def _explain(assignment, total, class_names):
    """Return a text that says why mAP is near 0 for a total of objects, and what to look at."""
    found, objects = assignment.found, assignment.objects
    if not total:
        return "there is no mAP: the list has no objects that count"
    if not len(found.scores):
        return (f"mAP is 0: nothing was found of {total} objects; has the training gone on long "
                "enough?")
    iou, target = best_overlaps(found, objects, any_class=True)
    text = (f"why mAP is near 0: {len(found.scores)} detections in {len(np.unique(found.image))} "
            f"images, {total} objects in {len(np.unique(objects.image))}; best score "
            f"{found.scores.max():.3f}; best IoU {assignment.best_iou.max():.3f} with an object of "
            f"the class, {iou.max():.3f} with any\n  ")
    fits = iou >= FITS
    touched = len(np.unique(target[fits]))
    if touched * 10 < total:
        return text + (f"the boxes fit {touched} objects: has the training gone on long enough? "
                       "Published weights may need another weights_family; a file of detections "
                       "may be of other images or in other units")
    if (assignment.best_iou >= FITS).sum() * 2 < fits.sum():
        pairs, counts = np.unique(np.stack([found.labels[fits], objects.labels[target[fits]]]),
                                  axis=1, return_counts=True)
        rows = [(class_names[pairs[0, k]], class_names[pairs[1, k]], counts[k])
                for k in np.argsort(-counts)]
        mixed = [f"{ours} on {theirs} ({count} times)" for ours, theirs, count in rows
                 if ours != theirs]
        return text + ("the boxes fit, the names do not: are the classes those of the training, in "
                       f"its order? {_some(mixed)}")
    return text + "boxes and names fit, but wrong detections score higher: train longer"


def _some(names):
    """Return the first of many names."""
    return ", ".join(names[:6]) + ", ..." * (len(names) > 6)
