"""The confidence that is stored with best.pth, from the results on val."""

from collections.abc import Sequence

import numpy as np

from utils.evaluation.voc_ap import ClassResult, at_confidence

PLATEAU = 0.99  # F1s from this share of the best on are as good, for all that is known
CONFIDENCES = np.arange(5, 96) / 100  # those that are of use


def best_confidence(results: Sequence[ClassResult]) -> float | None:
    """Return the confidence at which the mean F1 of the classes is best; None: nothing is found.

    Classes count alike, as in mAP: else a frequent class would hide the objects of a rare one. The
    very best confidence of a few objects is chance: the middle of those around it that are about as
    good is taken.
    """
    results = [result for result in results if result.num_objects]
    f1 = np.mean([[at_confidence(result, confidence)["f1"] for confidence in CONFIDENCES]
                  for result in results] or [[0.0]], axis=0)
    if not f1.any():
        return None
    best, worse = f1.argmax(), np.flatnonzero(f1 < PLATEAU * f1.max())
    low = worse[worse < best].max(initial=-1) + 1
    high = worse[worse > best].min(initial=len(f1)) - 1
    return round(float(CONFIDENCES[low] + CONFIDENCES[high]) / 2, 4)
