"""A headless Chromium with a profile of its own shows how a page looks, and what the page requests."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tests.support.servers import program
from tests.support.waiting import FOREVER_SECONDS

QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --disable-dev-shm-usage --hide-scrollbars"
).split()
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
"""A new profile asks its vendor for the time and for updates; this rule lets it reach only 127.0.0.1."""


@dataclass(frozen=True)
class Visit:
    """What a browser saw: the loaded document, the lines on its console, and the URLs that the page requested."""

    dom: str
    console: list[str]
    asked: set[str]


MEASURE = """(() => {
  const root = document.documentElement, box = element => element.getBoundingClientRect();
  const cut = element => getComputedStyle(element).display != "inline" && element.scrollWidth > box(element).width + 1;
  const clipped = [...document.querySelectorAll("body *")].filter(e => box(e).right > innerWidth || cut(e));
  return JSON.stringify({
    width: root.scrollWidth,
    clipped: clipped.map(element => element.outerHTML.slice(0, 80)),
    background: getComputedStyle(document.body).backgroundColor,
    commands: [...document.querySelectorAll("[aria-labelledby=what] pre")].map(element => box(element).bottom),
  });
})()"""
"""The page itself has no script; the debugger evaluates this."""


class Chromium:
    """Each call starts a browser with an empty profile and ends it."""

    def __init__(self) -> None:
        self._program = program("chromium", "apt-get install chromium")

    def visit(self, url: str) -> Visit:
        """Load `url`."""
        with _profile() as profile:
            netlog = profile / "net.json"
            options = ["--dump-dom", "--enable-logging=stderr", f"--log-net-log={netlog}"]
            done = self._run(profile, *options, url)
            asked = set(_asked(json.loads(netlog.read_text()), url))
        return Visit(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked)

    def screenshot(self, url: str, to: Path, width: int, height: int, *, dark: bool = False) -> Path:
        """Draw `url` into a PNG file."""
        with _profile() as profile:
            self._run(profile, f"--screenshot={to}", f"--window-size={width},{height}", *_colours(dark), url)
        assert to.exists(), f"no screenshot of {url}"
        return to

    @contextmanager
    def tab(self) -> "Iterator[Tab]":
        """Start a browser that draws documents one after another."""
        with _profile() as profile, ExitStack() as stack:
            (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
            # the browser reads from descriptor 3 and writes to 4
            command = [str(self._program), *QUIET, ALONE, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
            redirected = f'exec "$@" 3<&{their_in} 4>&{their_out}'
            process = subprocess.Popen(
                ["bash", "-c", redirected, "bash", *command, "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(their_in, their_out),
                process_group=0,
            )
            stack.callback(process.wait)
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
            os.close(their_in)
            os.close(their_out)
            to = stack.enter_context(os.fdopen(our_out, "wb", buffering=0))
            answers = stack.enter_context(os.fdopen(our_in, "rb"))
            yield Tab(profile / "page.html", to, answers)

    def _run(self, profile: Path, *options: str) -> "subprocess.CompletedProcess[str]":
        command = [str(self._program), *QUIET, ALONE, f"--user-data-dir={profile}", *options]
        return _finished(command)


class Tab:
    """A tab of a browser, driven through the pipe of its debugger."""

    def __init__(self, page: Path, to: IO[bytes], answers: IO[bytes]) -> None:
        self._page, self._to, self._answers = page, to, answers
        self._session: str | None = None
        self._sent = 0
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._do("Page.enable")

    def load(self, document: str, width: int, height: int, *, dark: bool = False) -> dict[str, Any]:
        """Show a document in a window of this size; return what `MEASURE` finds."""
        self._do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._do("Emulation.setEmulatedMedia", features=[scheme])
        # the page must not reload itself between two measurements
        self._page.write_text(document.replace('http-equiv="refresh"', 'name="refresh"'))
        self._do("Page.navigate", until="Page.loadEventFired", url=self._page.as_uri())
        found: dict[str, Any] = json.loads(self._do("Runtime.evaluate", expression=MEASURE)["result"]["value"])
        return found

    def draw(self, to: Path) -> None:
        """Draw what the window shows into a PNG file."""
        to.write_bytes(b64decode(self._do("Page.captureScreenshot")["data"]))

    def _do(self, method: str, until: str | None = None, **parameters: object) -> dict[str, Any]:
        self._sent += 1
        session = {} if self._session is None else {"sessionId": self._session}
        self._to.write(
            json.dumps({"id": self._sent, "method": method, "params": parameters, **session}).encode() + b"\0"
        )
        result: dict[str, Any] | None = None
        while result is None or until is not None:
            message = self._receive()
            if message.get("id") == self._sent:
                assert "error" not in message, message
                result = message["result"]
            until = None if message.get("method") == until else until
        return result

    def _receive(self) -> dict[str, Any]:
        read = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            read += byte
        message: dict[str, Any] = json.loads(read)
        return message


def _finished(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    # a process group of its own, so that no helper process of the browser outlives the call
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        out, err = process.communicate(timeout=FOREVER_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, err
    return subprocess.CompletedProcess(command, 0, out, err)


def _colours(dark: bool) -> list[str]:
    return [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]


@contextmanager
def _profile() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chromium-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _asked(netlog: dict[str, Any], page: str) -> Iterator[str]:
    # a request of the browser itself has no origin; a request of a page has the page's
    origin = f"{urlsplit(page).scheme}://{urlsplit(page).netloc}"
    for event in netlog["events"]:
        asked = event.get("params", {})
        if "initiator" in asked and (asked["initiator"] == origin or asked["url"].startswith(origin)):
            yield asked["url"]
