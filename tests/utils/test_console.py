import os
import subprocess
import sys
from pathlib import Path

import pytest

from omnivast.config import flags
from omnivast.config.load import load_config
from omnivast.utils.console import EXIT_STATUS

ROOT = Path(__file__).resolve().parents[2]


def unread(code: str) -> subprocess.CompletedProcess[str]:
    """A program whose standard output nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=600)
    finally:
        os.close(writer)


@pytest.mark.parametrize("lines", [1, 10_000])
def test_output_that_nobody_reads_ends_a_program_quietly(lines):
    done = unread("from omnivast.utils.console import readers_may_leave\n"
                  f"with readers_may_leave():\n for _ in range({lines}): print('a line of a long list')\n raise SystemExit(0)")
    assert (done.returncode, done.stderr) == (EXIT_STATUS, "")


def test_help_that_nobody_reads():
    done = unread("from omnivast.config.load import load_config\nload_config(['--help'])")
    assert (done.returncode, done.stderr) == (0, "")


def test_help_that_is_read(capsys):
    with pytest.raises(SystemExit) as end:
        load_config(["--help"])
    assert end.value.code == 0 and capsys.readouterr().out == flags.help_text()
