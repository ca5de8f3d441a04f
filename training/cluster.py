"""``--dry_run --simulate 64xA100-80GB``: what a training would need of each GPU of a cluster, and about how fast it would be, found out
without one."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from omnivast.config.schema import RunConfig
from omnivast.config.tasks import Task
from omnivast.data.batch import Batch
from omnivast.training.cards import find_cluster, step_seconds
from omnivast.training.estimate import SPARE
from omnivast.training.simulate import simulated_step

logger = logging.getLogger("omnivast")


def simulate(model: nn.Module, batch: Batch, task: Task, run: RunConfig, clips: int, moments: int) -> dict[str, Any]:
    """What the cluster of ``run.simulate`` gives a training of ``clips`` clips a step over all processes (and each of the
    gradient_accumulation_steps batches), like those of ``batch``.

    Memory of one process is taken at two sizes of its batch, between which it grows by the same for every clip. Raises ValueError for a
    cluster that is not known, or a step that cannot be shared out.
    """
    assert run.simulate is not None, "called where there is a cluster"
    processes, name, card = find_cluster(run.simulate, run.simulate_constants)
    if clips % processes:
        near = sorted({max(1, clips // processes) * processes, (clips // processes + 1) * processes})
        raise ValueError(f"run_cfg.simulate {run.simulate}: {clips} clips of a step cannot be shared out among {processes} processes; "
                         f"take {' or '.join(map(str, near))}")
    own = clips // processes
    step = simulated_step(model, batch, task, run, own, processes, moments)
    more = simulated_step(model, batch, task, run, 2 * own, processes, moments)
    room, needed = card.memory * (1 - SPARE), step.memory["together"]
    per_clip = max(1, (more.memory["together"] - needed) // own)
    times = step_seconds(card, step)
    return {
        "cluster": f"{processes:,} x {name}", "parallel": run.parallel, "clips of each": own, "batches": step.batches,
        "memory": step.memory, "fits": needed <= room, "largest batch of each": max(0, own + int((room - needed) // per_clip)),
        "collectives": {kind: {"count": count, "sent": round(sent), "received": round(received)}
                        for kind, (count, sent, received) in step.collectives.by_name().items()},
        "sent": step.sent,
        "seconds": {"compute": times.compute, "of it the host": times.host, "exchanges waited for": times.exchange,
                    "update": times.update, "step": times.step, "exchanges beside computing": times.hidden},
        "mfu": times.mfu, "clips per second": clips * step.batches / times.step}


def lines(found: dict[str, Any]) -> list[str]:
    """What :func:`simulate` has found, in words."""
    memory, seconds = found["memory"], found["seconds"]
    parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in memory.items() if name != "together")
    times = ", ".join(f"{name} {value:.3g}" for name, value in seconds.items() if name != "step")
    exchanges = "; ".join(f"{own['count']:,} {kind} {own['sent'] / 1e6:,.1f} MB" for kind, own in found["collectives"].items())
    verdict = "fits" if found["fits"] else "DOES NOT FIT"
    return [
        f"{found['cluster']}, {found['parallel']}, {found['clips of each']:,} clips of each: {verdict}: "
        f"{memory['together'] / 1e9:.1f} GB each ({parts}); the largest batch of each is {found['largest batch of each']:,} clips",
        f"estimated: {seconds['step']:.3g} s a step ({times}), {found['clips per second']:,.0f} clips/s, {100 * found['mfu']:.0f} % MFU; "
        "from a table of constants, not measured",
        f"each sends in a step: {exchanges}"]
