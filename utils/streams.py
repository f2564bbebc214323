"""Standard streams and Ctrl-C of the scripts, from their first import on."""

import contextlib
import errno
import io
import os
import signal
import sys
import threading

# The files that people start, in the folder above this one.
SCRIPTS = ("voc_annotation.py", "train.py", "get_map.py", "predict.py")


def is_second(number: str = "RANK") -> bool:
    """Tell whether torchrun started this process beside one that does all the talking.

    "RANK" is its number among all, "LOCAL_RANK" that on this machine.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get(number, "0") != "0"


class Outlet(io.RawIOBase):
    """Standard output or error that never fails: what cannot be written is dropped.

    Results lie in files, and lines on the screen only speak of them. So a reader that leaves
    (`| head`, a pager) or a full disk does not end a training in mid-epoch: it is told once on
    stderr, and the work goes on.
    """

    def __init__(self, raw: io.RawIOBase):
        self.raw = raw
        self.lost = None  # or "reader", "file", "second": it is another process that talks
        self.process = os.getpid()  # workers do not say it again

    def writable(self):
        return True

    def fileno(self):
        return self.raw.fileno()

    def isatty(self):
        return self.raw.isatty() and not is_second()  # no progress bars of several processes

    def write(self, data):
        try:
            return len(data) if self.lost else self.raw.write(data)
        except OSError as error:
            # Windows calls a closed pipe an invalid argument.
            left = error.errno in (errno.EPIPE, errno.EINVAL)
            self.lost = "reader" if left else "file"
            reason = ("note: nobody reads the output any more" if left else
                      f"error: the output cannot be written ({error.strerror})")
            if os.getpid() == self.process:
                with contextlib.suppress(OSError):  # not print: this may be stderr itself
                    os.write(2, f"{reason}; the work goes on without it\n".encode())
            return len(data)


def open_streams() -> None:
    """Make stdin, stdout and stderr safe to use, whatever they are and whatever is written."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed; its number must not go to the next file that is opened
            stream = open(os.devnull, mode)  # noqa: SIM115
        elif mode == "w" and stream is getattr(sys, f"__{name}__"):
            raw = getattr(stream.buffer, "raw", stream.buffer)
            outlet = Outlet(raw)
            outlet.lost = "second" if name == "stdout" and is_second() else None
            stream = io.TextIOWrapper(io.BufferedWriter(outlet), encoding=stream.encoding)
        setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            # Letters that the encoding lacks are escaped; lines arrive when they are printed.
            stream.reconfigure(**({"errors": "surrogateescape"} if mode == "r" else
                                  {"errors": "backslashreplace", "line_buffering": True}))


def output_lost() -> bool:
    """Tell whether standard output is a file that could not take what was printed."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return getattr(raw, "lost", None) == "file"


def stop_at_once(*_) -> None:
    """Handle Ctrl-C before and after `main`, when nothing is under way that must end well.

    An exception would not do: C code that imports NumPy turns it into an error of its own.
    """
    if not is_second():
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopped.\n")
    os._exit(130)


@contextlib.contextmanager
def raising_ctrl_c():
    """Let Ctrl-C raise KeyboardInterrupt inside this context, where `stop_at_once` would act."""
    watched = signal.getsignal(signal.SIGINT) is stop_at_once
    try:
        if watched:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        if watched:
            signal.signal(signal.SIGINT, stop_at_once)


@contextlib.contextmanager
def raising_when_asked_to_end():
    """Let a scheduler's SIGTERM and a terminal that closes end this context as Ctrl-C does."""
    def handle(number, frame):
        error = KeyboardInterrupt()
        error.status = 128 + number
        raise error

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL
               and threading.current_thread() is threading.main_thread()]
    for number in numbers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _start():
    """Take over Ctrl-C and streams where one of the scripts is what runs.

    PyTorch takes seconds to import, so scripts import this file before it. Programs that merely
    use this project are left alone.
    """
    repo = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if os.path.realpath(sys.argv[0]) not in [os.path.join(repo, name) for name in SCRIPTS]:
        return
    if any("from multiprocessing" in argument for argument in sys.orig_argv):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a worker's start; the script stops it
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop_at_once)
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # its warnings name no file, ours do
    open_streams()


_start()
