"""Two runs in one output folder: the second is refused with the holder's name; what a killed run left is taken over."""

import json
import multiprocessing
import os
import socket
import time
from pathlib import Path

import pytest

from omnivast import launch
from omnivast.training.checkpoints.checkpoint import OutputDirError
from omnivast.training.checkpoints.lock import OutputLock

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
ROOT = Path(__file__).parents[3]
FORK = multiprocessing.get_context("fork")
LONG = 600
"""Seconds that no test takes."""


def hold(folder, held, orphan):
    """Hold the lock for good, with a child that outlives this process as a data worker may."""
    with OutputLock(folder):
        worker = os.fork()
        if worker == 0:
            time.sleep(LONG)
            os._exit(0)
        orphan.value = worker
        held.set()
        time.sleep(LONG)


@pytest.fixture
def holder(tmp_path):
    held, orphan = FORK.Event(), FORK.Value("i", 0)
    process = FORK.Process(target=hold, args=(tmp_path, held, orphan))
    process.start()
    assert held.wait(LONG)
    yield process
    process.kill()
    process.join()
    os.kill(orphan.value, 9)


def test_a_second_run_is_refused_and_told_who_holds_it_before_it_writes_anything(tmp_path, holder, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(OutputDirError, match=f"process {holder.pid} on host {socket.gethostname()} since 20") as refused:
        launch.main(["--config", "config/debug/tiny.json", "--output_dir", str(tmp_path)])
    assert str(tmp_path) in str(refused.value)
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == holder.pid
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "run.lock"]


def test_the_lock_of_a_killed_run_is_taken_over_while_its_workers_linger(tmp_path, holder):
    holder.kill()
    holder.join()
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == holder.pid
    with OutputLock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / "run.lock").read_text() == ""


def test_an_unreadable_holder_is_still_a_holder(tmp_path, holder):
    (tmp_path / "run.lock").write_text("{")
    with pytest.raises(OutputDirError, match="in use by another run"), OutputLock(tmp_path):
        pass
