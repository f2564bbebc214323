"""A headless Chromium for tests, driven through pipes by the DevTools protocol."""

import itertools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)


class Browser:
    """One tab; `messages` collects what the page writes to the console, errors above all."""

    def __init__(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        for_it, self._send = os.pipe()
        receive, from_it = os.pipe()
        # Chromium reads commands from 3 and writes answers to 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{for_it} 4>&{from_it}', "-", CHROMIUM, "--headless=new",
             "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
             f"--user-data-dir={self._profile.name}"],
            pass_fds=(for_it, from_it), stderr=subprocess.DEVNULL)
        os.close(for_it)
        os.close(from_it)
        self._answers = os.fdopen(receive, "rb")
        self._numbers, self._rest = itertools.count(1), b""
        self._session, self.messages, self._events = None, [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target,
                                  flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Return the result of a method of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        return self._wait(lambda answer: answer.get("id") == number)["result"]

    def _wait(self, is_wanted):
        """Return the next wanted message; keep those of the console and errors on the way."""
        while True:
            while b"\0" not in self._rest:
                chunk = self._answers.raw.read(1 << 20)
                assert chunk, "the browser ended"
                self._rest += chunk
            text, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(text)
            if answer.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown",
                                        "Log.entryAdded"):
                self.messages.append(answer["params"])
            if is_wanted(answer):
                return answer

    def open(self, path: Path, *, width=1200, height=900, dark=False, media=""):
        """Load a file at the width of a window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        number = next(self._numbers)
        message = {"id": number, "method": "Page.navigate", "params": {"url": path.as_uri()},
                   "sessionId": self._session}
        os.write(self._send, json.dumps(message).encode() + b"\0")
        self._wait(lambda answer: answer.get("method") == "Page.loadEventFired")

    def run(self, script):
        """Return the value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._send)
        self._answers.close()
        self._profile.cleanup()
