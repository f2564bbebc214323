"""Spoil files and settings from a seed until the project errs: python tests/fuzz.py --minutes 10

A case is made from (seed, kind, number) alone. It passes where the project refuses it with a
UserError, names the trouble, or reads what the files say; the docstring of each kind says how that
is told. The run stops at the first traceback, hang, crash, or damaged file taken without a word,
keeps the case's files and prints the command that replays it. Cases run in child processes, so
that a hang or a crash is caught. Not collected by pytest; see `make fuzz`.
"""

import argparse
import contextlib
import faulthandler
import io
import itertools
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 20
START_SECONDS = 120  # for a child to import and make its sound files
SLICE_SECONDS = 60
MEMORY_BYTES = 6 << 30  # beside what the libraries map
KIND_NAMES = ("voc", "splits", "coco", "csv", "yolo", "lists", "classes", "images", "detect",
              "checkpoints", "families", "backbones", "npz", "h5", "settings", "edits")


def main():
    """Fuzz, or replay one case."""
    options = parse_options()
    if options.child:
        return run_child(options)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.case:
        seed, kind, number = options.case.split(":")
        options.seed, options.numbers, options.keep_going = int(seed), {kind: int(number)}, False
        failures = Run(options).slice(kind, seconds=0)
    else:
        failures = fuzz(options)
    return 1 if failures else 0


def parse_options():
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="in all; 10 if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(KIND_NAMES), help="kinds, with commas between")
    parser.add_argument("--skip", default="", help="kinds to leave out, with commas between")
    parser.add_argument("--case", metavar="SEED:KIND:NUMBER", help="replay one case")
    parser.add_argument("--keep-going", action="store_true",
                        help="collect distinct failures instead of stopping at the first")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ssd_fuzz",
                        help="where failing cases are kept")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = {*options.only.split(","), *options.skip.split(",")} - {*KIND_NAMES, ""}
    if unknown:
        parser.error(f"unknown kinds {sorted(unknown)}; there are {', '.join(KIND_NAMES)}")
    options.numbers = {}
    return options


def fuzz(options):
    """Give every kind its turns until the time is over; print counts; return the failures."""
    kinds = [kind for kind in options.only.split(",") if kind not in options.skip.split(",")]
    end = time.monotonic() + 60 * options.minutes
    seconds = min(SLICE_SECONDS, 60 * options.minutes / len(kinds))
    run = Run(options)
    for turn in itertools.count():
        for kind in kinds:
            left = end - time.monotonic()
            if turn and left <= 0:
                break
            if run.slice(kind, min(seconds, left) if turn else seconds) and not options.keep_going:
                return run.failures
        if time.monotonic() >= end:
            break
    print(f"\nseed {options.seed}, {options.minutes:g} minutes")
    for kind in kinds:
        results = ", ".join(f"{count} {name}" for name, count in run.counts[kind].most_common())
        print(f"  {kind:<12} {run.numbers.get(kind, 0):>7} cases: {results}")
    print(f"{len(run.failures)} distinct failures" if run.failures else "no failures")
    return run.failures


class Run:
    """What the parent process knows: how far each kind is, and what was found."""

    def __init__(self, options):
        self.options, self.numbers = options, dict(options.numbers)
        self.counts = {kind: Counter() for kind in KIND_NAMES}
        self.failures = {}

    def slice(self, kind, seconds):
        """Run cases of a kind for some seconds, 0 for a single one; return all failures."""
        end = time.monotonic() + seconds
        while True:
            start, before = self.numbers.get(kind, 0), len(self.failures)
            self._child(kind, start, max(0.0, end - time.monotonic()))
            stopped = len(self.failures) > before and not self.options.keep_going
            if stopped or time.monotonic() >= end or self.numbers[kind] == start:
                return self.failures

    def _child(self, kind, start, seconds):
        """Run one child until it ends, hangs or dies."""
        place = self.options.folder / f"work_{os.getpid()}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        command = [sys.executable, __file__, "--child", kind, str(start), str(seconds),
                   "--seed", str(self.options.seed), "--folder", str(place)]
        command += ["--keep-going"] * self.options.keep_going
        messages, at, done = queue.Queue(), None, False
        with open(place / "stderr.txt", "wb") as log:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=ROOT,
                                     env=os.environ | {"OMP_NUM_THREADS": "1"})
        threading.Thread(target=self._listen, args=(child.stdout, messages), daemon=True).start()
        while True:
            try:
                message = messages.get(timeout=2 * LIMIT_SECONDS if at is not None
                                       else START_SECONDS)
            except queue.Empty:
                child.kill()
                continue
            if message is None:
                break
            at = message.get("at", at)
            done = done or "done" in message
            if "at" in message:
                self.numbers[kind] = at + 1
            elif "failure" in message:
                self._failed(kind, at, message["failure"], message["text"],
                             place / f"failed_{at}")
            elif "counts" in message:
                self.counts[kind].update(message["counts"])
        code = child.wait()
        if not done:
            self._died(kind, at, code, place)
        shutil.rmtree(place, ignore_errors=True)

    def _listen(self, pipe, messages):
        for line in pipe:
            messages.put(json.loads(line))
        messages.put(None)

    def _died(self, kind, at, code, place):
        """Note the hang or crash of a child."""
        log = (place / "stderr.txt").read_text(errors="replace")[-4000:]
        if at is None:
            sys.exit(f"{kind}: the child died before its first case (status {code})\n{log}")
        what = "hang" if "Timeout (" in log or code == -9 else f"crash (status {code})"
        frames = re.findall(rf'File "{re.escape(str(ROOT))}/([^"]+)", line (\d+)', log)
        frames = [frame for frame in frames if not frame[0].startswith(("tests", ".venv"))]
        where = ":".join(frames[0]) if frames else "outside the project's Python"
        self.counts[kind][what] += 1
        self._failed(kind, at, f"{what} in {where}", log, place / "case")

    def _failed(self, kind, at, key, text, files):
        """Print a failure that is new, and keep its files."""
        if (kind, key) in self.failures:
            return
        self.failures[kind, key] = at
        seed = self.options.seed
        kept = self.options.folder / f"{seed}_{kind}_{at}"
        shutil.rmtree(kept, ignore_errors=True)
        if files.exists():
            shutil.move(files, kept)
        print(f"\n{kind}, seed {seed}, case {at}: {key}\n{text.rstrip()[-3000:]}\n"
              f"files: {kept}\nreplay: python tests/fuzz.py --case {seed}:{kind}:{at}", flush=True)


# ---- In the child ----


def run_child(options):
    """Make and check cases of a kind from a number on; tell the parent line by line."""
    name, start, seconds = options.child[0], int(options.child[1]), float(options.child[2])
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints past Python goes into the log

    def tell(**message):
        channel.write(json.dumps(message) + "\n")
        channel.flush()
    faulthandler.enable()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    kind = load_kind(name, options.folder)
    limit_memory()
    end, number, counts, known = time.monotonic() + seconds, start, Counter(), set()
    while True:
        tell(at=number)
        failure = run_case(kind, options.seed, number, options.folder / "case")
        counts[failure[0] if len(failure) == 1 else "failed"] += 1
        if len(failure) == 2 and failure[0] not in known:
            known.add(failure[0])
            shutil.move(options.folder / "case", options.folder / f"failed_{number}")
            tell(failure=failure[0], text=failure[1])
        number += 1
        if time.monotonic() >= end or (len(failure) == 2 and not options.keep_going):
            break
    tell(counts=counts, done=True)
    return 0


def load_kind(name, folder):
    """Return a kind ready for its cases; its sound files must pass before any is spoilt."""
    import fuzz_data
    import fuzz_weights
    import torch
    torch.set_num_threads(1)
    fuzz_data.be_quick()
    kind = {kind.name: kind for kind in fuzz_data.KINDS + fuzz_weights.KINDS}[name]()
    with contextlib.redirect_stdout(io.StringIO()):
        if hasattr(kind, "prepare"):
            (folder / "sound").mkdir()
            kind.prepare(folder / "sound")
        outcome = check_case(kind, kind.sound(), folder / "case")
    if outcome != "accepted":
        sys.exit(f"the sound files of {name} are {outcome}: the fuzzer must be mended first")
    return kind


def run_case(kind, seed, number, folder):
    """Return (outcome,) of a case that passes, or (what failed in a line, details)."""
    import fuzz_data
    import fuzz_files
    case = kind.make(fuzz_files.generator(seed, kind.name, number))
    faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
    try:
        # As a terminal that takes UTF-8: what cannot be printed fails here too.
        with io.TextIOWrapper(io.BytesIO(), encoding="utf-8") as out, \
                contextlib.redirect_stdout(out):
            return (check_case(kind, case, folder),)
    except fuzz_data.Silent as error:
        what, *details = error.args
        return f"silent: {what}", f"{case.note[:500]}\n{' '.join(details)[:1500]}"
    except BaseException as error:  # the very thing looked for
        return describe(error), f"{case.note[:500]}\n{traceback.format_exc()}"
    finally:
        faulthandler.cancel_dump_traceback_later()


def check_case(kind, case, folder):
    """Write the files of a case into a fresh folder and check them."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, data in case.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    folder.mkdir(exist_ok=True)
    return kind.check(folder, case)


def describe(error):
    """Return the type of an exception and the innermost line of the project."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if frame.filename.startswith(str(ROOT))
              and not frame.filename.startswith((str(ROOT / "tests"), str(ROOT / ".venv")))]
    where = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} in {where}"


def limit_memory():
    """Let an allocation beyond all reason fail instead of taking the machine down."""
    try:
        import resource
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):  # Windows, macOS
        return
    mapped = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, resource.RLIM_INFINITY))


if __name__ == "__main__":
    sys.exit(main())
