"""Names of published weights."""

import numpy as np

from nets.weights.families import PUBLISHED_NAMES, names_without_gaps, without_gaps
from utils.checkpoint import Checkpoint, parse_checkpoint
from utils.detections import Detections
from utils.multibox.spec import SSDSpec

COCO = PUBLISHED_NAMES[90]


def test_names_of_cocos_90_numbers_fit_a_checkpoint():
    """Each only once, those of no class too."""
    values = Checkpoint(SSDSpec(), COCO, {}, {}, {})._asdict()
    values |= {"format": "ssd-checkpoint-1", "spec": SSDSpec().to_dict()}
    assert parse_checkpoint(values, "x.pth").class_names == COCO
    assert (COCO[0], COCO[11], COCO[12], COCO[89]) == (
        "person", "N/A 12", "stop sign", "toothbrush")


def test_detections_of_90_numbers_become_those_of_80_classes():
    labels = np.array([0, 11, 12, 89])
    found = Detections(np.arange(16.0).reshape(4, 4), np.linspace(0.9, 0.1, 4), labels, COCO)
    kept = without_gaps(found)
    assert kept.names == ["person", "stop sign", "toothbrush"]
    assert kept.labels.tolist() == [0, 11, 79] and kept.class_names == PUBLISHED_NAMES[80]
    assert kept.boxes.tolist() == found.boxes[[0, 2, 3]].tolist()
    own = Detections(found.boxes[:1], found.scores[:1], labels[:1], ("N/A 1", "cat"))
    assert without_gaps(own) is own and names_without_gaps(["a"]) == ("a",)
