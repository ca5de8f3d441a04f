"""Cost against size: our step by groups and frames, and matching by texts per memory, each size in a process of its own.

Groups and texts that share what was encoded and projected should cost their own texts alone, and frames the vision tower alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import workload
from benchmarks.flops import step_flops
from benchmarks.measure import Timer, in_process, peak_bytes, train_step
from benchmarks.workload import Workload
from omnivast.config.tasks import Group

log = logging.getLogger("omnivast")
GROUPS = ("tvas", "tva", "tvs", "tv", "ta")
"""The first has all modalities: the others add texts alone."""
AXES: dict[str, tuple[int, ...]] = {"groups": (1, 2, 3, 4, 5), "frames": (1, 2, 4, 8, 16), "texts_per_memory": (1, 4, 16, 64, 256)}


def sized(size: Workload, axis: str, number: int) -> Workload:
    """The workload with so many groups, or frames."""
    if axis == "groups":
        return size.with_value(task="_".join("%".join((objective, *GROUPS[:number])) for objective in ("ret", "cap")))
    return size.with_value(frames=number)


def step_cost(size: Workload, clock: str, repeats: int) -> dict[str, Any]:
    """Seconds and peak memory of our step; its FLOPs, of the towers with the memory's keys and values, and of texts."""
    model = workload.build(size)
    (seconds,) = Timer(clock, repeats).seconds(train_step(model, "ours", size))
    parts = step_flops(size, workload.batch(size))
    clips, texts = parts["towers"] + parts["memory"], parts["texts"] + parts["vocabulary"]
    return {"seconds": seconds, "bytes": peak_bytes(), "clip_gflop": clips / 1e9, "text_gflop": texts / 1e9}


@torch.no_grad()
def match_cost(size: Workload, count: int, clock: str, repeats: int) -> dict[str, Any]:
    """Seconds of matching ``count`` texts with each of two clips, from features; peak memory."""
    model, group = workload.build(size).eval(), Group.parse("tvas")
    features = model.encode(workload.batch(size.with_value(clips=2)), list(group))
    texts = workload.texts(count, size.caption_tokens, size.max_caption, size.vocabulary, torch.Generator().manual_seed(1))
    ids, mask = texts.ids.repeat(2, 1), texts.mask.repeat(2, 1)
    rows = torch.arange(2).repeat_interleave(count)
    (seconds,) = Timer(clock, repeats).seconds(lambda: model.match(model.memory(features), group, ids, mask, rows))
    return {"seconds": seconds, "bytes": peak_bytes()}


def measure(size: Workload, clock: str, repeats: int, axes: dict[str, tuple[int, ...]] | None = None) -> dict[str, Any]:
    """``{axis: {number: {"seconds", "bytes", …}}}``, a line of the log for each as soon as it is known."""
    table: dict[str, Any] = {}
    for axis, numbers in (axes or AXES).items():
        table[axis] = {}
        for number in numbers:
            work: tuple[Callable[..., dict[str, Any]], ...] | tuple[Any, ...]
            if axis == "texts_per_memory":
                work = (match_cost, size, number, clock, repeats)
            else:
                work = (step_cost, sized(size, axis, number), clock, repeats)
            found = table[axis][number] = in_process(*work)
            log.info("%-16s %4d   %9.3f s   %8.1f MB%s", axis, number, found["seconds"], found["bytes"] / 1e6,
                     f"   clips {found['clip_gflop']:8.1f} GFLOP   texts {found['text_gflop']:8.1f} GFLOP" if "clip_gflop" in found else "")
    return table
