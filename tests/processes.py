"""Processes forked from one that has imported PyTorch, and ranks started by torchrun's agent."""

import os
import runpy
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

FORKED = get_context("forkserver" if os.name == "posix" else "spawn")
FORKED.set_forkserver_preload(["torchvision", "train", "get_map", "pytest"])


def run_on_two_ranks(script, *words, max_restarts=0, **variables):
    """Run a script with flags and environment variables as torchrun would, without its imports.

    Returns an object with the `returncode` and the `output` of both ranks and of the agent.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "output.txt")
        agent = FORKED.Process(target=_start_agent, args=(
            path, str(script), list(map(str, words)), max_restarts, variables))
        agent.start()
        agent.join(240)
        agent.kill()
        agent.join()
        return SimpleNamespace(returncode=agent.exitcode, output=path.read_text("utf-8"))


def _start_agent(path, script, words, max_restarts, variables):
    """Be torchrun: start two ranks, and start them again where one ends with an error."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    with open(path, "wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ.update(variables)
    config = LaunchConfig(1, 1, 2, run_id="tests", rdzv_backend="c10d", max_restarts=max_restarts,
                          rdzv_endpoint="localhost:0",
                          start_method="fork" if os.name == "posix" else "spawn")
    elastic_launch(config, _run_script)(script, words)


def _run_script(script, words):
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


def words_of(flags):
    """Return settings as flags for the command line."""
    words = []
    for name, value in flags.items():
        words += [f"--{name}", *map(str, value)] if isinstance(value, tuple) else (
            [f"--{name}={value}"])
    return words
