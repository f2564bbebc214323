"""A worker killed on one of two machines costs a training under torchrun no bit.

    python -m benchmarks.nodes

Two torchrun agents on this machine stand for two machines (--nnodes=2, by 127.0.0.1). They train
on a small drawn data set without a break, then again with a worker killed by SIGKILL in mid-run,
once beside rank 0 and once rank 0 itself: torchrun starts all again, and last.pth, best.pth and
history.csv must come out the same. Exit status 1 where a bit differs.
"""

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kill import compare, describe, prepare
from utils.cli import UserError, run


@dataclass(frozen=True)
class NodesSettings:
    """How often, and what is trained."""

    # Trainings with a kill; the first kills rank 1, the next rank 0, and so on.
    kills: int = 2
    # Of the moments.
    seed: int = 0
    images: int = 40
    epochs: int = 4
    save_steps: int = 2
    num_workers: int = 1


def main(settings):
    """Train the reference, kill, compare; exit status 1 where a bit differs."""
    rng, faults = random.Random(settings.seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = prepare(folder, settings)[1:]
        script = script[:script.index("--resume")] + script[script.index("--run_name"):]
        start = time.monotonic()
        train_on_two(script, None, 0)
        print(f"the reference took {time.monotonic() - start:.0f} s", flush=True)
        (folder / "run").rename(folder / "reference")
        for kill in range(settings.kills):
            victim = 1 - kill % 2
            epoch, delay = rng.randrange(settings.epochs - 1), rng.uniform(0, 2)
            place = train_on_two(script, victim, delay, f"epoch {epoch + 1}/", folder / "run")
            found = compare(folder / "reference", folder / "run")
            print(f"rank {victim} killed {delay:.1f} s after epoch {epoch + 1}, {place}: "
                  f"{found or 'the same bits as the reference'}", flush=True)
            faults += found
            (folder / "run").rename(folder / f"run-{kill}")
    print(f"{settings.kills} kills on two nodes, {'DIFFERENT' if faults else 'no bit differs'}")
    sys.exit(1 if faults else 0)


def train_on_two(script, victim, delay, line="", folder=None):
    """Train with two agents; kill a rank so many seconds after a line. Return what it left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
               "--max_restarts=1", "--master_addr=127.0.0.1", f"--master_port={port}"]
    agents = [subprocess.Popen([*command, f"--node_rank={k}", *script], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env=os.environ | {"OMP_NUM_THREADS": "1"}) for k in range(2)]
    output, place = "", ""
    if victim is not None:
        while line not in output and agents[0].poll() is None:
            output += agents[0].stdout.readline()
        time.sleep(delay)
        subprocess.run(["pkill", "-KILL", "-P", str(agents[victim].pid)], check=True)
        place = describe(folder)
    for agent in agents:
        text = agent.communicate()[0]
        if agent.returncode:
            raise UserError(f"a training failed:\n{output}{text}")
        output += text
    if victim is not None and "this goes on with the run in" not in output:
        raise UserError(f"nothing was started again:\n{output}")
    return place


if __name__ == "__main__":
    run(main, NodesSettings)
