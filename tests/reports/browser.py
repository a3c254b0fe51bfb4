"""Headless Chromium driven over its debugging pipe (JSON ended by NUL): real keys, and what they did."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers import end

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 60.0
CODES = {"ArrowDown": 40, "Enter": 13, "Tab": 9}


class Tab:
    """One page. `ask` evaluates an expression in it; `press` and `click` are events of a real user."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._rest, self._last = write, read, b"", 0
        self._session: str | None = None

    def open(self, page: Path, *, width: int = 1100, dark: bool = False) -> None:
        """Load a page at this width and wait until its scripts have run."""
        if self._session is None:
            target = self.send("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        self.send("Page.navigate", url=page.as_uri())
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if self.ask("location.href") == page.as_uri() and self.ask("document.readyState") == "complete":
                return
            time.sleep(0.02)
        raise TimeoutError(f"{page} did not load in {SECONDS:g} s")

    def ask(self, expression: str) -> Any:
        """Return the JSON value of an expression in the page."""
        reply = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in reply:
            raise AssertionError(f"{expression}: {reply['exceptionDetails']}")
        return reply["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release one key."""
        text = {"text": key} if len(key) == 1 else {}
        code = CODES.get(key, ord(key.upper()[0]))
        for kind, more in (("keyDown", text), ("keyUp", {})):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def click(self, selector: str) -> None:
        """Click the middle of the first element of a selector."""
        place = (
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        x, y = self.ask(place)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def send(self, method: str, **params: Any) -> Any:
        """Send one command and return its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next()
            if reply.get("id") == self._last:
                if "error" in reply:
                    raise AssertionError(f"{method}: {reply['error']}")
                return reply["result"]

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], SECONDS)[0]:
                raise TimeoutError(f"Chromium said nothing for {SECONDS:g} s")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError("Chromium closed its debugging pipe")
            self._rest += part
        one, _, self._rest = self._rest.partition(b"\0")
        return json.loads(one)


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """Yield a tab of a Chromium with a profile of its own, which ends with the block."""
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    words = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
        "--remote-debugging-pipe",
    ]  # fmt: skip
    # Chromium reads commands from descriptor 3 and answers on descriptor 4.
    shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "chromium", *words],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Tab(ours_out, ours_in)
    finally:
        os.close(ours_out)
        os.close(ours_in)
        end(process)
