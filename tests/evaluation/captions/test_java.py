"""METEOR's formula against the reference's own numbers, and what happens when Java is absent, slow or broken."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from omnivast.evaluation.captions import java
from omnivast.evaluation.captions.java import java_scores
from omnivast.evaluation.metrics.meteor import meteor_of_sums, meteor_terms

CAPTIONS = ["a man runs in the big park", "two dogs", "", "a child is running quickly across a street with the balls", "a man runs"]
REFERENCES = [["a man walks in a park", "the man is running through the park"], ["two dogs bark", "a dog"], ["a dog"],
              ["children ran across the streets with a ball quickly"], ["a man runs"]]
# What pycocoevalcap's METEOR 1.5 says of them: its counts, the score of each and of all.
COUNTS = [
    [7, 6, 3, 3, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 4],
    [2, 3, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 2],
    [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [11, 9, 5, 3, 2, 2, 3, 3, 1, 1, 0, 0, 0, 0, 0, 0, 1, 2, 2, 0, 6, 9, 8],
    [3, 3, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 3],
]
EACH, ALL = [0.27858473460116234, 0.29170666383042776, 0.0, 0.2956358377413872, 1.0], 0.30455677000544634


def test_meteor_of_counts_equals_the_reference():
    terms = meteor_terms(COUNTS)
    assert meteor_of_sums(terms) == pytest.approx(EACH, abs=1e-9)
    assert meteor_of_sums(terms.sum(0)[None]) == pytest.approx([ALL], abs=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(bool(java.missing("meteor")), reason=java.missing("meteor") or "-")
def test_meteor_through_java(monkeypatch):
    monkeypatch.setattr(java, "METRICS", ("meteor",))
    found = java_scores([CAPTIONS, CAPTIONS[::-1]], REFERENCES, seconds=600)
    assert found.not_computed == {}
    assert found.meteor[0] == COUNTS and len(found.meteor[1]) == 5


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    assert java_scores([["a"]], [["a"]], seconds=0).not_computed.keys() == {"meteor", "spice"}
    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    pytest.importorskip("pycocoevalcap")
    found = java_scores([["a"]], [["a"]])
    assert found.meteor is None and found.spice is None
    assert "no 'java' on the PATH" in found.not_computed["meteor"]
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: None)
    assert 'pycocoevalcap is not installed: pip install "omnivast[java]"' in java_scores([["a"]], [["a"]]).not_computed["spice"]


def test_absent_models_are_named(monkeypatch):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr(java.shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setattr(java, "SPICE_MODELS", ("no-such-model.jar",))
    why = java.missing("spice")
    assert "no-such-model.jar" in why and "get_stanford_models.py" in why


@pytest.mark.parametrize(("program", "seconds", "why"), [
    ("import time; time.sleep(900)", 0.5, "took longer than its time limit of 0.5 seconds"),
    ("raise OSError('java ran out of memory')", 600, "failed with status 1: OSError: java ran out of memory"),
    ("pass", 600, "failed with status 0: no message"),
])
def test_a_slow_or_broken_program_is_not_fatal(monkeypatch, program, seconds, why):
    monkeypatch.setattr(java, "missing", lambda metric: "")
    monkeypatch.setattr(java, "_WORKER", program)
    start = time.monotonic()
    found = java_scores([["a"]], [["a"]], seconds)
    assert time.monotonic() - start < 600
    assert found.meteor is None and found.not_computed.keys() == {"meteor", "spice"}
    assert why in found.not_computed["meteor"]


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("sh") is None, reason="needs a shell")
def test_what_the_worker_started_ends_with_it(monkeypatch, tmp_path):
    marker = tmp_path / "pid"
    child = f"import subprocess, time; subprocess.Popen(['sh', '-c', 'echo $$ > {marker}; exec sleep 900']); time.sleep(900)"
    monkeypatch.setattr(java, "missing", lambda metric: "")
    monkeypatch.setattr(java, "METRICS", ("meteor",))
    monkeypatch.setattr(java, "_WORKER", child)
    seconds = 0.7
    while not marker.exists() or not marker.read_text():  # on a busy machine the worker may be ended before it has started anything
        java_scores([["a"]], [["a"]], seconds)
        seconds *= 3
    pid, deadline = int(marker.read_text()), time.monotonic() + 300
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether there is such a process, and not only its exit status that nobody has asked for."""
    try:
        os.kill(pid, 0)
        return " Z " not in Path(f"/proc/{pid}/stat").read_text() if Path("/proc").exists() else True
    except OSError:
        return False
