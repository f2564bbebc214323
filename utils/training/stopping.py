"""Ctrl-C and the signals that ask a training to end: it stops where nothing is lost."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from utils.cli import Stopped
from utils.data.loader import hear_deaths
from utils.distributed import world_size

# What Ctrl-C, a scheduler and a terminal that closes send; Windows has no SIGHUP.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")
           if hasattr(signal, name)]
NOTICE = b"\nstopping after this step; once more (Ctrl-C) stops at once\n"


class StopSignals:
    """Inside this context the first signal is noted, in `number`, and a second one raises Stopped.

    Signals that the process ignores (nohup, `&` in a script) stay ignored, and outside of the main
    thread, where Python allows no handlers, nothing changes.
    """

    def __init__(self):
        self.number, self.immediate, self.process = None, False, os.getpid()
        self.previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.getsignal(number) for number in SIGNALS}
            for number, handler in self.previous.items():
                if handler not in (signal.SIG_IGN, None):  # None: set by other than Python
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            if handler is not None:
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise Stopped where a signal has come."""
        if self.number:
            raise Stopped(self.number)

    def at_once(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, or leave it by Stopped as soon as a signal comes."""
        self.immediate = True
        try:
            self.check()
            return work()
        finally:
            self.immediate = False

    def _handle(self, number, frame):
        if os.getpid() != self.process:  # a worker that has just been forked
            if number != signal.SIGINT:
                os._exit(128 + number)
            return
        first, self.number = self.number is None, number
        # A scheduler may have sent it to the workers too; the step needs none of them any more.
        hear_deaths(lambda: lambda *_: None)
        if self.immediate or not first:
            raise Stopped(number)
        # torchrun sends SIGTERM when another process has ended, which says why.
        if number == signal.SIGINT and os.environ.get("RANK", "0") == "0" or world_size() == 1:
            with contextlib.suppress(OSError):  # not print: this may be in the midst of one
                os.write(2, NOTICE)
