"""torchrun starts a broken group again, on one machine or two, and the run ends with the weights of an unbroken one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from omnivast.utils.log import read_jsonl
from tests.e2e.program import TIMEOUT, Running, finish, launch

LAUNCHER = ("-m", "torch.distributed.run")
ONE_NODE = ("--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
FLAGS = ("--train_steps", "7", "--save_every", "2", "--tensorboard", "false")
LAST = 14


def rows(folder: Path) -> list[dict]:
    return read_jsonl(folder / "log" / "metrics.jsonl")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "ckpt" / f"model_step_{LAST}.pt", weights_only=True)


def assert_as_unbroken(folder: Path, unbroken: Path) -> None:
    one, other = weights(folder), weights(unbroken)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert [(row["step"], row["losses"]) for row in rows(folder)] == [(row["step"], row["losses"]) for row in rows(unbroken)]


@pytest.fixture(scope="module")
def unbroken(clips, tmp_path_factory) -> Path:
    """The output folder of two processes that were left in peace."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    status, text = Running(clips.only_train(folder, *FLAGS), processes=2).finish()
    assert status == 0, text
    return folder


def meeting(folder: Path, plan: str) -> tuple[str, ...]:
    """run.py with the accidents of ``plan``, as torchrun's module; a group that is slow to go on may be started again once more."""
    folder.mkdir()
    return ("--max-restarts", "6", "-m", "tests.e2e.accidents", str(folder), plan)


def test_a_rank_killed_and_then_one_that_hangs(clips, unbroken, tmp_path):
    """The one that hangs is named, and each time the group starts again from the last checkpoint."""
    run, accidents = tmp_path / "run", tmp_path / "accidents"
    program = meeting(accidents, "SIGKILL:1:5,SIGSTOP:1:9")
    agent = launch(clips.only_train(run, *FLAGS, "--resume", "true", "--hang_minutes", "0.15"), (*LAUNCHER, *ONE_NODE), program)
    log, deadline = run / "log" / "log.txt", time.monotonic() + TIMEOUT
    while not (accidents / "SIGSTOP").exists() or "does not answer" not in log.read_text():
        assert agent.poll() is None and time.monotonic() < deadline, finish(agent)
        time.sleep(0.05)
    # torchrun ends what does not answer SIGTERM after 30 s; it need not be waited for here.
    stopped = int((accidents / "SIGSTOP").read_text())
    os.kill(stopped, signal.SIGKILL)
    status, text = finish(agent)
    assert status == 0, text
    assert "nothing to resume" in text and f"resuming after step 4 of {LAST}" in text and f"resuming after step 8 of {LAST}" in text
    assert f"rank 1 (process {stopped} on " in text and "does not answer and was last at step " in text
    assert "Exiting with status 75" in text
    assert_as_unbroken(run, unbroken)


def test_two_machines(clips, unbroken, tmp_path):
    """The rank of the second is killed: the first one's agent has to take notice and start its own again."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    launcher = (*LAUNCHER, "--nnodes", "2", "--nproc_per_node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint",
                f"localhost:{store.port}", "--rdzv-id", "two", "--rdzv-conf", "is_host=0")
    program = meeting(tmp_path / "accidents", "SIGKILL:1:6")
    agents = [launch(clips.only_train(tmp_path / "run", *FLAGS, "--resume", "true"), launcher, program) for _ in range(2)]
    try:
        results = [finish(agent) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [status for status, _ in results] == [0, 0], "\n".join(text for _, text in results)
    assert (tmp_path / "accidents" / "SIGKILL").exists() and any("resuming after step 4" in text for _, text in results)
    assert_as_unbroken(tmp_path / "run", unbroken)
