"""A real browser without a screen: Debian's chromium, told what to do through chromedriver.

The W3C WebDriver protocol is JSON over HTTP, so that no package is needed. `find` is None where the
two programs are not installed (`apt-get install chromium chromium-driver`).
"""

from __future__ import annotations

import base64
import json
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

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--force-color-profile=srgb",
)
PATIENCE = 60.0  # seconds that a page has on a busy machine
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def find() -> tuple[str, str] | None:
    """chromium and chromedriver, where both are there."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """One window."""

    def __init__(self, address: str, size: tuple[int, int], binary: str) -> None:
        self.address = address
        options = {"binary": binary, "args": [*FLAGS, f"--window-size={size[0]},{size[1]}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/session/{made['sessionId']}"

    def open(self, address: str) -> None:
        self._call("POST", "/url", {"url": address})

    def run(self, script: str, *given: Any) -> Any:
        """What a script returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(given)})

    def text(self, selector: str) -> list[str]:
        """The text of all elements that match, as it is rendered; of hidden ones it is empty."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        return self.run(script, selector)

    def wait(self, script: str, *given: Any) -> Any:
        """What an expression comes to, once it is true."""
        end = time.monotonic() + PATIENCE
        while not (found := self.run(f"return {script}", *given)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)
        return found

    def choose(self, name: str, shown: str) -> None:
        """Choose an option of a select by its text, as a person does."""
        script = """
            const field = document.querySelector(`#filters [name=${arguments[0]}]`);
            field.value = [...field.options].find(o => o.text === arguments[1]).value;
            field.dispatchEvent(new Event("input", {bubbles: true}));"""
        self.run(script, name, shown)

    def click(self, selector: str) -> None:
        script = """document.querySelector(arguments[0])
            .scrollIntoView({block: "center", behavior: "instant"})"""
        self.run(script, selector)
        self._call("POST", f"/element/{self._element(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self._call("POST", f"/element/{self._element(selector)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Keys to whatever has the focus."""
        pressed = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        keyboard = {"type": "key", "id": "keyboard", "actions": pressed}
        self._call("POST", "/actions", {"actions": [keyboard]})

    def resize(self, width: int, height: int) -> None:
        self._call("POST", "/window/rect", {"width": width, "height": height})

    def console(self) -> list[dict[str, Any]]:
        """What the console was told since it was last asked."""
        return self._call("POST", "/se/log", {"type": "browser"})

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self._call("GET", "/screenshot"))

    def close(self) -> None:
        self._call("DELETE", "")

    def _element(self, selector: str) -> str:
        asked = {"using": "css selector", "value": selector}
        return self._call("POST", "/element", asked)[ELEMENT]

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        head = {"Content-Type": "application/json"}
        asked = urllib.request.Request(self.address + path, data, head, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=2 * PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            said = json.load(error)["value"]
            raise AssertionError(f"{said['error']}: {said['message'].splitlines()[0]}") from error


@contextmanager
def opened(size: tuple[int, int] = (1200, 900)) -> Iterator[Browser]:
    """A window of a browser of its own."""
    found = find()
    assert found is not None
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        driver = subprocess.Popen([found[1], "--port=0"], stdout=log, stderr=log)
        try:
            browser = Browser(_address(Path(folder) / "log", driver), size, found[0])
            try:
                yield browser
            finally:
                browser.close()
        finally:
            driver.terminate()
            driver.wait()


def _address(log: Path, driver: subprocess.Popen) -> str:
    """Where the driver listens, once it says so."""
    end = time.monotonic() + PATIENCE
    mark = "started successfully on port "
    while mark not in (said := log.read_text()):
        assert driver.poll() is None, said
        assert time.monotonic() < end, said
        time.sleep(0.05)
    return f"http://127.0.0.1:{said.partition(mark)[2].split('.')[0].strip()}"
