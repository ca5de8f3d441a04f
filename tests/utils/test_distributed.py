"""Collectives with gradient on two processes (gloo), and what they are on one."""

import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from omnivast.utils import distributed
from omnivast.utils.distributed import Routes
from omnivast.utils.transfer import send
from tests.processes import together

ROWS = torch.arange(12.0).view(6, 2)
WEIGHTS = torch.tensor([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0], [13.0, 17.0], [19.0, 23.0], [29.0, 31.0]])
ASKED = {0: [5, 0, 5, 3], 1: [4]}
"""Global rows that each process fetches: twice the same, others' and its own, of different numbers; rows 1 and 2 not at all."""
FACTOR = {0: 1.0, 1: 10.0}


def work(rank: int) -> dict[str, Any]:
    own = ROWS[3 * rank:3 * rank + 3].clone().requires_grad_()
    result = {}

    gathered = distributed.gather_rows(own, True)
    (gathered * WEIGHTS * FACTOR[rank]).sum().backward()
    result["gathered"], result["gather gradient"] = gathered.detach(), own.grad.clone()
    result["cut off"] = not distributed.gather_rows(own, False).requires_grad

    own.grad = None
    routes, nothing = (send(Routes.of([np.array(ASKED[0]), np.array(second, dtype=int)], 3), "cpu") for second in (ASKED[1], []))
    fetched = distributed.fetch_rows(own, routes)
    (fetched * FACTOR[rank] * torch.arange(1, len(fetched) + 1)[:, None]).sum().backward()
    result["fetched"], result["fetch gradient"] = fetched.detach(), own.grad.clone()
    result["fetched integers"] = distributed.fetch_rows(own.detach().long(), routes)
    result["fetched from hosts"] = distributed.fetch_host_rows([own.detach().long().numpy()], [routes], torch.device("cpu"))
    result["fetched nothing"] = distributed.fetch_rows(own.detach(), nothing).shape[0]

    parts = (rank + 1) * ROWS
    result["scattered"] = [distributed.scatter_sum(parts)]
    with pytest.MonkeyPatch.context() as patch:  # as on GPUs
        patch.setattr(dist, "get_backend", lambda: "nccl")
        result["scattered"].append(distributed.scatter_sum(parts))
    half = distributed.fetch_rows(own, routes, torch.bfloat16)
    own.grad = None
    half.sum().backward()
    result["fetched in half"], result["half gradient"] = half.detach(), own.grad.clone()

    result["any"] = [distributed.any_process(rank == 1), distributed.any_process(False)]
    result["objects"] = distributed.all_gather_objects({"rank": rank})
    result["numbers"] = distributed.gather_numbers(torch.tensor([rank, 2 - rank])).tolist()
    result["numbers and facts"] = distributed.gather_numbers(torch.tensor([rank]), np.array([7 + rank, 9])).tolist()
    result["who"] = [distributed.rank(), distributed.world_size(), distributed.is_main()]
    distributed.barrier()
    return result


@pytest.fixture(scope="module")
def results():
    return together(work, 2)


def test_gathered_rows_and_the_gradient_of_everyone(results):
    for rank, result in enumerate(results):
        assert torch.equal(result["gathered"], ROWS) and result["cut off"]
        assert torch.equal(result["gather gradient"], 11 * WEIGHTS[3 * rank:3 * rank + 3])


def test_fetched_rows_send_their_gradient_to_the_owner(results):
    for rank, result in enumerate(results):
        assert torch.equal(result["fetched"], ROWS[ASKED[rank]])
        assert torch.equal(result["fetched integers"], ROWS[ASKED[rank]].long())
        assert [rows.tolist() for rows in result["fetched from hosts"]] == [ROWS[ASKED[rank]].long().tolist()]
        assert result["numbers and facts"] == [[0, 7, 9], [1, 8, 9]]
    # Process 0 weighs its rows 5, 0, 5, 3 by 1, 2, 3, 4; process 1 its row 4 by 10.
    wanted = torch.tensor([2.0, 0, 0, 4, 10, 1 + 3])[:, None].expand(6, 2)
    assert torch.equal(torch.cat([result["fetch gradient"] for result in results]), wanted)
    assert [result["fetched nothing"] for result in results] == [4, 0]


def test_sums_scattered_by_either_way(results):
    for rank, result in enumerate(results):
        assert all(torch.equal(found, 3 * ROWS[3 * rank:3 * rank + 3]) for found in result["scattered"])


def test_rows_that_travel_in_half_precision(results):
    for rank, result in enumerate(results):
        assert result["fetched in half"].dtype is torch.bfloat16 and torch.equal(result["fetched in half"].float(), ROWS[ASKED[rank]])
    counts = torch.tensor([1.0, 0, 0, 1, 1, 2])[:, None].expand(6, 2)
    assert torch.equal(torch.cat([result["half gradient"] for result in results]), counts)


def test_flags_objects_and_ranks(results):
    for rank, result in enumerate(results):
        assert result["any"] == [True, False] and result["objects"] == [{"rank": 0}, {"rank": 1}]
        assert result["numbers"] == [[0, 2], [1, 1]] and result["who"] == [rank, 2, rank == 0]


def test_one_process_needs_no_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.setup("cpu") == torch.device("cpu") and not dist.is_initialized()
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank(), distributed.is_main()) == (0, 1, 0, True)
    rows = ROWS.clone().requires_grad_()
    assert distributed.gather_rows(rows, True) is rows and not distributed.gather_rows(rows, False).requires_grad
    assert torch.equal(distributed.fetch_rows(rows, send(Routes.of([np.array([3, 3, 0])], 6), "cpu")), rows[[3, 3, 0]])
    assert distributed.gather_numbers(torch.tensor([4, 5])).tolist() == [[4, 5]]
    assert distributed.all_gather_objects("x") == ["x"] and distributed.any_process(True) and not distributed.any_process(False)
    distributed.barrier()
    distributed.teardown()


def test_the_launchers_environment_makes_a_group(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    distributed.setup("cpu")
    try:
        assert dist.is_initialized() and dist.get_backend() == "gloo" and distributed.world_size() == 1
    finally:
        distributed.teardown()
    assert not dist.is_initialized()


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_a_launcher_that_is_killed_takes_its_processes_along(tmp_path):
    own = ("import pathlib, signal, sys, time\nfrom utils.distributed import end_with_launcher\nplace = pathlib.Path(sys.argv[1])\n"
           "signal.signal(signal.SIGTERM, lambda *_: (place / 'told').touch() or sys.exit())\n"
           "end_with_launcher()\n(place / 'ready').touch()\ntime.sleep(900)\n")
    launcher = subprocess.Popen([sys.executable, "-c", "import subprocess, sys\nsubprocess.run([sys.executable, '-c', *sys.argv[1:]])", own,
                                 tmp_path], env={**os.environ, "TORCHELASTIC_RUN_ID": "x"}, cwd=Path(__file__).parents[2])
    wait_for(tmp_path / "ready")
    launcher.kill()
    launcher.wait()
    wait_for(tmp_path / "told")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 600
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="device 'cuda' was asked for, but torch finds no GPU; use --device cpu or auto"):
        distributed.device("cuda")


def test_a_group_started_again_does_not_meet_its_dead():
    """On a store that keeps what an earlier start left there, whoever comes first."""
    store, limit = dist.HashStore(), timedelta(seconds=300)

    def start(order: list[int]) -> list[str]:
        """What each of three processes reads in its store of rank 0's writing, and of the start before."""
        found: dict[int, dist.Store] = {}
        threads = [threading.Thread(target=lambda rank=rank: found.update({rank: distributed.agreed_store(store, rank, 3, limit)}))
                   for rank in order]
        for thread in threads:
            thread.start()
            thread.join(0.2)
        for thread in threads:
            thread.join(300)
        assert not any(own.check(["address"]) for own in found.values())
        found[0].set("address", "here")
        return [found[rank].get("address").decode() for rank in range(3)]

    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        assert start(order) == ["here"] * 3
    with pytest.raises(RuntimeError, match="rank 1 found no rank 0 within 0:00:00.200000"):
        distributed.agreed_store(dist.HashStore(), 1, 2, timedelta(seconds=0.2))
