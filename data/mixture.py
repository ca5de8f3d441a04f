"""Which corpus at which step, and which rows: functions of the seed and the step alone, the same on all processes, so that a
run resumed at any step, or on another number of processes, reads what an unbroken one reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from omnivast.config.schema import DatasetConfig
from omnivast.config.tasks import Task
from omnivast.data.annotations.identity import Identity
from omnivast.data.spec import DataError
from omnivast.utils.random import generator, stable_seed


@dataclass
class Corpus:
    """One corpus of a training run."""

    name: str
    rows: int
    steps: int
    """Optimiser steps with this corpus."""
    task: Task
    batch_size: int
    """Clips per batch over all processes; a step takes ``gradient_accumulation_steps`` batches."""
    config: DatasetConfig
    shards: torch.Tensor | None = None
    """(rows,) the shard of each row, where ``config.shuffle_shards`` of them are read at a time."""
    identity: Identity = field(default_factory=dict)
    """The corpus's fingerprint (data/annotations/identity.py)."""
    hard_negatives: Mapping[int, list[int]] | None = None
    """Row → rows of clips that are mistaken for it (data/hard_negatives.py)."""
    phases: Sequence[torch.Tensor] = ()
    """Rows that are read first, rows that are read then, …, each for its share of the training; none: all together."""


Mix = Literal["random", "round-robin", "in-order", "interleaved"]
Plan = Sequence[Sequence[int]]


def planned_steps(config: DatasetConfig, rows: int, accumulation: int) -> int:
    """Optimiser steps by the config's ``steps``, or by its ``epoch``, rounded up, or of whole batches alone (``whole_batches``). Raises
    DataError unless one of them is given."""
    if (config.steps is None) == (config.epoch is None):
        given = "neither is" if config.steps is None else "both are"
        raise DataError(f"dataset '{config.name}': give either 'epoch' or 'steps' ({given} given)")
    if config.steps is not None:
        return config.steps
    if config.whole_batches:
        batches = rows // (config.batch_size * accumulation)
        if not batches:
            raise DataError(f"dataset '{config.name}': its {rows} clips do not fill a step of {config.batch_size * accumulation}, and "
                            "whole_batches counts whole ones alone: lower batch_size, or give steps")
        return int(batches * (config.epoch or 0.0))
    return math.ceil(rows * (config.epoch or 0.0) / (config.batch_size * accumulation))


def scale_steps(steps: Sequence[int], total: int | None) -> list[int]:
    """``steps`` brought to a sum of ``total`` in the same proportions (largest remainders are rounded up first)."""
    if total is None or sum(steps) == total:
        return list(steps)
    exact = [total * count / sum(steps) for count in steps]
    scaled = [math.floor(value) for value in exact]
    order = sorted(range(len(steps)), key=lambda i: (scaled[i] - exact[i], i))
    for i in order[: total - sum(scaled)]:
        scaled[i] += 1
    return scaled


def _order_of(turns: np.ndarray, seed: int, mix: Mix, stage: int) -> np.ndarray:
    """(sum of turns,) the index of the corpus that has each turn; ``turns``: how many turns each corpus gets."""
    owners = np.repeat(np.arange(len(turns), dtype=np.int16), turns)
    if mix == "random":
        # The stages of a run that was made longer draw anew; the first draws as a run without any.
        draws = np.random.Generator(np.random.PCG64(stable_seed(seed, "mixture", *([stage] if stage else []))))
        return draws.permutation(owners)
    if mix == "in-order":
        return owners
    due = np.concatenate([(np.arange(n) + 0.5) / max(n, 1) for n in turns]) if len(turns) else np.empty(0)
    return owners[np.argsort(due, kind="stable")]


class Mixture:
    """The plan of a whole run."""

    def __init__(self, corpora: Sequence[Corpus], *, seed: int, accumulation: int = 1, mix: Mix = "random", plan: Plan = ()) -> None:
        """Every corpus gets exactly its steps: in a seeded random order, taking turns as evenly as their shares allow, or one corpus
        after the other (a curriculum). Interleaved: the micro-batches of a step take turns in this way, so that one step is the mean
        over several corpora, each weighted by its share of the micro-batches.

        ``plan``: the steps of each corpus, once for each time that the run was made longer. What was planned first comes first, as it was
        planned; the steps that were added follow, mixed in the same way."""
        self.corpora, self.seed, self.accumulation = list(corpora), seed, accumulation
        stages = np.array(plan or [[corpus.steps for corpus in corpora]], dtype=np.int64)
        self.total_steps = int(stages[-1].sum())
        self._together = 1 if mix == "interleaved" else accumulation
        """Consecutive micro-batches that read the same corpus, which make a turn."""
        added = np.diff(stages, axis=0, prepend=0) * (accumulation // self._together)
        self._owners = np.concatenate([_order_of(turns, seed, mix, stage) for stage, turns in enumerate(added)])
        self._earlier = np.empty(len(self._owners), dtype=np.int64)
        for corpus, count in enumerate(added.sum(axis=0)):
            self._earlier[self._owners == corpus] = np.arange(count)
        self._orders: dict[int, tuple[tuple[int, int], torch.Tensor]] = {}
        self._planned = [int(steps) * accumulation * own.batch_size for steps, own in zip(stages[0], corpora)]
        """Clips of each corpus over the training, as planned at first."""

    def corpus_at(self, step: int, micro: int = 0) -> int:
        """Index of the corpus that micro-batch ``micro`` of optimiser step ``step`` reads."""
        return int(self._owners[(step * self.accumulation + micro) // self._together])

    def steps_by_corpora(self, start: int) -> dict[str, int]:
        """How many of the steps from ``start`` on read which corpora; several of one step are joined by a plus, in the order of names."""
        turns = self._owners.reshape(self.total_steps, -1)[start:]
        read, counts = np.unique(np.sort(turns, axis=1), axis=0, return_counts=True)
        steps: dict[str, int] = {}
        for row, count in zip(read.tolist(), counts.tolist()):
            name = "+".join(sorted({self.corpora[i].name for i in row}))
            steps[name] = steps.get(name, 0) + count
        return steps

    def batch(self, step: int, micro: int) -> tuple[int, list[tuple[int, int]]]:
        """The corpus and the global batch of micro-batch ``micro`` of a step, as (position, row). Positions count the clips read
        of a corpus since the start of training: clip ``p`` belongs to epoch ``p // rows``, each of which is a new order of all rows."""
        corpus = self.corpus_at(step, micro)
        size = self.corpora[corpus].batch_size
        turn, place = divmod(step * self.accumulation + micro, self._together)
        first = (int(self._earlier[turn]) * self._together + place) * size
        positions = range(first, first + size)
        rows = [self._row(corpus, position) for position in positions]
        if self.corpora[corpus].hard_negatives is not None:
            self._put_hard_negatives(self.corpora[corpus], positions, rows)
        return corpus, list(zip(positions, rows))

    def _put_hard_negatives(self, corpus: Corpus, positions: Sequence[int], rows: list[int]) -> None:
        """Replace every second row by a hard negative of the one before it, drawn among those that the batch has not yet, if any."""
        for place in range(1, len(rows), 2):
            free = [row for row in (corpus.hard_negatives or {}).get(rows[place - 1], ()) if row not in rows]
            if free:
                draws = generator(self.seed, "hard_negative", corpus.name, positions[place])
                rows[place] = free[int(torch.randint(len(free), (), generator=draws))]

    def _row(self, corpus: int, position: int) -> int:
        phase, position, rows = self._phase(corpus, position)
        epoch, place = divmod(position, rows)
        kept = self._orders.get(corpus)
        if kept is None or kept[0] != (phase, epoch):
            kept = self._orders[corpus] = ((phase, epoch), self._order(self.corpora[corpus], epoch, phase))
        return int(kept[1][place])

    def _phase(self, corpus: int, position: int) -> tuple[int, int, int]:
        """(the phase of a corpus in which a position is, the position within it, the rows of the phase). A run that was made longer goes
        on with the last one."""
        phases, rows, first = self.corpora[corpus].phases, self.corpora[corpus].rows, 0
        for number, own in enumerate(phases[:-1]):
            length = round(self._planned[corpus] * len(own) / rows)
            if position < first + length:
                return number, position - first, len(own)
            first += length
        return (len(phases) - 1, position - first, len(phases[-1])) if phases else (0, position, rows)

    def _order(self, corpus: Corpus, epoch: int, phase: int) -> torch.Tensor:
        """(rows,) all rows, or those of a phase, in the order of an epoch: wholly at random, or at random within blocks of a few shards at
        random."""
        if corpus.phases:
            draws = generator(self.seed, "order", corpus.name, "phase", phase, epoch)
            return corpus.phases[phase][torch.randperm(len(corpus.phases[phase]), generator=draws)]
        draws = generator(self.seed, "order", corpus.name, epoch)
        order = torch.randperm(corpus.rows, generator=draws)
        if corpus.shards is None:
            return order
        blocks = torch.randperm(int(corpus.shards.max()) + 1, generator=draws) // corpus.config.shuffle_shards
        return order[torch.argsort(blocks[corpus.shards[order]], stable=True)]
