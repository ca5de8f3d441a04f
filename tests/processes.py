"""Functions run by several processes in one group (gloo), for tests."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

# Forked from a process that has imported what is slow to import, and nothing else: neither threads nor locks are inherited.
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(["tests.processes", "run"])

SECONDS = 600.0
"""Long enough for a machine that does ten other things at the same time."""


def together(work: Callable[..., Any], processes: int, *arguments: Any, seconds: float = SECONDS) -> list[Any]:
    """What ``work(rank, *arguments)`` returns on each of ``processes`` processes of one group.

    ``work`` is a function of a module. Raises AssertionError with the tracebacks of those that fail, or when they take longer than
    ``seconds``; none is left behind.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codes = exit_codes(_keep_result, processes, folder, work, arguments, seconds=seconds)
        failures = [file.read_text() for file in sorted(folder.glob("*.txt"))]
        assert codes == [0] * processes, "\n".join([f"exit codes {codes} after at most {seconds:g} s", *failures])
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(processes)]


def mean_over_processes(results: Iterable[dict[str, torch.Tensor]]) -> None:
    """Every tensor becomes its mean over the processes, in place: what DistributedDataParallel does to gradients."""
    for values in results:
        for value in values.values():
            dist.all_reduce(value)
            value /= dist.get_world_size()


Step = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]
"""Losses and gradients of a training step, by name."""


def assert_same_step(many: Step, one: Step) -> None:
    """Losses to 1e-5 and gradients to 1e-4 are those of one process."""
    assert many[0].keys() == one[0].keys() and many[1].keys() == one[1].keys()
    for key, value in one[0].items():
        assert many[0][key].item() == pytest.approx(value.item(), rel=1e-5), key
    for key, gradient in one[1].items():
        torch.testing.assert_close(many[1][key], gradient, rtol=1e-4, atol=1e-5 * max(1.0, gradient.abs().max().item()), msg=key)


def exit_codes(work: Callable[..., Any], processes: int, *arguments: Any, seconds: float = SECONDS, enough: int | None = None,
               ) -> list[int | None]:
    """How each of the processes that run ``work(rank, *arguments)`` ends. When all, or ``enough`` of them, have ended, or ``seconds``
    have passed, the others are killed: None."""
    with tempfile.TemporaryDirectory() as folder:
        started = [WARM.Process(target=_run, args=(rank, processes, Path(folder), work, arguments)) for rank in range(processes)]
        try:
            for process in started:
                process.start()
            deadline = time.monotonic() + seconds
            while len(running := [process for process in started if process.exitcode is None]) > processes - (enough or processes):
                if not wait([process.sentinel for process in running], max(0.0, deadline - time.monotonic())):
                    break
            return [process.exitcode for process in started]
        finally:
            for process in started:
                if process.is_alive():
                    process.kill()
                    process.join()


def _run(rank: int, processes: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=processes)
    try:
        work(rank, *arguments)
    finally:
        dist.destroy_process_group()


def _keep_result(rank: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        torch.save(work(rank, *arguments), folder / f"{rank}.pt")
    except BaseException:
        (folder / f"{rank}.txt").write_text(f"process {rank}:\n{traceback.format_exc()}")
        raise
