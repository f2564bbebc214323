"""Detections of lists; val mAP for a training: a bad image costs a figure, not the run."""

from pathlib import Path
from typing import Any

from utils.checkpoint import parse_checkpoint, read_torch_file
from utils.cli import UserError
from utils.data.annotations import Record
from utils.distributed import on_first
from utils.evaluation.map_report import format_results
from utils.evaluation.voc_ap import mean_ap


def val_map(scorer: Any, records: list[Record]) -> float | None:
    """Return the mAP@0.5 (area) of an SSD, or None, with a line, where an image went bad."""
    try:
        return mean_ap(scorer.evaluate(records)[0])
    except UserError as error:
        print(f"note: no val mAP this time: {error}")
        return None


def score_best(scorer: Any, records: list[Record], path: Path) -> str:
    """Load a best.pth into the network of an SSD, print its AP by class, return the mean as text.

    "" and a line where the file or an image cannot be read.
    """
    try:
        checkpoint = on_first(lambda: parse_checkpoint(read_torch_file(path), path))
        scorer.network.load_state_dict(checkpoint.state_dict)
        results = scorer.evaluate(records)[0]
    except UserError as error:
        print(f"note: no AP by class: {error}")
        return ""
    print(f"val AP by class of best.pth, in {scorer.precision}:\n"
          f"{format_results(results, scorer.class_names)}")
    return f"; scored once more in {scorer.precision}: {mean_ap(results):.4f}"
