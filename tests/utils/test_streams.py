"""Output that is closed, full or of another encoding; Ctrl-C at any time; no tracebacks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils.cli import ROOT

posix = pytest.mark.skipif(os.name != "posix", reason="redirections and signals of POSIX shells")

SCRIPT = r"""
import errno, os, sys, time
from dataclasses import dataclass
from utils.cli import UserError, run

@dataclass(frozen=True)
class Settings:
    kind: str = "lines"
    batch_size: int = 8
    share: float = 0.5

def main(settings):
    kind = settings.kind
    if kind == "lines":
        for k in range(20000):
            print("line", k)
            print("bar", k, end="\r", file=sys.stderr)
        open(os.environ["DONE"], "w").close()
    elif kind == "names":
        print("中文 \udcf6 é")
        print("中文 \udcf6 é", file=sys.stderr)
    elif kind == "ask":
        try:
            text = input("? ")
            print(os.fsencode(text))
        except EOFError:
            print("no more")
    elif kind == "sleep":
        print("ready")
        time.sleep(30)
    elif kind == "swallowed":
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ImportError("numpy.core.multiarray failed to import")
    elif kind == "control":
        raise UserError("a\x1b[31m.jpg: " + "x" * 5000 + "\nsecond line")
    elif kind == "bug":
        raise ValueError("a bug")
    elif kind == "memory":
        bytearray(2 ** 60)
    elif kind == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "some.txt")
    else:
        raise RuntimeError(kind)

if __name__ == "__main__":
    run(main, Settings)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("streams") / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def shell(script, ending, *, kind="lines", **environment):
    """Run the script under sh with a redirection or pipe; return the finished shell."""
    command = f'"{sys.executable}" "{script}" --kind {kind} {ending}'
    return subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, env={
        "PYTHONPATH": str(ROOT), "DONE": str(script.with_name("done")), "PATH": os.defpath,
        **environment})


@posix
@pytest.mark.parametrize("ending, status, words", [
    ("| head -1", 0, b"nobody reads the output any more"),
    ("2>&1 | head -1", 0, b""),
    (">&-", 0, b""),
    ("2>&-", 0, b""),
    (">&- 2>&- <&-", 0, b""),
    ("> /dev/full", 74, b"error: the output cannot be written (No space left on device)"),
    ("2> /dev/full", 0, b""),
    (">/dev/full 2>/dev/full", 74, b""),
    ("> read_only < /dev/null", 0, b""),
])
def test_work_goes_on_whatever_becomes_of_the_output(script, tmp_path, ending, status, words):
    done_file = script.with_name("done")
    done_file.unlink(missing_ok=True)
    inner = ending.replace("read_only", str(tmp_path / "x"))
    # The status of the script itself, not that of head.
    piped = inner.replace("|", f"; echo $? > {tmp_path}/status; }} |", 1) if "|" in inner else None
    if piped:
        command = f'{{ "{sys.executable}" "{script}" {piped}'
        done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, env={
            "PYTHONPATH": str(ROOT), "DONE": str(done_file), "PATH": os.defpath})
        assert int((tmp_path / "status").read_text()) == status
    else:
        done = shell(script, inner)
        assert done.returncode == status
    assert done_file.exists()
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    assert words in done.stderr and done.stderr.count(b"the work goes on") == bool(words)


@posix
def test_help_to_a_full_disk(script):
    done = shell(script, "--help > /dev/full")
    assert done.returncode == 74 and b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1:strict", "utf-8", "utf-8:strict"])
def test_letters_that_the_encoding_lacks_are_escaped(script, encoding):
    done = shell(script, "", kind="names", PYTHONIOENCODING=encoding)
    codec = encoding.partition(":")[0]
    expected = "中文 \udcf6 é\n".encode(codec, "backslashreplace")
    assert done.returncode == 0
    assert done.stdout.replace(b"\r", b"") == expected == done.stderr.replace(b"\r", b"")


@posix
@pytest.mark.parametrize("ending, words", [
    ("< /dev/null", b"no more"), ("<&-", b"no more"), ("< typed", rb"b'K\xf6ln.jpg'")])
def test_input_of_any_encoding_and_none(script, tmp_path, ending, words):
    (tmp_path / "typed").write_bytes(b"K\xf6ln.jpg\n")
    done = shell(script, ending.replace("typed", str(tmp_path / "typed")), kind="ask",
                 PYTHONUTF8="1", PYTHONIOENCODING="utf-8:strict")
    assert done.returncode == 0 and words in done.stdout and not done.stderr


@pytest.mark.parametrize("kind, status, words", [
    ("memory", 2, "error: out of memory; lower batch_size 8 -> 4, or close other programs.\n"),
    ("'CUDA out of memory. Tried to allocate 2 GiB'", 2, "error: out of memory; lower batch_size"),
    ('"DefaultCPUAllocator: can\'t allocate memory: you tried"', 2, "error: out of memory"),
    ("full", 2, "error: some.txt: No space left on device; make room"),
    ("swallowed", 130, "\nstopped.\n"),
])
def test_endings_without_traceback(script, kind, status, words):
    done = shell(script, "", kind=kind)
    assert done.returncode == status
    assert done.stderr.decode().startswith(words) and done.stderr.count(b"\n") <= 2


@pytest.mark.parametrize("kind", ["bug", "'some other RuntimeError'"])
def test_a_bug_keeps_its_traceback(script, kind):
    done = shell(script, "", kind=kind)
    assert done.returncode == 1 and b"Traceback" in done.stderr


def test_a_message_has_no_control_characters_and_no_mile(script):
    done = shell(script, "", kind="control")
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 2 and len(lines[0]) < 700
    assert lines[0].startswith(r"error: a\x1b[31m.jpg: xxx") and lines[1] == "second line"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_on_the_command_line_must_be_finite(script, value):
    done = shell(script, f"--share={value}")
    assert done.returncode == 2
    assert done.stderr.decode() == f"error: share must be finite, got {value}.\n"


@posix
def test_ctrl_c_in_the_work(script):
    with subprocess.Popen([sys.executable, script, "--kind", "sleep"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == (b"", b"\nstopped.\n")
    assert process.returncode == 130


@posix
@pytest.mark.parametrize("name, module", [
    ("voc_annotation", "torch"), ("train", "tyro"), ("get_map", "torch"), ("predict", "torch")])
def test_ctrl_c_while_a_script_imports(tmp_path, name, module):
    """The import is made to be where the signal arrives, and to swallow exceptions, as NumPy's
    C interface does."""
    (tmp_path / f"{module}.py").write_text(
        "import os, signal, time\n"
        "try:\n    signal.raise_signal(signal.SIGINT)\n    time.sleep(5)\n"
        "except BaseException:\n    raise ImportError('failed to import')\n")
    done = subprocess.run([sys.executable, ROOT / f"{name}.py"], capture_output=True, timeout=60,
                          env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (130, b"\nstopped.\n")


@posix
def test_other_programs_keep_their_ctrl_c(tmp_path):
    program = tmp_path / "notebook.py"
    program.write_text("import signal, sys\nout = sys.stdout\nimport utils.cli\n"
                       "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
                       "assert sys.stdout is out\n")
    subprocess.run([sys.executable, program], check=True, env={"PYTHONPATH": str(ROOT)})


@posix
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_leave_ctrl_c_to_the_script(tmp_path, method):
    program = tmp_path / "program.py"
    program.write_text(f"""
import multiprocessing, signal, sys
sys.argv[0] = {str(ROOT / "train.py")!r}
import utils.streams
def work():
    sys.exit(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN)
if __name__ == "__main__":
    assert signal.getsignal(signal.SIGINT) is utils.streams.stop_at_once
    process = multiprocessing.get_context("{method}").Process(target=work)
    process.start()
    process.join()
    sys.exit(process.exitcode)
""")
    subprocess.run([sys.executable, program], check=True, env={"PYTHONPATH": str(ROOT)})


def test_every_script_is_looked_after():
    from utils.streams import SCRIPTS
    started = {path.name for path in Path(ROOT).glob("*.py")
               if "run(main, " in path.read_text(encoding="utf-8")}
    assert started == set(SCRIPTS)
    for name in SCRIPTS:
        lines = (ROOT / name).read_text(encoding="utf-8").split('"""', 2)[2].split("\n")
        assert next(filter(None, lines)).startswith("import utils.streams"), name
