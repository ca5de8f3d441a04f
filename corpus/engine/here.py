"""Runs a stage within this process: for models, which are loaded once on a machine, see many items at once, and use all its cores or its
GPU themselves. Other machines, or other processes with a GPU each, run the same command on the same folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

from omnivast.corpus.engine.leases import Lease
from omnivast.corpus.engine.results import Row, ShardResults, lines_of_unfinished
from omnivast.corpus.engine.workers import POLL, Stage
from omnivast.utils.log import Progress

Results = Callable[[Sequence[Row], int], Iterator[Row]]
"""(all items of a shard, how many of them have results) → the results of the others, in order. What comes of an item does not depend on
where the shard was begun anew: who works in batches makes the same ones as if nothing were there."""


def run_here(stage: Stage, results: Results) -> None:
    """Until every shard is done, by whomever; ``results`` takes the place of the stage's function. What it raises ends the run, and the
    shard is free for others."""
    leases = stage.leases
    leases.open(list(stage.sizes))

    def finished() -> int:
        return sum(stage.sizes.get(shard, 0) for shard in os.listdir(leases.done)) + lines_of_unfinished(stage.folder)

    bar = stage.view.bar(stage.name, sum(stage.sizes.values()), stage.unit, finished())
    with bar:
        while leases.counts()[2] < len(stage.sizes):
            leases.put_back_the_dead()
            lease = leases.claim()
            if lease is None:
                time.sleep(POLL)
                continue
            with lease:
                try:
                    _work_on(stage, lease, results, bar)
                except BaseException:
                    lease.give_back()
                    raise
            bar.update(max(0, finished() - bar.count))


def _work_on(stage: Stage, lease: Lease, results: Results, bar: Progress[Row]) -> None:
    own = ShardResults(stage.folder, lease.shard, lease.owner)
    there = own.open()
    if there >= 0:
        try:
            items = stage.items(lease.shard)
            for row in results(items, there) if there < len(items) else ():
                if lease.lost:
                    return
                own.append(row)
                bar.update()
            own.finish()
        finally:
            own.close()
    lease.finish()


def one_by_one(stage: Stage) -> Results:
    """The stage's own function, for each item alone."""
    def results(items: Sequence[Row], there: int) -> Iterator[Row]:
        for item in items[there:]:
            yield stage.function(item, stage.settings)

    return results


def batches(items: Sequence[Row], there: int, size: int) -> Iterator[tuple[Sequence[Row], int]]:
    """(a batch, how many of its items have results) for each batch of which something lacks: the same batches wherever one begins, since
    numbers that are computed together may differ in their last bits from those that are not."""
    for start in range(there // size * size, len(items), size):
        yield items[start : start + size], max(0, there - start)
