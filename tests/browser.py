"""A headless Chromium for tests, driven through pipes by the DevTools protocol."""

import itertools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
COMPLAINTS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


class Browser:
    """One tab; `messages` collects what appears in its console."""

    def __init__(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (commands, self._commands), (self._answers, answers) = os.pipe(), os.pipe()
        self._process = subprocess.Popen(  # it reads commands from 3 and writes answers to 4
            ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "-", CHROMIUM, "--no-sandbox",
             "--headless=new", "--disable-gpu", "--disable-dev-shm-usage",
             "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}"],
            pass_fds=(commands, answers), stderr=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": self._profile.name})
        os.close(commands)
        os.close(answers)
        self._numbers, self._rest, self._session, self.messages = itertools.count(1), b"", {}, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Return the result of a method of the protocol."""
        number = self._send(method, params)
        return self._wait(lambda answer: answer.get("id") == number)["result"]

    def _send(self, method, params):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params} | self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return number

    def _wait(self, is_wanted):
        """Return the next message that is wanted."""
        while True:
            while b"\0" not in self._rest:
                chunk = os.read(self._answers, 1 << 20)
                assert chunk, "the browser ended"
                self._rest += chunk
            text, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(text)
            if answer.get("method") in COMPLAINTS:
                self.messages.append(answer["params"])
            if is_wanted(answer):
                return answer

    def open(self, path: Path, *, width=1200):
        """Load a file into a window of some width."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=width < 600)
        self._send("Page.navigate", {"url": path.as_uri()})
        self._wait(lambda answer: answer.get("method") == "Page.loadEventFired")

    def run(self, script):
        """Return the value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
        self._profile.cleanup()
