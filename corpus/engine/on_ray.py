"""The same stages on Ray Data (extra ``ray``), for clusters that have it: each shard is a row of a dataset, and results are files as ever.

The folder of the corpus, and the videos, must be at the same path on all nodes. Ray chooses where a shard is worked on; leases, results and
what happens after a kill are those of :mod:`omnivast.corpus.engine.workers`, so that either may go on with what the other began.
"""

from __future__ import annotations

import time
from typing import Any

from omnivast.config.extras import import_extra
from omnivast.corpus.engine.workers import POLL, Stage, StageError, finished, shown, work_on
from omnivast.utils.log import setup_logging


class ShardWorker:
    """What Ray keeps on a node: called with a row, it works on that shard, unless somebody else does or did."""

    def __init__(self, stage: Stage) -> None:
        setup_logging(None)
        self.stage = stage

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        lease = self.stage.leases.claim(row["shard"])
        if lease is not None:
            work_on(self.stage, lease)
        return row


def run(stage: Stage, workers: int) -> None:
    """Until every shard is done, by ``workers`` actors with a core each, on the cluster that RAY_ADDRESS names or on this machine. Raises
    ImportError without Ray, and StageError."""
    import_extra("ray")
    import ray.data
    import ray.exceptions

    ray.init(ignore_reinit_error=True, log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    leases = stage.leases
    leases.open(list(stage.sizes))
    with stage.view.bar(stage.name, sum(stage.sizes.values()), stage.unit, finished(stage)) as bar:
        while leases.counts()[2] < len(stage.sizes):
            leases.put_back_the_dead()
            waiting = leases.waiting()
            if not waiting:  # others work on what is left
                time.sleep(POLL)
                continue
            rows = ray.data.from_items([{"shard": shard} for shard in waiting], override_num_blocks=len(waiting))
            done = rows.map(ShardWorker, fn_constructor_args=(stage,), concurrency=min(workers, len(waiting)), num_cpus=1)
            try:
                for _ in done.iter_rows():
                    shown(bar, finished(stage))
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise StageError(f"{stage.name}: a worker could not go on: {reason}; the same command continues") from error
        shown(bar, finished(stage))
