"""A real, headless Chromium for tests of pages, driven over WebDriver's plain HTTP (W3C WebDriver; no client library).

Needs Debian's packages chromium and chromium-driver.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.waiting import PATIENCE

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's key of a reference to an element
KEYS = {"ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015", "Escape": "\ue00c"}

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the driver is here, whatever proxy there is


class Browser:
    """One window. Every method raises RuntimeError with the driver's words when the browser refuses."""

    def __init__(self, driver: str, profile: str, width: int, height: int) -> None:
        self._session = driver
        arguments = [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
            f"--user-data-dir={profile}",
        ]
        capabilities = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"{driver}/session/{made['sessionId']}"
        self.resize(width, height)

    def open(self, page: Path, fragment: str = "") -> None:
        """Load a file and wait until it is read."""
        self._ask("POST", "/url", {"url": page.absolute().as_uri() + (f"#{fragment}" if fragment else "")})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns, awaited if it is a promise."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition: str) -> Any:
        """The first true value of a JavaScript expression; fails the test when there is none, or an error."""
        end = time.monotonic() + PATIENCE
        while not (value := self.run(f"return {condition}")):
            if time.monotonic() > end:
                pytest.fail(f"not so after {PATIENCE:.0f} s: {condition}\n" + "\n".join(self.errors()))
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """A real click in the middle of the element."""
        self._ask("POST", f"/element/{self._find(selector)}/click", {})

    def point_at(self, selector: str, dx: int = 0, dy: int = 0) -> None:
        """Move the mouse there: dx, dy CSS pixels from the middle of the element."""
        move = {"type": "pointerMove", "duration": 0, "x": dx, "y": dy, "origin": {ELEMENT: self._find(selector)}}
        self._act({"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move]})

    def press(self, key: str) -> None:
        """Press and release a key of KEYS."""
        strokes = [{"type": "keyDown", "value": KEYS[key]}, {"type": "keyUp", "value": KEYS[key]}]
        self._act({"type": "key", "id": "keyboard", "actions": strokes})

    def type(self, selector: str, text: str) -> None:
        self._ask("POST", f"/element/{self._find(selector)}/value", {"text": text})

    def resize(self, width: int, height: int) -> None:
        """The size of the page itself, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str) -> None:
        """Colour scheme, "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._devtools("Emulation.setEmulatedMedia", {"features": features})

    def errors(self) -> list[str]:
        """Errors of scripts, of the content policy and of loading since the last call."""
        entries = self._ask("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def quit(self) -> None:
        self._ask("DELETE", "")

    def _find(self, selector: str) -> str:
        return self._ask("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def _act(self, actions: dict[str, Any]) -> None:
        self._ask("POST", "/actions", {"actions": [actions]})

    def _devtools(self, command: str, parameters: dict[str, Any]) -> None:
        self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._session + path, data, method=method)
        try:
            with _DIRECT.open(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise RuntimeError(f"{method} {path}: {value['error']}: {value['message']}") from error


@contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """A browser for the time of a block. The test is skipped where there is none, and fails in CI."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    driver = programs["chromedriver"]
    if driver is None or programs["chromium"] is None:
        message = "no chromium here: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with (
        tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder,
        subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            port = next(
                match[1] for line in process.stdout if (match := re.search(r"successfully on port (\d+)", line))
            )
            browser = Browser(f"http://127.0.0.1:{port}", folder, width, height)
            try:
                yield browser
            finally:
                browser.quit()
        finally:
            process.terminate()
