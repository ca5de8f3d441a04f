"""Programs that tests start. Whatever becomes of a test, none of its programs is left, nor what they started themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

KILLED = 30.0
"""Seconds in which what is killed must be gone."""
MARK = "OMNIVAST_TESTS_PROGRAM"
"""A variable by which a program is known, and what it started: daemons too, which leave its group of processes."""


class Program(subprocess.Popen[bytes]):
    """A running program."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None, **more: Any) -> None:
        self.mark = f"{MARK}={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        super().__init__(command, env={**(os.environ if environment is None else environment), name: value}, stdin=subprocess.DEVNULL,
                         start_new_session=True, **more)

    def kill_all(self) -> None:
        """End it and all that it started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for process in _marked(self.mark):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.wait(KILLED)


@contextmanager
def program(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None,
            ) -> Iterator[Program]:
    """A program that runs until this context ends, which kills it and all that it started.

    It writes to ``stdout.txt`` and ``stderr.txt`` in ``folder``, not to pipes: a pipe is open as long as anything that the program
    started lives, and whoever reads to its end waits as long.
    """
    with open(folder / "stdout.txt", "wb") as out, open(folder / "stderr.txt", "wb") as errors:
        process = Program(command, environment, cwd=cwd, stdout=out, stderr=errors)
    try:
        yield process
    finally:
        process.kill_all()


def _marked(mark: str) -> list[int]:
    """The processes that have the variable, where the system tells (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
