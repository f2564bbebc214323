"""Load on examples/serve.py: requests a second, their times, and the memory of the server.

    python -m benchmarks.serving --model detector.onnx --image a.jpg
"""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from utils.cli import ROOT, run

ADDRESS = "http://127.0.0.1:8765"


@dataclass(frozen=True)
class LoadSettings:
    """What is served, and how often it is asked for."""

    model: str = "detector.onnx"
    image: str = "img/demo.jpg"
    clients: int = 8
    requests: int = 5000
    turns: int = 3  # of so many requests; the first warms up


def main(settings: LoadSettings) -> None:
    """Start the server, and print a line for each turn."""
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "serve:app", "--app-dir", str(ROOT / "examples"),
         "--port", "8765", "--log-level", "warning"],
        env=os.environ | {"SSD_MODEL": settings.model})
    try:
        while server.poll() is None:
            try:
                print(httpx.get(f"{ADDRESS}/health").json())
                break
            except httpx.ConnectError:
                time.sleep(0.2)
        for _ in range(settings.turns):
            measure(settings, server.pid)
    finally:
        server.terminate()


def measure(settings: LoadSettings, pid: int) -> None:
    """Send the requests of all clients; print figures."""
    image = Path(settings.image).read_bytes()

    def ask(_):
        times = []
        with httpx.Client(timeout=60) as client:
            for _ in range(settings.requests // settings.clients):
                start = time.perf_counter()
                client.post(f"{ADDRESS}/detect", files={"image": image}).raise_for_status()
                times.append(time.perf_counter() - start)
        return times

    start = time.perf_counter()
    with ThreadPoolExecutor(settings.clients) as pool:
        times = 1000 * np.concatenate([*pool.map(ask, range(settings.clients))])
    seconds = time.perf_counter() - start
    memory = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024
    print(f"{len(times)} requests: {len(times) / seconds:.1f} a second, "
          f"p50 {np.percentile(times, 50):.0f} ms, p95 {np.percentile(times, 95):.0f} ms, "
          f"server {memory:.0f} MB", flush=True)


if __name__ == "__main__":
    run(main, LoadSettings)
