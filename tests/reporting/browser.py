"""A headless Chromium driven over a pipe: what a page shows, says on its console and asks the network for."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_PATIENCE_S = 60
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page.

    Attributes:
        problems: console messages, exceptions and refused content.
        asked: the addresses of all requests.
    """

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'  # Chromium speaks on descriptors 3 and 4
        arguments = [str(to_browser), str(from_browser), CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", *arguments],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._count = 0
        self._session = ""
        self._loaded = False
        self.problems: list[str] = []
        self.asked: list[str] = []
        (page,) = [entry for entry in self._targets() if entry["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        os.close(self._read)
        os.close(self._write)

    def open(self, path: Path, *, width: int = 1200, dark: bool = False, scripts: bool = True) -> None:
        """Show a file in a window of this width, in the light or dark theme, and wait until its charts are there."""
        self.problems.clear()
        self.asked.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._loaded = False
        self.call("Page.navigate", url=path.absolute().as_uri())
        self._until(lambda: self._loaded)
        if scripts and self.ask("Object.keys(figures).length > 0"):
            self._until(lambda: self.ask("document.body.dataset.charts !== undefined"))

    def ask(self, expression: str) -> Any:
        """The value of some JavaScript in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until some JavaScript in the page is true."""
        self._until(lambda: self.ask(expression))

    def outline(self) -> tuple[bool, int]:
        """Whether places of charts take no room, and how many table rows there are; works without scripts."""
        for domain in ("DOM", "CSS"):
            self.call(f"{domain}.enable")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        charts = self.call("DOM.querySelectorAll", nodeId=root, selector=".chart")["nodeIds"]
        styles = [self.call("CSS.getComputedStyleForNode", nodeId=chart)["computedStyle"] for chart in charts]
        hidden = all({"name": "display", "value": "none"} in style for style in styles)
        return hidden, len(self.call("DOM.querySelectorAll", nodeId=root, selector="tbody tr")["nodeIds"])

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(picture))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its answer; events in between are noted."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _targets(self) -> list[dict[str, Any]]:
        return self.call("Target.getTargets")["targetInfos"]

    def _until(self, done: Any) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not done():
            assert time.monotonic() < end, self.problems
            time.sleep(0.05)
            self.call("Page.getLayoutMetrics")  # any answer brings the events before it

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.consoleAPICalled":
                self.problems.append(" ".join(str(item.get("value")) for item in parameters["args"]))
            case "Runtime.exceptionThrown":
                self.problems.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded":
                self.problems.append(parameters["entry"]["text"])
            case "Network.requestWillBeSent":
                if not parameters["request"]["url"].startswith("data:"):  # in the page already
                    self.asked.append(parameters["request"]["url"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], _PATIENCE_S)
            assert ready, "the browser does not answer"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "the browser ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
