"""Pages in a real browser: laid out at several widths, measured, and pictured. Needs Chromium or Chrome; nothing is downloaded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape, unescape
from pathlib import Path

import pytest

from tests.programs import Program, program

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
         "--disable-extensions", "--no-first-run", "--hide-scrollbars", "--force-device-scale-factor=1")
SECONDS = 120.0
"""That a browser may take on a busy machine. One whose network service crashes starts that again without end, several times a second."""
PORT = "DevToolsActivePort"
"""The file in which a browser says where it listens."""


@cache
def browser() -> str | None:
    """Where a browser is that lays out a page; None without one."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text("<!doctype html><p>laid out")
        for path in filter(None, map(shutil.which, NAMES)):
            # Ubuntu's may be a stub that asks for a snap, or a snap that may not read this file.
            try:
                if "<p>laid out" in _run(path, ["--dump-dom", page.as_uri()], Path(folder)):
                    return path
            except (AssertionError, OSError, subprocess.TimeoutExpired):
                continue
    return None


def needs_browser() -> str:
    """Where a browser is; a test that calls this is skipped where none is."""
    found = browser()
    if found is None:
        pytest.skip(f"no browser is installed that works ({', '.join(NAMES[:3])}); on Debian: apt-get install chromium")
    return found


def faults(pages: Mapping[str, str], widths: Sequence[int], folder: Path) -> dict[str, list[str]]:
    """What is wrong with each page at each width, by ``"<page> at <width> px"``: words broken, cut off or wider than their column,
    drawings whose texts lie over each other, boxes wider than the window.

    A frame is laid out as a window of its width is, media queries too, so that one start of the browser serves for all. ``folder``: for
    the browser's files.
    """
    frames = "".join(f'<iframe title="{escape(name)} at {width} px" width="{width}" height="800" style="border:0" '
                     f'srcdoc="{escape(page)}"></iframe>' for name, page in pages.items() for width in widths)
    script = Path(__file__).with_name("measure.js").read_text()
    harness = folder / "harness.html"
    harness.write_text(f'<!doctype html><meta charset="utf-8"><script>{script}</script>{frames}<pre id="found"></pre>')
    text = _run(needs_browser(), ["--dump-dom", harness.as_uri()], folder)
    found = re.search(r'<pre id="found">(.*?)</pre>', text, flags=re.S)
    assert found and found[1], f"the browser measured nothing: {text[-500:]}"
    measured: dict[str, list[str]] = json.loads(unescape(found[1]))
    assert len(measured) == len(pages) * len(widths)
    return {name: own for name, own in measured.items() if own}


def picture(page: str, width: int, height: int, folder: Path, path: Path) -> Path:
    """A screenshot (PNG) of the page in a window of this size, to look at."""
    source = folder / "page.html"
    source.write_text(f'<!doctype html><body style="margin:0"><iframe width="{width}" height="{height}" style="border:0" '
                      f'srcdoc="{escape(page)}"></iframe>')
    _run(needs_browser(), [f"--window-size={width},{height}", f"--screenshot={path}", source.as_uri()], folder)
    return path


@contextmanager
def listening(folder: Path) -> Iterator[tuple[str, Program]]:
    """A browser that is steered from outside (Chrome DevTools Protocol) until this context ends: its address, and its process."""
    awake = ["--mute-audio", "--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows",
             "--disable-renderer-backgrounding"]
    with _started(needs_browser(), ["--remote-debugging-port=0", *awake], folder) as process:
        port, end = folder / "profile" / PORT, time.monotonic() + SECONDS
        while not port.is_file() or not port.read_text().strip():
            assert process.poll() is None and time.monotonic() < end, f"the browser does not listen: {_told(folder)}"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port.read_text().split()[0]}", process


def _run(name: str, flags: Sequence[str], folder: Path) -> str:
    """What a browser prints that does one thing and ends."""
    with _started(name, flags, folder) as process:
        status = process.wait(SECONDS)
    assert status == 0, f"{name} ended with {status}: {_told(folder)}"
    return (folder / "stdout.txt").read_text(errors="replace")


@contextmanager
def _started(name: str, flags: Sequence[str], folder: Path) -> Iterator[Program]:
    """A browser with a profile and a home of its own."""
    command = [name, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags]
    with program(command, folder, {**os.environ, "HOME": str(folder)}) as process:
        yield process


def _told(folder: Path) -> str:
    return (folder / "stderr.txt").read_text(errors="replace")[-1000:]
