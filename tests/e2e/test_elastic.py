"""torchrun starts a broken group again, on one machine or two, and the run ends with the weights of an unbroken one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.e2e.program import start
from utils.log import read_jsonl

LAUNCHER = ("-m", "torch.distributed.run")
ONE_NODE = (*LAUNCHER, "--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--max-restarts", "1")
FLAGS = ("--train_steps", "7", "--save_every", "2", "--tensorboard", "false")
LAST = 14
TIMEOUT = 200


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        text, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, text


def rows(folder: Path) -> list[dict]:
    return read_jsonl(folder / "log" / "metrics.jsonl")


def wait_for_steps(process: subprocess.Popen[str], folder: Path, steps: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while len(rows(folder)) < steps:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


def process_of_rank(agent: int, rank: int) -> int:
    """The process id of a rank that the agent started."""
    for entry in Path("/proc").iterdir():
        try:
            child = entry.name.isdigit() and f"\nPPid:\t{agent}\n" in (entry / "status").read_text()
            if child and f"RANK={rank}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no process of rank {rank} under {agent}")


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
    status, text = finish(start(clips.only_train(folder, *FLAGS), ONE_NODE))
    assert status == 0, text
    return folder


def test_a_rank_killed_in_the_middle(clips, unbroken, tmp_path):
    agent = start(clips.only_train(tmp_path / "run", *FLAGS, "--resume", "true"), ONE_NODE)
    wait_for_steps(agent, tmp_path / "run", 5)
    os.kill(process_of_rank(agent.pid, 1), signal.SIGKILL)
    status, text = finish(agent)
    assert status == 0, text
    assert "nothing to resume" in text and f"of {LAST}" in text.split("resuming after step")[1]
    assert_as_unbroken(tmp_path / "run", unbroken)


def test_a_rank_that_hangs_is_named_and_the_group_starts_again(clips, unbroken, tmp_path):
    agent = start(clips.only_train(tmp_path / "run", *FLAGS, "--resume", "true", "--hang_minutes", "0.2"), ONE_NODE)
    wait_for_steps(agent, tmp_path / "run", 5)
    stopped = process_of_rank(agent.pid, 1)
    os.kill(stopped, signal.SIGSTOP)
    log, deadline = tmp_path / "run" / "log" / "log.txt", time.monotonic() + TIMEOUT
    while "no progress for" not in log.read_text():
        assert agent.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    # torchrun ends what does not answer SIGTERM after 30 s; it need not be waited for here.
    os.kill(stopped, signal.SIGKILL)
    status, text = finish(agent)
    assert status == 0, text
    assert f"rank 1 (process {stopped} on " in text and "does not answer and was last at step " in text
    assert "Exiting with status 75" in text and "resuming after step" in text
    assert_as_unbroken(tmp_path / "run", unbroken)


def test_two_machines(clips, unbroken, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    agents = []
    for machine in range(2):
        launcher = (*LAUNCHER, "--nnodes", "2", "--nproc_per_node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}",
                    "--rdzv-id", "two", "--rdzv-conf", f"is_host={1 - machine}", "--max-restarts", "1")
        agents.append(start(clips.only_train(tmp_path / "run", *FLAGS, "--resume", "true"), launcher))
    try:
        wait_for_steps(agents[0], tmp_path / "run", 5)
        # The rank of the second machine: the first one's agent has to take notice and start its own again.
        os.kill(process_of_rank(agents[1].pid, 1), signal.SIGKILL)
        results = [finish(agent) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [status for status, _ in results] == [0, 0], "\n".join(text for _, text in results)
    assert any("resuming after step" in text for _, text in results)
    assert_as_unbroken(tmp_path / "run", unbroken)
