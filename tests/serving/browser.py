"""Headless Chromium for the tests of the page, by its DevTools protocol over a pipe: no driver, no package.

The protocol: https://chromedevtools.github.io/devtools-protocol/.
"""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SECONDS = 60  # that a condition of a test may take on a busy machine
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
KEYS = {  # key: (code, virtual key, text)
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "Tab": ("Tab", 9, ""),
    "Home": ("Home", 36, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    " ": ("Space", 32, " "),
}


def find_chromium():
    """Returns the program; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("chromium is not installed: the page cannot be opened")
    return program


class Browser:
    """A Chromium process that reaches nothing but this machine.

    Args:
        folder: For its profile and for downloads; made.
    """

    def __init__(self, folder):
        self.downloads = Path(folder) / "downloads"
        self.downloads.mkdir(parents=True)
        from_us, self._writer = os.pipe()
        self._reader, to_us = os.pipe()
        # Chromium reads commands from file descriptor 3 and answers on 4.
        passed = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (from_us, to_us)]
        command = [
            find_chromium(),
            "--headless=new",
            "--remote-debugging-pipe",
            f"--user-data-dir={Path(folder) / 'profile'}",
            "--no-sandbox",  # the tests may run as root
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",  # small in containers
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{passed[0]} 4>&{passed[1]}', *command],
            pass_fds=passed,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (from_us, to_us, *passed):
            os.close(end)
        self._numbers = itertools.count(1)
        self._received = b""
        self._pages = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._writer)
        os.close(self._reader)

    def open(self, url, **emulated):
        """Returns a new `Page`; see `Page.emulate` for the keywords."""
        context = self.call("Target.createBrowserContext")["browserContextId"]  # with a storage of its own
        self.call(
            "Browser.setDownloadBehavior",
            behavior="allow",
            browserContextId=context,
            downloadPath=str(self.downloads),
        )
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.emulate(**emulated)
        navigated = page.call("Page.navigate", url=url)
        assert "errorText" not in navigated, f"{url}: {navigated['errorText']}"
        page.wait("document.readyState === 'complete'")
        return page

    def download(self, name):
        """Returns the bytes of a file when it is there; removes it."""
        path = self.downloads / name
        end = time.monotonic() + SECONDS
        while not path.exists():
            assert time.monotonic() < end, f"{name} was not downloaded: {sorted(self.downloads.iterdir())}"
            time.sleep(0.05)
        content = path.read_bytes()
        path.unlink()
        return content

    def send(self, method, session=None, **parameters):
        """Sends a command without waiting for its result; returns its number."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        return number

    def call(self, method, session=None, **parameters):
        """Sends a command and returns its result."""
        number = self.send(method, session, **parameters)
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            page = self._pages.get(answer.get("sessionId"))
            if page is not None and "method" in answer:
                page.heard(answer["method"], answer["params"])

    def _read(self):
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._reader], [], [], SECONDS)
            assert ready, "Chromium does not answer"
            part = os.read(self._reader, 1 << 20)
            assert part, f"Chromium ended with status {self._process.wait(timeout=20)}"
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)


class Page:
    """A tab.

    Attributes:
        requests: Every URL that it asked for.
        errors: What it wrote to the console as errors or warnings.
    """

    def __init__(self, browser, session):
        self._browser, self._session = browser, session
        self.requests, self.errors = [], []
        self._refusals = []

    def call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def heard(self, method, event):
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(each.get("value", each.get("description"))) for each in event["args"]))
        elif method == "Fetch.requestPaused":
            self._answer(event["requestId"])
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")

    def emulate(self, width=1280, height=800, dark=False, reduced_motion=False):
        """Sets the window and what the user prefers."""
        phone = width < 500
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        preferences = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if reduced_motion else "no-preference",
        }
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": name, "value": value} for name, value in preferences.items()],
        )

    def refuse(self, pattern, *answers):
        """Has the next requests of a URL with `*` in it answered by `(status, headers)` instead of the server."""
        self._refusals += answers
        self.call("Fetch.enable", patterns=[{"urlPattern": pattern}])

    def _answer(self, request):
        if not self._refusals:
            self._browser.send("Fetch.continueRequest", self._session, requestId=request)
            return
        status, headers = self._refusals.pop(0)
        self._browser.send(
            "Fetch.fulfillRequest",
            self._session,
            requestId=request,
            responseCode=status,
            responseHeaders=[{"name": name, "value": value} for name, value in headers.items()],
        )

    def run(self, expression):
        """Returns the value of a JavaScript expression; a promise is waited for."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def wait(self, expression):
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + SECONDS
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never true: {expression}\nconsole: {self.errors}"
            time.sleep(0.05)

    def click(self, selector):
        """Clicks the middle of the element, which is scrolled into sight first."""
        self.wait(f"document.querySelector({json.dumps(selector)})")
        x, y = self.run(
            f"""(async () => {{
              const element = document.querySelector({json.dumps(selector)});
              element.scrollIntoView({{block: "center", behavior: "instant"}});
              await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
              const {{left, top, width, height}} = element.getBoundingClientRect();
              return [left + width / 2, top + height / 2];
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key):
        """Presses and releases a key."""
        code, number, text = KEYS[key] if key in KEYS else (f"Key{key.upper()}", ord(key.upper()), key)
        named = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **named)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def screenshot(self, path):
        """Writes what the window shows as PNG."""
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
