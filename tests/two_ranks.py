"""Scripts as torchrun starts them, on two ranks of this computer."""

import os
import subprocess
import sys


def run_on_two_ranks(*words, max_restarts=0, **variables):
    """Run a script with its flags; return the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         f"--max-restarts={max_restarts}", *map(str, words)], capture_output=True, text=True,
        timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"} | variables)


def words_of(flags):
    """Return settings as flags for the command line."""
    words = []
    for name, value in flags.items():
        words += [f"--{name}", *map(str, value)] if isinstance(value, tuple) else (
            [f"--{name}={value}"])
    return words
