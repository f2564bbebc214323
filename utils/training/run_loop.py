"""The epochs of a run: trained, saved, measured, until the last one or a signal to stop."""

import signal
from collections.abc import Callable

from utils.checkpoint import Checkpoint
from utils.cli import Stopped, shorten, typeable
from utils.distributed import launcher, share, sum_floats
from utils.training.history import describe_epoch, has_stalled
from utils.training.run_folder import RunFolder
from utils.training.run_state import restoring
from utils.training.stopping import StopSignals
from utils.training.trainer import Leaving, Trainer


def restore(trainer: Trainer, results: RunFolder, saved: Checkpoint, machine: dict, *,
            early_stopping: int = 0) -> None:
    """Bring a new run to where a last.pth stands, and say where that is.

    `early_stopping` is the patience of `has_stalled`; `machine` is {name: value} of what the last
    bits may depend on, as in saved.run["machine"].
    """
    place = shorten(results.path / "last.pth")
    with restoring(place):
        trainer.load_state_dict(saved.run)
        results.load_state_dict(saved)
        before = saved.run["machine"]
        changes = [f"{name} {before[name]!r:.40} -> {value!r}"
                   for name, value in machine.items() if before[name] != value]
    if changes:
        print(f"note: {', '.join(changes)}: the last bits may differ from those of one run")
    if results.row:
        print(f"going on after epoch {trainer.epoch}")
    elif has_stalled(results.history, early_stopping):
        print(f"{place}: early stopping has ended this run; to go on all the same:\n"
              f"{launcher()} train.py --resume {typeable(place)} --early_stopping 0")
    elif trainer.epoch < trainer.schedule.epochs:
        print(f"going on at step {trainer.done + 1} of epoch {trainer.epoch + 1}")
    else:
        print(f"{place}: all {trainer.epoch} epochs are done. To train on, begin a new run, with "
              f"a learning rate of its own:\npython train.py --model_path {typeable(place)}")


def run_epochs(trainer: Trainer, results: RunFolder, make_checkpoint: Callable[[], Checkpoint],
               measure: Callable[[], float | None] | None, *, show: Callable[..., None],
               eval_period: int, save_steps: int, early_stopping: int,
               memory_advice: tuple[str, str]) -> None:
    """Train, save and measure epoch by epoch, from where `trainer` and `results` stand.

    `measure` returns val mAP, every eval_period epochs and after the last; save_steps are the
    steps between saves within an epoch, 0 for none; `early_stopping` is the patience of
    `has_stalled`. `show` gets each epoch's row and `last`. `memory_advice` are the words said where
    memory runs out, and the flags that go on with less. Raises Stopped after a signal, with
    last.pth saved.
    """
    epochs = trainer.schedule.epochs
    with results.saying_how_to_go_on(*memory_advice), StopSignals() as stop:
        def fetch(work):
            try:
                return stop.at_once(work)
            except Stopped:
                return None  # the other ranks hear of it in the step that is not done

        def score():
            if sum_floats([stop.number is not None])[0]:
                raise Stopped(stop.number or signal.SIGTERM)
            return stop.at_once(measure)

        def after_step():
            if save_steps and trainer.done % save_steps == 0:
                results.save_last(make_checkpoint())

        over = trainer.epoch == epochs or has_stalled(results.history, early_stopping)
        while results.row or not over:
            # A row is there at the start where the run ended before that epoch was measured.
            try:
                row = results.row or trainer.train_epoch(fetch=fetch, after_step=after_step)
            except Leaving:
                results.save_last(make_checkpoint())
                share(None)  # nobody says so before it is saved
                raise Stopped(stop.number or signal.SIGTERM) from None
            results.save_epoch(make_checkpoint(), row)
            due = trainer.epoch == epochs or eval_period and trainer.epoch % eval_period == 0
            row = results.finish_epoch(score if due and measure else None)
            print(describe_epoch(row, epochs, results.best_map))
            over = trainer.epoch == epochs or has_stalled(results.history, early_stopping)
            show(row, last=over)
            if over:  # so that last.pth is known to be measured
                results.save_last(make_checkpoint())
        if trainer.epoch < epochs:
            print(f"early stopping after epoch {trainer.epoch} of {epochs}: no better val mAP in "
                  f"the last {early_stopping} measurements")
