"""What a test starts is gone when it ends: children, daemons that left the group of processes, and who holds its output open."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.programs import _marked, program

DAEMON = """
import os, sys, time
if not os.fork():
    os.setsid()
    if not os.fork():
        print("daemon", flush=True)
        time.sleep(100)
    os._exit(0)
time.sleep(float(sys.argv[1]))
"""


def began(folder) -> bool:
    end = time.monotonic() + 60
    while "daemon" not in (folder / "stdout.txt").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="daemons are found through /proc")
@pytest.mark.parametrize("seconds", ["0", "100"])
def test_nothing_of_a_program_is_left(tmp_path, seconds):
    with program([sys.executable, "-c", DAEMON, seconds], tmp_path) as started:
        assert began(tmp_path) and _marked(started.mark)
        if seconds == "0":
            started.wait(60)
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                started.wait(0.01)
    end = time.monotonic() + 60
    while _marked(started.mark):
        assert time.monotonic() < end
        time.sleep(0.01)
