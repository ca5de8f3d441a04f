"""Clocks, peak memory, and the training step that is timed."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks import plain, plain_valor, workload
from benchmarks.workload import Workload
from omnivast.utils.random import StepRandom

PLAIN: dict[str, Any] = {"vast": plain, "gram": plain, "valor": plain_valor}
"""The plain way of each family."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_Found = TypeVar("_Found")


class Timer:
    """Medians of alternating runs."""

    def __init__(self, clock: str, repeats: int) -> None:
        self.name, self.clock, self.repeats = clock, CLOCKS[clock], repeats

    def seconds(self, *ways: Callable[[], Any]) -> list[float]:
        """Median seconds of each way; the first round is not counted."""
        times: list[list[float]] = [[] for _ in ways]
        for _ in range(self.repeats + 1):
            for own, way in zip(times, ways):
                start = self.clock()
                way()
                own.append(self.clock() - start)
        return [statistics.median(own[1:]) for own in times]

    def compare(self, plain_way: Callable[[], Any], our_way: Callable[[], Any], equal: bool, per: int = 1) -> dict[str, Any]:
        """Seconds of both per unit of work, the ratio, and the equality found."""
        theirs, ours = self.seconds(plain_way, our_way)
        return {"plain_s": theirs / per, "ours_s": ours / per, "ratio": theirs / ours, "equal": equal}


def train_step(model: Any, way: str, size: Workload, encoded: bool = False) -> Callable[[], dict[str, torch.Tensor]]:
    """A step: forward, backward and AdamW; each call takes the next one. ``encoded``: what the towers give is there already."""
    batch, task, number = workload.batch(size), workload.task(size), 0
    if way == "plain" and size.model == "valor":
        plain_valor.as_released(model)
    if encoded:
        with torch.no_grad():
            tokens = [model.vision_tokens(batch.frames), model.audio_tokens(batch.spectrograms)]
        model.vision_tokens, model.audio_tokens = (lambda _, own=own: own for own in tokens)
    optimizer = workload.our_optimizer(model) if way == "ours" else torch.optim.AdamW(model.parameters(), 1e-4, (0.9, 0.98))

    def step() -> dict[str, torch.Tensor]:
        nonlocal number
        number += 1
        draws = StepRandom(0, number)
        losses = model(batch, task, draws) if way == "ours" else PLAIN[size.model].training_losses(model, batch, task, draws)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # after the step, as training/loop.py does: no gradients lie beside the activations
        return {name: value.detach() for name, value in losses.items()}

    return step


def peak_bytes() -> int:
    """Most resident memory of this process so far. Linux; ru_maxrss would include the parent's peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def in_process(work: Callable[..., _Found], *arguments: Any) -> _Found:
    """``work(*arguments)`` in a fresh process, whose memory is its own. Raises RuntimeError where that fails."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, work, torch.get_num_threads(), arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"a process measuring {work.__name__} ended without a result; its error stands above") from None
    finally:
        process.join()


def _send(sender: Any, work: Callable[..., Any], threads: int, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    sender.send(work(*arguments))
