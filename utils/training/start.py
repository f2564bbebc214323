"""What a training run starts from: its lists, a new folder, or the last.pth to go on with."""

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from utils.checkpoint import Checkpoint, newest_checkpoint, parse_checkpoint, read_torch_file
from utils.cli import UserError, check_file, make_folder, resolve, shorten, typeable, typed_path
from utils.data.annotations import (Record, check_images, check_same_classes, read_class_names,
                                    read_list, read_records)


def create_run_folder(save_dir: str, run_name: str, settings_text: str, *, resume: bool) -> Path:
    """Make a new run's folder and its settings.txt; UserError if another run has that name."""
    folder = make_folder(save_dir) / (run_name or time.strftime("%Y-%m-%d_%H-%M-%S"))
    try:  # a run that left no checkpoint may begin again
        folder.mkdir(exist_ok=resume and not any(folder.glob("*.pth")))
    except OSError as error:
        raise UserError(f"{shorten(folder)}: cannot be made ({error.strerror}); choose another "
                        f"run_name, or go on with that run: --resume {typeable(folder)}") from None
    (folder / "settings.txt").write_text(settings_text + "\n", encoding="utf-8")
    return folder


def read_run(resume: str, *, save_dir: str, run_name: str
             ) -> tuple[Path | None, Checkpoint | None]:
    """Return the path and the contents of the last.pth to go on from; (None, None) for a new run.

    `resume` is "" for a new run, or the path of a last.pth or its folder. "last" is that of
    `run_name`, a new run where it has none; without a name, the newest under `save_dir`.
    """
    if resume == "last":
        path = (resolve(save_dir) / run_name / "last.pth" if run_name
                else newest_checkpoint(save_dir, "last.pth"))
        if path is None:
            raise UserError(f"resume: there is no last.pth under {save_dir}; leave resume out.")
    else:
        path = typed_path(resume) if resume else None
    if path is None or not path.exists():
        return None, None
    path = check_file(path / "last.pth" if path.is_dir() else path)
    checkpoint = parse_checkpoint(read_torch_file(path), path)
    if checkpoint is None or "basis" not in (checkpoint.run or {}):  # or of an older version
        raise UserError(f"{shorten(path)}: holds weights; only the last.pth of a run can go on; "
                        f"begin a new run from it: --model_path {typeable(path)}")
    return path, checkpoint


def merge_settings(given: dict[str, Any], saved: dict[str, Any], defaults: dict[str, Any],
                   may_change: Collection[str]) -> dict[str, Any]:
    """Return the settings that a run goes on with: its own, but those in `may_change` asked for.

    A setting is asked for where it is not its default. Raises UserError for others that differ.
    """
    unknown = saved.keys() - given.keys()
    if unknown:
        raise UserError(f"this train.py lacks settings of the run: {', '.join(unknown)}; begin a "
                        "new run from it with --model_path.")
    saved = defaults | saved
    asked = {name: value for name, value in given.items() if value != defaults[name]}
    clashes = [f"{name} {saved[name]!r} (now {value!r})" for name, value in asked.items()
               if name not in may_change and value != saved[name]]
    if clashes:
        raise UserError(f"the run began with {', '.join(clashes)}, and goes on with what it began "
                        "with; leave these settings out, or begin a new run with --model_path.")
    return saved | {name: value for name, value in asked.items() if name in may_change}


def read_lists(train_list: str, val_list: str, classes_path: str
               ) -> tuple[list[Record], list[Record], tuple[str, ...]]:
    """Return (train records, val records, class names) of lists that agree, else UserError.

    The val records are [] for a val_list of "" or without objects that count for mAP.
    """
    train_records, class_names = read_list(train_list)
    if classes_path:
        check_same_classes(read_class_names(classes_path), classes_path, class_names, train_list)
    val_records = read_records(val_list, class_names, train_list) if val_list else []
    if not any(len(record.labels) for record in train_records):
        raise UserError(f"{train_list}: no image has an object, so there is nothing to learn.")
    learnable = {label for record in train_records for label in record.labels}
    lacking = [name for label, name in enumerate(class_names) if label not in learnable]
    if lacking:
        print(f"warning: {train_list} has no object of {', '.join(lacking)}: nothing to learn")
    if val_records and all(record.difficult.all() for record in val_records):
        print("note: no val mAP, since no object of a val list counts; best.pth is the last epoch")
        val_records = []
    check_images(train_records, train_list)
    check_images(val_records, val_list)
    return train_records, val_records, class_names
