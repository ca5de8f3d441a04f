"""Whether reading data keeps up with training. At the end of each epoch of a corpus the report gives the share of time that the training
waited for data, how long reading a clip took, what could not be read and why, and how many clips were silent or without a subtitle."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from omnivast.config.tasks import Modality
from omnivast.data.batch import Batch
from omnivast.data.spec import kind_of_fault
from omnivast.utils import distributed

SECONDS_BETWEEN_LINES = 60.0
"""At least this many seconds lie between two lines in the log. Small corpora have many epochs; log/data.jsonl has a line for each."""

ABSENT = {Modality.VISION: "without pictures", Modality.AUDIO: "silent", Modality.SUBTITLE: "without subtitle"}
"""Modality → the words for a clip without it."""

logger = logging.getLogger("omnivast")


class HasRows(Protocol):
    """The members of a corpus that the report reads."""

    name: str
    rows: int


@dataclass
class _Part:
    """What one process has measured of a corpus since its last report."""

    seconds: float = 0.0
    waited: float = 0.0
    clips: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    absent: Counter[str] = field(default_factory=Counter)
    """Words (see ``ABSENT``) → number of clips that lack this modality."""
    examples: dict[str, str] = field(default_factory=dict)
    """Words → id of the first such clip."""


@dataclass
class _Reading:
    """Clips that one process has read of a corpus, and the time that took its workers."""

    clips: int = 0
    seconds: float = 0.0


class DataReport:
    """Collects the measurements of one training. Every method is called on every rank. The first report of a resumed run covers only
    what it has read itself."""

    def __init__(self, corpora: Sequence[HasRows], clips: Mapping[str, int]) -> None:
        """``clips``: those trained on so far, by corpus, over all processes."""
        self._rows = {corpus.name: max(corpus.rows, 1) for corpus in corpora}
        self._epochs = {name: clips.get(name, 0) // rows for name, rows in self._rows.items()}
        self._parts = {name: _Part() for name in self._rows}
        self._step: list[str] = []
        self._reading = {name: _Reading() for name in self._rows}
        self._last_line = time.monotonic()

    def add(self, batch: Batch) -> None:
        """Count a batch that this process has read for the step that is under way."""
        part, reading = self._parts[batch.corpus], self._reading[batch.corpus]
        part.clips += len(batch)
        part.unreadable.update(kind_of_fault(reason) for _, reason in batch.unreadable)
        for modality, ids in batch.absent.items():
            if ids:
                part.absent[ABSENT[modality]] += len(ids)
                part.examples.setdefault(ABSENT[modality], ids[0])
        reading.clips, reading.seconds = reading.clips + len(batch), reading.seconds + batch.read_seconds
        self._step.append(batch.corpus)

    def step(self, step: int, seconds: float, waited: float, clips: Mapping[str, int], last: bool) -> list[dict[str, Any]]:
        """End a step: its time, and the clips so far. The rows of the corpora whose epoch it ends, or, with the ``last`` step, of all
        that were read since."""
        for name in self._step:
            self._parts[name].seconds += seconds / len(self._step)
            self._parts[name].waited += waited / len(self._step)
        self._step.clear()
        ended = [name for name, rows in self._rows.items()
                 if clips.get(name, 0) // rows > self._epochs[name] or (last and self._parts[name].clips)]
        if not ended:
            return []
        parts, reading = distributed.all_gather_objects(self._parts), distributed.all_gather_objects(self._reading)
        speeds = {name: sum(rank[name].seconds for rank in reading) / max(1, sum(rank[name].clips for rank in reading))
                  for name in self._rows}
        rows = [_row(step, name, clips[name] / self._rows[name], [rank[name] for rank in parts], speeds) for name in ended]
        for name in ended:
            self._epochs[name] = clips[name] // self._rows[name]
            self._parts[name] = _Part()
        if last or time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            for row in rows:
                logger.info("%s", _line(row, len(self._rows) > 1))
        return rows


def _row(step: int, name: str, epoch: float, parts: Sequence[_Part], speeds: Mapping[str, float]) -> dict[str, Any]:
    """A line of data.jsonl. ``parts``: the measurements of each rank; ``speeds``: corpus → seconds that reading one of its clips takes."""
    waits = [part.waited / max(part.seconds, 1e-9) for part in parts]
    unreadable: Counter[str] = sum((part.unreadable for part in parts), Counter())
    absent: Counter[str] = sum((part.absent for part in parts), Counter())
    examples = {what: clip_id for part in reversed(parts) for what, clip_id in part.examples.items()}
    return {"step": step, "corpus": name, "epoch": epoch, "clips": sum(part.clips for part in parts),
            "seconds": max(part.seconds for part in parts), "data_wait": sum(waits) / len(waits), "data_wait_by_rank": waits,
            "read_seconds_per_clip": speeds[name], "slowest_corpus": max(speeds, key=lambda other: speeds[other]),
            "unreadable": dict(unreadable.most_common()),
            "absent": {what: {"clips": count, "first": examples[what]} for what, count in absent.most_common()}}


def _line(row: Mapping[str, Any], several: bool) -> str:
    """A row in words. ``several``: there are several corpora, so the slowest is named."""
    waits, faults = row["data_wait_by_rank"], row["unreadable"]
    worst = max(range(len(waits)), key=lambda rank: waits[rank])
    text = (f"data of {row['corpus']} up to epoch {row['epoch']:.3g}: waited for {100 * row['data_wait']:.1f} % of {row['seconds']:.0f} s"
            + (f" (rank {worst}: {100 * waits[worst]:.1f} %)" if waits[worst] > 2 * row["data_wait"] + 0.01 else "")
            + f"; reading a clip takes a process {1000 * row['read_seconds_per_clip']:.0f} ms"
            + (f" (slowest: {row['slowest_corpus']})" if several else ""))
    text += "".join(f"; {absent['clips']} of {row['clips']} {what} ('{absent['first']}' first)" for what, absent in row["absent"].items())
    return text + (f"; {sum(faults.values())} unreadable: " + ", ".join(f"{count} x {reason}" for reason, count in faults.items())
                   if faults else "")
