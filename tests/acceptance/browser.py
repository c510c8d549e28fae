"""A headless Chromium with a profile of its own shows how a page looks, and what the page requests."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any
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


RULER = """<!doctype html><iframe width="{width}" height="700" srcdoc="{page}"></iframe><script>
onload = () => {{
  const inside = document.querySelector("iframe").contentDocument;
  const needed = inside.documentElement.scrollWidth;
  document.title = JSON.stringify([needed, getComputedStyle(inside.body).backgroundColor]);
}}
</script>"""
"""A script that measures a page; the page itself has no script."""


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

    def measured(self, page: str, width: int, *, dark: bool = False) -> tuple[int, str]:
        """Return how wide the document `page` becomes in a frame of `width`, and its background."""
        with _profile() as profile:
            ruler = profile / "ruler.html"
            ruler.write_text(RULER.format(width=width, page=escape(page)))
            dom = self._run(profile, "--dump-dom", *_colours(dark), ruler.as_uri()).stdout
        title = re.search("<title>(.*?)</title>", dom)
        assert title, dom
        needed, background = json.loads(unescape(title[1]))
        return needed, background

    def _run(self, profile: Path, *options: str) -> "subprocess.CompletedProcess[str]":
        command = [str(self._program), *QUIET, ALONE, f"--user-data-dir={profile}", *options]
        return _finished(command)


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
