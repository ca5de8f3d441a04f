"""Help before anything is installed: what comes first is the usage."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("verb", ["quickstart", "ablation", "compare-losses", "zero-shot", "avllm", "conversations"])
def test_without_any_package(verb):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-S", "-m", "omnivast", verb, "--help"], cwd=ROOT, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: python -m omnivast {verb}"), done.stdout


def test_readers_of_a_long_list_may_leave():
    """As in ``… | head``: no traceback, and the status that the shell gives a program whose pipe is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "omnivast", "weights", "--list"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE,
                          text=True)
    os.close(writer)
    assert done.returncode == 141 and "Traceback" not in done.stderr
