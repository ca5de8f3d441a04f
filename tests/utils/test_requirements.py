import os
import subprocess
import sys
from pathlib import Path

import pytest

from omnivast.utils import requirements

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("program", ["run.py", "scripts/convert_checkpoint.py", "scripts/check_parity.py", "scripts/download_weights.py"])
def test_a_python_without_the_packages_is_told_so_in_one_line(program):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-S", program, "--help"], cwd=ROOT, env=environment, text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("not installed in ") and "torch, torchvision, " in line and "`bash preinstall.sh`" in line


@pytest.mark.parametrize("missing", requirements.MODULES)
def test_each_one_is_looked_for(monkeypatch, caplog, missing):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(SystemExit, match="2"):
        requirements.require_installed()
    assert f": {missing}. `bash" in caplog.text


def test_they_are_those_of_the_requirements_file():
    named = [line.split(">")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert [{"pillow": "PIL"}.get(name, name) for name in named] == list(requirements.MODULES)
