"""Several datasets as one corpus of a training, whose batches are drawn from the clips of all."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence

import torch

from omnivast.config.conversation import Conversation
from omnivast.data.annotations.identity import FORMAT, Identity
from omnivast.data.annotations.rows import Row
from omnivast.data.batch import Sample
from omnivast.data.dataset import IndexedDataset
from omnivast.data.spec import DataError


class JoinedDataset:
    """The clips of datasets of one task, one dataset after the other. To a loader it is like an :class:`IndexedDataset`. Those of
    conversations may be about other tracks each; the dataset that has all of them then speaks for the corpus."""

    training = True

    def __init__(self, name: str, parts: Sequence[IndexedDataset]) -> None:
        """Raises DataError for parts that cannot be in one batch."""
        self.name, self.parts = name, list(parts)
        widest = max(parts, key=lambda part: len(part.task.modalities))
        self.config = dataclasses.replace(widest.config, name=name)
        self.task, self.lengths = widest.task, widest.lengths
        self._ends = list(itertools.accumulate(map(len, parts)))
        for part in parts[1:]:
            if not set(part.task.modalities) <= set(self.task.modalities):
                raise DataError(f"corpus '{name}' is joined of several datasets, none of which has the tracks of all: '{part.name}' has "
                                f"{part.task}, '{widest.name}' {self.task}")
            if part.lengths != self.lengths:
                raise DataError(f"datasets '{parts[0].name}' and '{part.name}' are joined as '{name}', but only one has several kinds of "
                                "captions, which are longer")
        if any(part.config.shuffle_shards for part in parts):
            raise DataError(f"corpus '{name}' is joined of several datasets, whose shards are not read a few at a time: leave out "
                            "shuffle_shards")

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def annotations(self) -> Iterator[Row]:
        """The rows of all."""
        return itertools.chain.from_iterable(part.annotations for part in self.parts)

    def identity(self) -> Identity:
        """What it consists of, to be compared when a training goes on."""
        own = [part.identity() for part in self.parts]
        sums = hashlib.sha256("".join(identity["sha256"] for identity in own).encode()).hexdigest()
        return {"format": FORMAT, "txt": " + ".join(identity["txt"] for identity in own), "rows": len(self), "sha256": sums, "block": 0,
                "marks": ""}

    def shard_numbers(self) -> torch.Tensor | None:
        return None

    def sample(self, position: int, row: int) -> Sample:
        """See IndexedDataset; the sample's index is that among all rows."""
        part, own = self._place(row)
        sample = self.parts[part].sample(position, own)
        sample.index += row - own
        return sample

    def read(self, position: int, row: int) -> Sample | tuple[str, str]:
        part, own = self._place(row)
        return self.parts[part].read(position, own)

    def row_conversations(self) -> Iterator[Conversation | None]:
        """See IndexedDataset."""
        return itertools.chain.from_iterable(part.row_conversations() for part in self.parts)

    def _place(self, row: int) -> tuple[int, int]:
        """(the dataset, the row in it)."""
        part = next(place for place, end in enumerate(self._ends) if row < end)
        return part, row - (self._ends[part - 1] if part else 0)


def corpora_of(parts: Sequence[IndexedDataset]) -> list[IndexedDataset | JoinedDataset]:
    """The corpora of a training in the order of their first datasets: those with the same ``joined`` are one."""
    groups: dict[tuple[str, bool], list[IndexedDataset]] = {}
    for part in parts:
        joined = part.config.joined
        groups.setdefault((joined or part.name, bool(joined)), []).append(part)
    return [JoinedDataset(name, own) if joined else own[0] for (name, joined), own in groups.items()]
