"""What is said at the start and at the end of a run."""

from pathlib import Path

from utils.cli import shorten, typeable
from utils.distributed import world_size


def describe_start(folder: Path, table: str, where: str) -> str:
    """Return the settings in effect, where the run computes and where its results go."""
    processes = f" with {world_size()} processes" if world_size() > 1 else ""
    return f"settings:\n{table}\nrunning on {where}{processes}, results in {shorten(folder)}"


def describe_end(folder: Path, rows: list[dict], *, best: str, num_images: int) -> str:
    """Return what a user wants to know after the last epoch, and what to type next.

    `rows` are the history, `best` says which epoch best.pth is, `num_images` are those of an epoch.
    """
    training, rest = (sum(row[name] for row in rows) for name in ("train_seconds", "eval_seconds"))
    rate = len(rows) * num_images / max(training, 0.05)
    path = typeable(folder / "best.pth")
    return (f"trained: {len(rows)} epochs in {_clock(training + rest)}, {_clock(rest)} of it for "
            f"val mAP; {rate:.1f} images/s in training\n"
            f"best: {best}\n"
            f"weights: {shorten(folder / 'best.pth')}; last.pth, history and curves lie beside it\n"
            f"next: python get_map.py --model_path {path}\n"
            f"      python predict.py --model_path {path}")


def _clock(seconds):
    """Return a time as h:mm:ss."""
    seconds = round(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
