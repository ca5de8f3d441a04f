"""What a training writes about itself: metrics.jsonl, eval.jsonl, data.jsonl, performance.jsonl, unreadable.jsonl, loss_spikes.jsonl and
wall.jsonl in log/, TensorBoard and the progress bar; and which of its evaluations was best."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from omnivast.config.metrics import ACCURACY, CIDER, R1, MetricName, Ranks
from omnivast.training.checkpoints.checkpoint import OutputDirError
from omnivast.training.logs.performance import curves
from omnivast.training.logs.spikes import Spike
from omnivast.utils import distributed
from omnivast.utils.goodput import goodput, in_words, process_age
from omnivast.utils.log import JsonlWriter, Progress, progress, read_jsonl, truncate_jsonl

logger = logging.getLogger("omnivast")
ENOUGH_CLIPS = 100
"""Clips read before the share of unreadable ones means something."""
PREFERRED = ((Ranks.ITM, R1), (Ranks.ITC, R1), (None, CIDER), (None, ACCURACY))
"""Metrics by which the best checkpoint is chosen: the first of these that an evaluation has."""


class UnreadableShare(RuntimeError):  # noqa: N818 (named for what the user meets)
    """More clips than ``run_cfg.max_unreadable`` allows could not be read."""


class Monitor:
    """The logs of one training; every method may be called on every rank, and rank 0 writes."""

    def __init__(self, folder: Path, start: int, total: int, *, resumed: bool, tensorboard: bool) -> None:
        """Opens the logs; what a resumed run will write again, and all lines of an earlier run that saved nothing, are cut off."""
        self.log = folder / "log"
        self.writers: dict[str, JsonlWriter] = {}
        self.events = None
        self.unreadable_warned = 0
        if distributed.is_main():
            for name in ("metrics", "eval", "data", "performance", "unreadable", "loss_spikes"):
                path = self.log / f"{name}.jsonl"
                truncate_jsonl(path, lambda row: resumed and row.get("step", 0) <= start)
                self.writers[name] = JsonlWriter(path)
            # Steps that are done again took their time all the same: of a run that goes on, all lines stay.
            truncate_jsonl(self.log / "wall.jsonl", lambda row: resumed)
            self.writers["wall"] = JsonlWriter(self.log / "wall.jsonl")
            if tensorboard:
                self.events = _summary_writer(self.log / "tensorboard", start + 1 if resumed else 0)
        self.bar: Progress[Any] = progress(total, "training", initial=start, unit="step")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()
        for writer in self.writers.values():
            writer.close()
        if self.events is not None:
            self.events.close()

    def step(self, row: dict[str, Any] | None, shown: Mapping[str, str], left: str) -> None:
        """Advance the progress bar by a step; ``row`` (None between log steps) goes to metrics.jsonl and TensorBoard. ``left``: the time
        left, in words."""
        self.bar.set_left(left)
        self.bar.set_postfix(**shown)
        self.bar.update()
        if row is None or not self.writers:
            return
        self._append("metrics", row)
        if self.events is not None:
            for group in ("losses", "lr"):
                prefix = f"{row['corpus']}/" if group == "losses" else "lr/"
                for name, value in row[group].items():
                    self.events.add_scalar(prefix + name, value, row["step"])
            for name in ("grad_norm", "clips_per_second", "data_wait", "epoch"):
                self.events.add_scalar(f"run/{name}", row[name], row["step"])

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line of eval.jsonl: its presence means that the evaluation of ``step`` is done."""
        if not self.writers:
            return
        self._append("eval", {"step": step, **metrics})
        if self.events is not None:
            for name, value in metrics.items():
                self.events.add_scalar(f"eval/{name}", value, step)

    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of eval.jsonl, the same on every rank."""
        return distributed.all_gather_objects(read_jsonl(self.log / "eval.jsonl") if self.writers else None)[0]

    def unreadable(self, step: int, corpus: str, clips: Sequence[tuple[str, str]], so_far: int) -> None:
        """Append unreadable clips (id, reason) to unreadable.jsonl; warn at the first and then each time their number has doubled."""
        if not self.writers or not clips:
            return
        for clip, reason in clips:
            self._append("unreadable", {"step": step, "corpus": corpus, "clip_id": clip, "reason": reason})
        if so_far >= 2 * self.unreadable_warned:
            self.unreadable_warned = so_far
            clip, reason = clips[0]
            logger.warning("%d training clip(s) could not be read so far and were replaced, the last '%s' of %s: %s (all: %s)",
                           so_far, clip, corpus, reason, self.writers["unreadable"].path)

    def performance(self, row: dict[str, Any] | None) -> None:
        """A line of performance.jsonl, and its curves; None: there is none."""
        if row is None or not self.writers:
            return
        self._append("performance", row)
        if self.events is not None:
            for name, value in curves(row).items():
                self.events.add_scalar(name, value, row["step"])

    def wall(self, event: str, step: int, **values: float) -> None:
        """A line of wall.jsonl (see utils/goodput.py). "start" is dated back to when this program began."""
        if self.writers:
            before = process_age() if event == "start" else 0.0
            self._append("wall", {"event": event, "time": time.time() - before, "step": step, **values})

    def goodput(self) -> None:
        """Log what wall.jsonl tells so far."""
        found = goodput(read_jsonl(self.log / "wall.jsonl")) if self.writers else None
        if found is not None:
            logger.info("%s", in_words(found))

    def data(self, rows: Sequence[dict[str, Any]]) -> None:
        """What the end of an epoch tells about its data, by corpus: lines of data.jsonl."""
        for row in rows if self.writers else ():
            self._append("data", row)

    def spike(self, step: int, corpus: str, spike: Spike, losses: Mapping[str, float], clip_ids: list[list[list[str]]]) -> None:
        """Append a loss spike to loss_spikes.jsonl and warn. ``clip_ids``: a list per process of a list per accumulated batch."""
        if not self.writers:
            return
        self._append("loss_spikes", {"step": step, "corpus": corpus, **vars(spike), "losses": dict(losses), "clip_ids": clip_ids})
        logger.warning("step %d (corpus %s): the loss %.4g stands out from the last ones of this corpus (median %.4g, reported from %.4g "
                       "on); its clips are in %s", step, corpus, spike.loss, spike.median, spike.threshold,
                       self.writers["loss_spikes"].path)

    def sync(self) -> None:
        """Make all lines durable, before a checkpoint counts on them."""
        for writer in self.writers.values():
            with _told(writer):
                writer.sync()

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with _told(self.writers[name]):
            self.writers[name].append(row)


@contextmanager
def _told(writer: JsonlWriter) -> Iterator[None]:
    """An error of the disk becomes an OutputDirError that says what to do."""
    try:
        yield
    except OSError as error:
        raise OutputDirError(f"'{writer.path}' cannot be written ({error.strerror or error}); the last checkpoint is intact. Free the disk "
                             "or make the folder writable, then continue with --resume true") from error


class Ranking:
    """The evaluations so far, ordered by the primary metric of the latest; among equals the earlier is better.

    The start weights (step 0) are no candidate, nor is a step without that metric.
    """

    def __init__(self) -> None:
        self.evaluations: dict[int, Mapping[str, float]] = {}
        self.metric: str | None = None

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note the evaluation of ``step``; one of the same step before is forgotten."""
        name = primary_metric(metrics)
        if step and name is not None and _number(metrics[name]):
            self.evaluations[step], self.metric = dict(metrics), name

    def steps(self) -> list[int]:
        """The evaluations, best first."""
        name = self.metric
        if name is None:
            return []
        values = {step: metrics[name] for step, metrics in self.evaluations.items() if _number(metrics.get(name))}
        known = MetricName.parse(name)
        sign = 1 if known and not known.metric.higher_is_better else -1
        return sorted(values, key=lambda step: (sign * values[step], step))

    @property
    def best(self) -> dict[str, Any] | None:
        """The "step", "metric" and "value" of the best evaluation; None before the first."""
        steps = self.steps()
        return {"step": steps[0], "metric": self.metric, "value": self.evaluations[steps[0]][str(self.metric)]} if steps else None


def _number(value: float | None) -> bool:
    """Whether the value is a finite number; eval.jsonl holds null for one that is not."""
    return value is not None and math.isfinite(value)


def check_unreadable(unreadable: int, clips: int, limit: float, folder: Path) -> None:
    """Raises UnreadableShare when more than ``limit`` of what was read could not be; ``clips`` are those that could."""
    tried = clips + unreadable
    if tried >= ENOUGH_CLIPS and unreadable > limit * tried:
        raise UnreadableShare(f"{unreadable} of {tried} training clips ({100 * unreadable / tried:.1f} %) could not be read, more than "
                              f"max_unreadable = {100 * limit:g} % allows. Reasons are in '{folder / 'log' / 'unreadable.jsonl'}': repair "
                              "these clips or raise --max_unreadable, then continue with --resume true; or remove them from the "
                              "annotation file or the shards, then continue with --resume true --resume_changed_data true")


def primary_metric(metrics: Mapping[str, float]) -> str | None:
    """The metric that says which checkpoint is best: the first re-ranked R@1, else contrastive R@1, CIDEr, accuracy, else the first."""
    known = {name: parsed for name in metrics if (parsed := MetricName.parse(name))}
    preferred = (name for kind in PREFERRED for name, parsed in known.items() if (parsed.ranks, parsed.metric) == kind)
    return next(preferred, next(iter(metrics), None))


def _summary_writer(folder: Path, purge_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RuntimeError("run_cfg.tensorboard: run `pip install tensorboard`, or set --tensorboard false") from error
    return SummaryWriter(str(folder), purge_step=purge_step)
